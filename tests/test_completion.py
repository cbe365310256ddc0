"""The tab key, in real shells on a terminal: it completes our commands, and spoils no others."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.cli.completion import Shell, _quoted

CHECKOUT = Path(__file__).parent.parent
PYTHON = sys.executable
SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["--no-rcs", "--interactive"]}
FORGET_LINE = "\x15"
DEADLINE_S = 60.0


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


class Terminal:
    """A shell as whoever sits before it has it."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._shown = b""

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def wait_for(self, text: str) -> None:
        """Return when a text is shown; what was shown up to it is forgotten."""
        deadline = time.monotonic() + DEADLINE_S
        while text.encode() not in self._shown:
            left_s = deadline - time.monotonic()
            assert select.select([self._file], [], [], max(0, left_s))[0], self._shown
            self._shown += os.read(self._file, 65_536)
        self._shown = self._shown.partition(text.encode())[2]


@contextmanager
def shell(name: str, script: Path, folder: Path = CHECKOUT):
    """Sit before a shell that has read a completion script."""
    needs(name)
    script.write_text(printed(name))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [name, *SHELLS[name]],
        cwd=folder,
        env={**os.environ, "TERM": "dumb", "PS1": "$ ", "HOME": str(script.parent)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    terminal = Terminal(ours)
    try:
        if name == "zsh":
            terminal.type("autoload -U compinit && compinit -u -D\n")
        terminal.type(f"source {script}; echo ready\n")
        terminal.wait_for("ready\r")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(ours)


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
    with shell(name, tmp_path / "script") as terminal:
        for typed, added in COMPLETED:
            terminal.type(f"{typed}\t")
            terminal.wait_for(f"{typed}{added} ")
            terminal.type(FORGET_LINE)


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_somebody_elses_module_of_that_name_is_not_run_to_complete_it(name, tmp_path):
    """The tab key runs nothing but what printed the script."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__main__.py").write_text("open('was-run', 'w')")
    (tmp_path / "keys-of-somebody").touch()
    with shell(name, tmp_path / "script", folder=tmp_path) as terminal:
        terminal.type("python -m api ke\t")
        terminal.wait_for("python -m api keys-of-somebody ")
    assert not (tmp_path / "was-run").exists()


def test_what_completed_python_before_in_bash_still_does(tmp_path):
    """Of bash-completion, or of whoever else."""
    with shell("bash", tmp_path / "script") as terminal:
        terminal.type("theirs() { COMPREPLY=(of-theirs); }; complete -F theirs python\n")
        terminal.type(f"source {tmp_path / 'script'}; source {tmp_path / 'script'}\n")
        for typed, added in (("python -c of", "-theirs"), ("python -m api ke", "ys")):
            terminal.type(f"{typed}\t")
            terminal.wait_for(f"{typed}{added} ")
            terminal.type(FORGET_LINE)


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
    assert set(answered[6:]) == {"--name", "--group", "--expires", "--config", "--help"}


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
