"""Help reads well, in narrow terminals and wide ones, and mistakes are met halfway."""

import re

import pytest
import typer
from typer.testing import CliRunner

from api.cli import app

UNITS = {"--every": "Seconds", "--expires": "seconds, minutes, hours, days or weeks"}


def commands(command, *path: str) -> dict[tuple[str, ...], object]:
    """Return every command below one, by what is typed for it."""
    found = {path: command}
    for name, inner in getattr(command, "commands", {}).items():
        found |= commands(inner, *path, name)
    return found


COMMANDS = commands(typer.main.get_command(app))
each_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def invoke(*arguments: str, width: int = 80):
    environment = {"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)}
    return CliRunner().invoke(app, arguments, env=environment, prog_name="python -m api")


@each_command
@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_and_nothing_is_cut(path, width):
    """With the command as it is typed."""
    done = invoke(*path, "--help", width=width)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in done.stdout
    assert " ".join(("Usage: python -m api", *path)) in done.stdout


@each_command
def test_every_command_and_option_says_what_it_is(path):
    """In a sentence, and with its unit if it has one."""
    command = COMMANDS[path]
    assert command.help.endswith(".")
    for option in command.params:
        if option.name != "help":
            assert option.help.endswith("."), option.opts
            assert UNITS.get(option.opts[0], "") in option.help
    if path:  # what a list of commands says of it
        assert re.match(r"[A-Z].*\.$", command.help.splitlines()[0])


def test_exit_codes_are_in_the_help():
    """Of all commands, and of the one that has its own meaning."""
    for path in ((), ("status",)):
        text = " ".join(invoke(*path, "--help").stdout.split())
        assert all(part in text for part in ("Exit codes: 0 ", "; 1 ", "; 2 "))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("sreve",), "'serve'"),
        (("keys", "lst"), "'list'"),
        (("keys", "create", "--nam", "x"), "--name"),
        (("completion", "tcsh"), "'bash', 'zsh'"),
        (("status", "--every", "0"), "0.2"),
        (("keys", "create"), "--name"),
    ],
)
def test_a_misspelt_command_gets_a_suggestion(typed, meant):
    """And where the help is; the exit code is 2."""
    done = invoke(*typed)
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert meant in said
    assert "--help' for help" in said
