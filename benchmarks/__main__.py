"""`python -m benchmarks`: the demo."""

from pathlib import Path
from typing import Annotated

import aiohttp
import typer
import uvloop
from rich.console import Console

from api.config import SettingsError, load_settings
from api.embedded import EmbeddedServerError
from api.migrate import MigrationError
from benchmarks.demo import demo as run_demo
from benchmarks.service import ServiceFailedError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def options() -> None:
    """Load on the service, and what it makes of it."""


@app.command()
def demo(
    *,
    leave: Annotated[bool, typer.Option("--exit", help="End when done.")] = False,
    config: Annotated[Path | None, typer.Option(help="The service's settings.")] = None,
) -> None:
    """Replay the sample fleet through the service and show what became of it."""
    try:
        settings = load_settings(config)
        code = uvloop.run(run_demo(settings, Console(), leave=leave))
    except (
        *(SettingsError, ServiceFailedError, EmbeddedServerError, MigrationError),
        aiohttp.ClientError,
    ) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


app(prog_name="python -m benchmarks")
