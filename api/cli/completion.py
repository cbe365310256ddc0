"""`completion`: prints a script for the completion of `python -m api` in a shell.

Shells complete commands of one word, so the scripts beside this file complete `python`. They run
this program only in the checkout that printed them: another `-m api` would be another program.
"""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from typer._completion_classes import completion_init

ASKED_BY: Final = "_ACTIVITY_COMPLETE"
"""The environment variable by which the scripts ask for completions."""
_CHECKOUT: Final = Path(__file__).parent.parent.parent
_ASSIGNMENT: Final = {"bash": "{}={}", "zsh": "{}={}", "fish": "set --global {} {}"}


class Shell(StrEnum):
    """A supported shell."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[
        Shell, typer.Argument(metavar="SHELL", help="What to print it for.", show_default=False)
    ],
) -> None:
    """Print what makes a shell complete commands with the tab key."""
    for name, value in (("python", sys.executable), ("checkout", str(_CHECKOUT))):
        typer.echo(_ASSIGNMENT[shell].format(f"_activity_{name}", _quoted(value, shell)))
    typer.echo(Path(__file__).with_suffix(f".{shell}").read_text(encoding="utf-8"), nl=False)


def allow_completion() -> None:
    """Register the classes that respond to the scripts."""
    completion_init()


def _quoted(text: str, shell: Shell) -> str:
    if shell is not Shell.FISH:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
