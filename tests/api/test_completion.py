"""The tab key, in real shells on a terminal: it completes our commands, and spoils no others."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.cli.completion import Shell, _quoted
from tests.support.terminal import CHECKOUT, terminal

PYTHON = sys.executable
SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["--no-rcs", "--interactive"]}
FORGET_LINE = "\x15"


def needs(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed: run `make packages` as root")


def printed(name: str) -> str:
    """Return the completion script for a shell."""
    return subprocess.run(
        [PYTHON, "-m", "api", "completion", name],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@contextmanager
def shell(name: str, script: Path, folder: Path = CHECKOUT):
    """Sit before a shell that has read a completion script."""
    needs(name)
    script.write_text(printed(name))
    home = {"PS1": "$ ", "HOME": str(script.parent)}
    with terminal(name, *SHELLS[name], folder=folder, **home) as shown:
        if name == "zsh":
            shown.type("autoload -U compinit && compinit -u -D\n")
        shown.type(f'source {script}; echo rea""dy\n')
        shown.wait_for("ready\r")
        yield shown


COMPLETED = [
    (f"{PYTHON} -m api ke", "ys"),
    ("python3 -m api keys rev", "oke"),
    ("python -m api keys create --exp", "ires"),
    ("python -m api completion fi", "sh"),
    ("python -m api serve --config config.to", "ml"),
    ("python Makef", "ile"),
]
"""What is typed, and what the tab key adds."""


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_the_tab_key_completes_commands_options_and_files(name, tmp_path):
    """By whatever name Python is called; and what Python is run for else as it always did."""
    with shell(name, tmp_path / "script") as shown:
        for typed, added in COMPLETED:
            shown.type(f"{typed}\t")
            shown.wait_for(f"{typed}{added} ")
            shown.type(FORGET_LINE)


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_completion_runs_no_other_module_of_that_name(name, tmp_path):
    """The tab key runs nothing but what printed the script."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__main__.py").write_text("open('was-run', 'w')")
    (tmp_path / "keys-of-somebody").touch()
    with shell(name, tmp_path / "script", folder=tmp_path) as shown:
        shown.type("python -m api ke\t")
        shown.wait_for("python -m api keys-of-somebody ")
    assert not (tmp_path / "was-run").exists()


def test_an_existing_completion_of_python_in_bash_still_works(tmp_path):
    """Of bash-completion, or of another package."""
    with shell("bash", tmp_path / "script") as shown:
        shown.type("theirs() { COMPREPLY=(of-theirs); }; complete -F theirs python\n")
        shown.type(f"source {tmp_path / 'script'}; source {tmp_path / 'script'}\n")
        for typed, added in (("python -c of", "-theirs"), ("python -m api ke", "ys")):
            shown.type(f"{typed}\t")
            shown.wait_for(f"{typed}{added} ")
            shown.type(FORGET_LINE)


def test_fish_completes_likewise(tmp_path):
    """It can be asked without a terminal."""
    needs("fish")
    script = tmp_path / "script"
    script.write_text(printed("fish"))
    asked = [*(typed for typed, _ in COMPLETED), "python -m api keys create --"]
    ask_all = "for words in $argv; complete --do-complete $words; end"
    done = subprocess.run(
        [shutil.which("fish"), "--no-config", "-c", f"source {script}; {ask_all}", *asked],
        cwd=CHECKOUT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    answered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert answered[:6] == ["keys", "revoke", "--expires", "fish", "config.toml", "Makefile"]
    options = {"--name", "--group", "--expires", "--count", "--name-prefix", "--format"}
    assert set(answered[6:]) == options | {"--config", "--help"}


def test_a_folder_of_any_name_is_quoted():
    """A script that is sourced runs what it says."""
    for name, quoted in (
        ("bash", "'a'\"'\"'b\\c'"),
        ("zsh", "'a'\"'\"'b\\c'"),
        ("fish", r"'a\'b\\c'"),
    ):
        assert _quoted("a'b\\c", Shell(name)) == quoted


def test_the_script_for_bash_has_no_known_mistakes():
    """By the linter for shell scripts."""
    needs("shellcheck")
    done = subprocess.run(
        [shutil.which("shellcheck"), CHECKOUT / "api" / "cli" / "completion.bash"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_help_and_completion_import_nothing_of_the_service():
    """The tab key responds at once: only the command that runs imports what it needs."""
    code = (
        "import sys, api.cli; "
        "print({'aiohttp', 'asyncpg', 'pydantic', 'rich', 'tracker'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
