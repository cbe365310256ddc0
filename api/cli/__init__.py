"""The command line: one file for each group of commands.

Exit codes: 0 done, 1 it failed (the database is unavailable, there is no such key), 2 the command
or a setting is wrong. A failure is reported in one line on stderr.
"""

import sys
from io import TextIOWrapper
from typing import Final

import typer

from api.cli.common import Config, give_up_output
from api.cli.completion import ASKED_BY, allow_completion, completion
from api.cli.devices import devices
from api.cli.keys import keys
from api.cli.presence import presence
from api.cli.service import migrate, reload, serve
from api.cli.status import EXIT_CODES as STATUS_EXIT_CODES
from api.cli.status import status
from api.cli.webhooks import webhooks

_EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 it failed, as the database is away or there is no such key; "
    "2 the command or a setting is wrong. What failed is said in one line on stderr."
)
_TAB: Final = (
    "In bash and zsh, put this into ~/.bashrc or ~/.zshrc, with the paths of your checkout: "
    "source <(cd CHECKOUT && .venv/bin/python -m api completion bash). In fish: "
    ".venv/bin/python -m api completion fish | source"
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog=_EXIT_CODES,
)
app.command()(serve)
app.command(epilog=STATUS_EXIT_CODES)(status)
app.command()(reload)
app.command()(migrate)
app.add_typer(keys, name="keys")
app.add_typer(devices, name="devices")
app.add_typer(presence, name="presence")
app.add_typer(webhooks, name="webhooks")
app.command(epilog=_TAB)(completion)


@app.callback()
def options(context: typer.Context, config: Config = None) -> None:
    """Activity tracker: know when a device or an API key was last active."""
    context.obj = config


def main() -> None:
    """Run the command line."""
    allow_completion()
    if sys.stdout is None or sys.stderr is None:
        sys.exit("error: stdout and stderr must be open")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, TextIOWrapper
        ):  # characters that it cannot show must not cause an error
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="python -m api", complete_var=ASKED_BY)
    except OSError as error:  # an error of the output; any other error is reported where it happens
        typer.echo(f"error: cannot write the output: {error.strerror or error}", err=True)
        give_up_output()
        sys.exit(1)
