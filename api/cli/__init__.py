"""The command line: one file for each group of commands.

Exit codes: 0 done, 1 it failed (the database is away, there is no such key), 2 the command or a
setting is wrong. Whatever fails says so in one line on stderr.
"""

import typer

from api.cli.common import Config
from api.cli.keys import keys
from api.cli.service import migrate, serve

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Activity tracker.")
app.command()(serve)
app.command()(migrate)
app.add_typer(keys, name="keys")


@app.callback()
def options(context: typer.Context, config: Config = None) -> None:
    """Know when a device or an API key was last active."""
    context.obj = config


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m api")
