"""Runs Matrix Synapse's tracking of client addresses, as shipped, in a process of its own.

`synapse_driver.py` describes what it writes, and why it has a virtual environment of its own.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

VENV: Final = Path(".activity/synapse-venv")
_REQUIREMENT: Final = "matrix-synapse[postgres]==1.163.2"
"""Pinned, because the driver calls internal functions of Synapse."""
_DRIVER: Final = Path(__file__).with_name("synapse_driver.py")
_INSTALLED_WITHIN_S: Final = 900
_READY_WITHIN_S: Final = 180
_ANSWERED_WITHIN_S: Final = 300
_ENDED_WITHIN_S: Final = 30
_SHOWN_LINES: Final = 10


class PeerUnavailableError(Exception):
    """The peer cannot be installed; the message says what to do."""


class PeerFailedError(Exception):
    """The peer ended, did not respond in time, or reported an error; the message says which."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A loop of touches."""

    seconds: float
    touches: int

    @property
    def microseconds_each(self) -> float:
        """The cost of one touch."""
        return self.seconds / self.touches * 1e6


@dataclass(frozen=True, slots=True)
class Flushed:
    """A flush: each row is an upsert into `user_ips` and an UPDATE of `devices`."""

    seconds: float
    rows: int

    @property
    def rows_per_second(self) -> float:
        """The rate of the flush."""
        return self.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Stored:
    """The number of rows of each table that have the time of the last round of touches."""

    user_ips: int
    devices: int


class Synapse:
    """A running Synapse; one command at a time.

    Args:
        process: the driver.
        log_file: its log.
    """

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self.version = ""
        self.throttled_keys = 0
        """The number of keys that it caches; repeated touches of further keys are not throttled."""
        self._process = process
        self._log_file = log_file

    async def touch(self, count: int, round_: int) -> Touched:
        """Touch the first keys, all at the time of a round, more than 120 s after the last one.

        Args:
            count: the number of keys; each is a device's token.
            round_: from 1, higher than before. The driver rejects others, since Synapse would
                throttle all touches.

        Raises:
            PeerFailedError: Synapse reported an error.
        """
        return Touched(**await self._ask({"do": "touch", "count": count, "round": round_}))

    async def retouch(self, count: int) -> Touched:
        """Touch the first keys again at the same time, which Synapse throttles or coalesces.

        Raises:
            PeerFailedError: Synapse reported an error.
        """
        return Touched(**await self._ask({"do": "retouch", "count": count}))

    async def flush(self) -> Flushed:
        """Write what is buffered; Synapse's own flush loop is off.

        Raises:
            PeerFailedError: Synapse reported an error; Synapse has lost what was buffered.
        """
        return Flushed(**await self._ask({"do": "flush"}))

    async def check(self) -> Stored:
        """Count the rows that the last round of touches has reached.

        Raises:
            PeerFailedError: Synapse reported an error.
        """
        return Stored(**await self._ask({"do": "check"}))

    async def wait_until_ready(self) -> None:
        """Wait for the schema and the devices.

        Raises:
            PeerFailedError: it did not come up.
        """
        reply = await self._answer(_READY_WITHIN_S)
        self.version, self.throttled_keys = reply["version"], reply["throttled_keys"]

    async def _ask(self, command: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(ConnectionError):  # the missing response is reported instead
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            await self._process.stdin.drain()
        return await self._answer(_ANSWERED_WITHIN_S)

    async def _answer(self, within_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise PeerFailedError(f"Synapse did not respond within {within_s} s") from error
        if not line:
            raise PeerFailedError(f"Synapse ended:\n{_last_lines(self._log_file)}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerFailedError(f"Synapse failed: {reply['error']}; see {self._log_file}")
        return reply


@asynccontextmanager
async def synapse(dsn: str, devices: int, venv: Path = VENV) -> AsyncIterator[Synapse]:
    """Run Synapse while the block runs; install it first if it is not there.

    Args:
        dsn: an empty database of its own, made with
            `CREATE DATABASE ... ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0`.
        devices: the number of devices to create, each with its own user, token and address.
        venv: where it is installed; its log goes next to it.

    Raises:
        PeerUnavailableError: it cannot be installed.
        PeerFailedError: it did not come up.
    """
    await _install(venv)
    log_file = venv.with_suffix(".log")
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(_python(venv), "-I", _DRIVER, str(devices)),
            env={**os.environ, "DATABASE_URL": dsn},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # this process handles Ctrl-C; the driver ends with it
        )
    try:
        peer = Synapse(process, log_file)
        await peer.wait_until_ready()
        yield peer
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    process.stdin.close()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ENDED_WITHIN_S):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _install(venv: Path) -> None:
    # Marked only when complete, so that an interrupted installation is repeated.
    mark = venv / ".installed"
    if mark.is_file() and mark.read_text() == _REQUIREMENT:
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    log_file = venv.with_suffix(".log")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", _REQUIREMENT)
    with log_file.open("wb") as log:
        try:
            async with asyncio.timeout(_INSTALLED_WITHIN_S):
                installed = await _succeeds(
                    log, sys.executable, "-m", "venv", "--clear", venv
                ) and await _succeeds(log, _python(venv), *pip)
        except TimeoutError:
            installed = False
    if not installed:
        raise PeerUnavailableError(
            f"{_REQUIREMENT} could not be installed in {venv}: it needs a package index, and to "
            "build psycopg2 a C compiler with the headers of Python and libpq (on Debian the "
            f"packages gcc, python3-dev and libpq-dev); {log_file} ends with\n"
            f"{_last_lines(log_file)}"
        )
    mark.write_text(_REQUIREMENT)


async def _succeeds(log: Any, *command: str | Path) -> bool:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=asyncio.subprocess.STDOUT
    )
    try:
        return await process.wait() == 0
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _python(venv: Path) -> Path:
    return venv.absolute() / "bin" / "python"


def _last_lines(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
