"""`status`: shows the state of a running service."""

import sys
from typing import Annotated, Final

import typer

from api.cli.common import Config, fail, settings_of

EXIT_CODES: Final = (
    "Exit codes: 0 ready; 1 not ready, or no response; 2 the command or a setting is wrong. "
    "Ctrl-C ends the live view with 0."
)


def status(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of one process; its address for metrics if server.monitor_port is set. "
            "By default the local address that the settings say.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(
            min=0.2,
            max=3600,
            metavar="SECONDS",
            help="Seconds between samples, over which rates are computed; use no less than "
            "server.metrics_max_age_s.",
        ),
    ] = 2.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Print the state once and exit; so it does without a terminal."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the state once, as a JSON object, and exit.")
    ] = False,
    config: Config = None,
) -> None:
    """Show the state of a running service; what is wrong comes first.

    It requests /api/health/ready and /metrics, needs neither an API key nor the database, and
    continues when the service stops and starts again.
    """
    import asyncio

    import msgspec
    from rich.console import Console

    from api.status.client import default_url, read_url
    from api.status.live import show
    from api.status.sampling import sample_twice
    from api.status.screen import screen

    blamed = "server.host" if url is None else "--url"
    try:
        address = default_url(settings_of(context, config).server) if url is None else read_url(url)
    except ValueError as error:
        fail(f"{blamed} {error}", code=2)
    console = Console(markup=False, emoji=False, highlight=False)
    # A console with forced colours is not necessarily a terminal.
    live = sys.stdout.isatty() and not console.is_dumb_terminal
    if live and not (once or as_json):
        asyncio.run(show(address, every, console))
        return
    state = asyncio.run(sample_twice(address, every))
    if as_json:
        typer.echo(msgspec.json.encode(state).decode())
    else:
        console.print(screen(state))
    if state.state != "ready":
        raise typer.Exit(1)
