"""`status`: how a running service is."""

import asyncio
import sys
from typing import Annotated, Final

import typer

from api.cli.common import Config, fail, settings_of

EXIT_CODES: Final = (
    "Exit codes: 0 ready; 1 not ready, or no answer; 2 the command or a setting is wrong. "
    "Ctrl-C ends the live view with 0."
)


def status(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of one process, with server.monitor_port set its address for metrics; "
            "by default where the settings say that one listens here.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(
            min=0.2, max=3600, metavar="SECONDS", help="Seconds between looks; rates are over them."
        ),
    ] = 2.0,
    once: Annotated[
        bool,
        typer.Option("--once", help="Print it once and exit, as it is done without a terminal."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it once, as a JSON object, and exit.")
    ] = False,
    config: Config = None,
) -> None:
    """Show how a running service is, and what is wrong first.

    It asks /api/health/ready and /metrics, needs neither key nor database, and goes on when the
    service goes away and comes back.
    """
    import msgspec
    from rich.console import Console

    from api.status.client import default_url, read_url
    from api.status.live import show
    from api.status.sampling import look_twice
    from api.status.screen import screen

    blamed = "server.host" if url is None else "--url"
    try:
        address = default_url(settings_of(context, config).server) if url is None else read_url(url)
    except ValueError as error:
        fail(f"{blamed} {error}", code=2)
    console = Console(markup=False, emoji=False, highlight=False)
    # What colours are forced upon is no terminal yet.
    live = sys.stdout.isatty() and not console.is_dumb_terminal
    if live and not (once or as_json):
        asyncio.run(show(address, every, console))
        return
    state = asyncio.run(look_twice(address, every))
    if as_json:
        typer.echo(msgspec.json.encode(state).decode())
    else:
        console.print(screen(state))
    if state.state != "ready":
        raise typer.Exit(1)
