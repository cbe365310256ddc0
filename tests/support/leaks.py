"""Fails the run if the text of a key got out anywhere: into logs, errors, answers or outputs.

Every key that the run makes is noted, and so is everything that is said: what tests and fixtures
print and log, at whatever level; log entries that a test captures; errors of ours; answers, those
of /metrics included; and outputs of subprocesses. At the end the one is looked for in the other.
The only place where a key may appear is the stdout of `keys create`.
"""

import asyncio
import logging
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiohttp
import pytest
from structlog.testing import LogCapture

from tracker.errors import TrackerError

_LISTED: Final = 7
_PART: Final = 16
"""After the part that `keys list` shows, this many characters identify a key."""


class Leaks:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self._parts: set[str] = set()
        self._said: dict[str, str] = {}
        self._patch = pytest.MonkeyPatch()
        self._now = "before the first test"
        self._found_by_workers: list[str] = []

    def hear(self, where: str, said: object) -> None:
        """Note what was said, and where."""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        if len(text) >= _PART:
            self._said.setdefault(text, f"{where}, {self._now}")

    def found(self) -> list[str]:
        """Return where keys were said."""
        return self._found_by_workers + [
            f"{where}: ...{part[:4]}..."
            for text, where in self._said.items()
            for part in self._parts
            if part in text
        ]

    def pytest_sessionstart(self) -> None:
        """Listen, to the least of loggers too."""
        logging.getLogger().setLevel(logging.DEBUG)
        self._wrap(secrets, "token_urlsafe", self._made)
        self._wrap(subprocess, "run", self._ran)
        self._overhear(asyncio.StreamReader, "feed_data", "output")
        self._overhear(LogCapture, "__call__", "log")
        self._overhear(TrackerError, "__init__", "error")
        start, read = aiohttp.ClientResponse.start, aiohttp.ClientResponse.read

        async def starting(response: aiohttp.ClientResponse, connection: Any) -> Any:
            done = await start(response, connection)
            self.hear("answer", response.headers)
            return done

        async def reading(response: aiohttp.ClientResponse) -> bytes:
            body = await read(response)
            self.hear("answer", body)
            return body

        self._patch.setattr(aiohttp.ClientResponse, "start", starting)
        self._patch.setattr(aiohttp.ClientResponse, "read", reading)

    def _wrap(self, owner: object, name: str, note: Callable[[Any, Any], None]) -> None:
        original = getattr(owner, name)

        def noting(*args: Any, **options: Any) -> Any:
            done = original(*args, **options)
            note(args, done)
            return done

        self._patch.setattr(owner, name, noting)

    def _overhear(self, owner: object, name: str, where: str) -> None:
        original = getattr(owner, name)

        def noting(*args: Any, **options: Any) -> Any:
            for said in args[1:]:
                self.hear(where, said)
            return original(*args, **options)

        self._patch.setattr(owner, name, noting)

    def _made(self, _args: object, token: str) -> None:
        if len(token) > _LISTED + _PART:
            self._parts.add(token[_LISTED : _LISTED + _PART])

    def _ran(self, args: Any, done: subprocess.CompletedProcess[Any]) -> None:
        self.hear("stderr", done.stderr)
        if "create" in args[0]:
            self._made(args, str(done.stdout).removeprefix("ak_"))
        else:
            self.hear("stdout", done.stdout)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Remember which process reports."""
        self._now = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test printed and logged."""
        for title, said in report.sections:
            self.hear(title, said)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note what a process that ran some of the tests has found."""
        self._found_by_workers += getattr(node, "workeroutput", {}).get("leaks", [])

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail the run if a key got out."""
        self._patch.undo()
        if hasattr(
            session.config, "workeroutput"
        ):  # the process that distributes the tests collects them
            session.config.workeroutput["leaks"] = self.found()
        if self.found() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where."""
        for leak in self.found():
            terminalreporter.write_line(f"LEAK of a key in {leak}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Listen to a run that names this module with `-p`; tests/conftest.py does the same."""
    config.pluginmanager.register(Leaks())
