"""One worker as its parent sees it: a process, and the stream to it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from api.workers.channel import Answer, Channel, ChannelError
from api.workers.merge import Families

COMMAND: tuple[str, ...] = ("-m", "api.workers")
"""Arguments of Python that run a worker; the descriptor of the stream to the parent follows."""
START_DEADLINE_S: Final = 900.0
"""How long a worker may take until it could serve; migrations of a large table may take minutes."""
_TELL_DEADLINE_S: Final = 2.0
_PING_DEADLINE_S: Final = 1.0
"""How long a worker's event loop may be busy before its connections go to another one."""
SCRAPE_DEADLINE_S: Final = 0.4
"""How long a scrape waits for one worker, in seconds."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class StartError(Exception):
    """A worker could not start.

    Args:
        message: why, and what to do.
        code: the exit code of a command that fails for this.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class WorkerProcess:
    """A worker.

    Args:
        number: which of the workers it is, from 1.
        process: the process.
        channel: the stream to it.
    """

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number = number
        self.path = ""
        """Of the socket on which it answers its siblings."""
        self.state = "starting"
        """One of `starting`, `ready`, `draining`."""
        self.answers = True
        """Whether it has answered the last question."""
        self.metrics: Families = []
        """Its last metrics."""
        self.has_told_all = False
        """Whether `metrics` are its last ones: nothing has been counted since."""
        self.hangs = False
        """Whether another worker should accept the connections of its place."""
        self._process = process
        self._channel = channel

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def start(self, options: Mapping[str, Any]) -> Any:
        """Let it prepare to serve; return its settings.

        Args:
            options: see `api.workers.worker`.

        Raises:
            StartError: it cannot.
        """
        try:
            found = await self._channel.ask("start", options, deadline_s=START_DEADLINE_S)
        except ChannelError as error:
            raise StartError(
                f"worker {self.number} ended before it could serve: {error}"
            ) from error
        if found["error"]:
            raise StartError(found["error"], found["code"])
        self.path = found["path"]
        return found["settings"]

    async def accept(self) -> None:
        """Let it accept connections.

        Raises:
            StartError: it cannot.
        """
        try:
            await self._channel.ask("accept", deadline_s=START_DEADLINE_S)
        except ChannelError as error:
            raise StartError(f"worker {self.number} does not accept: {error}") from error
        self.state = "ready"

    async def tell_peers(
        self,
        peers: Mapping[str, int],
        warnings: Mapping[str, str],
        *,
        died: bool,
        vacant: Sequence[int],
    ) -> None:
        """Say which other workers there are, and wait until it has connected to them.

        A worker that hangs delays no other: it connects when it runs again.

        Args:
            peers: the number of each, by the path of its socket.
            warnings: what its readiness should warn of.
            died: whether one has died, so that there may be a journal to recover.
            vacant: the numbers of workers that are not there, whose connections it accepts.
        """
        with suppress(ChannelError):  # it hangs, or is about to end
            await self._channel.ask(
                "peers",
                (peers, warnings, died, vacant),
                deadline_s=0 if self.hangs else _TELL_DEADLINE_S,
            )

    async def ping(self) -> None:
        """Note whether it hangs: whether its event loop has not run for a second."""
        try:
            await self._channel.ask("ping", deadline_s=_PING_DEADLINE_S)
        except ChannelError:
            self.hangs = self._channel.is_open  # else it has died
        else:
            self.hangs = False

    async def scrape(self) -> None:
        """Read its metrics; the last ones stay if it does not answer."""
        if self.state == "starting":
            return
        if self.hangs:  # no scrape waits for it
            self.answers = False
            return
        try:
            found = await self._channel.ask("scrape", deadline_s=SCRAPE_DEADLINE_S)
        except ChannelError:
            self.answers = False
        else:
            self.answers = True
            if not self.has_told_all:
                self.metrics = found

    def note_last_metrics(self, metrics: Families) -> None:
        """Note the metrics that it has sent at its end."""
        self.metrics, self.has_told_all = metrics, True

    async def stop(self, *, let_go: bool, deadline_s: float) -> None:
        """Let it finish what it has begun and end; kill it if it does not.

        Args:
            let_go: end each connection with its next response, because others go on serving.
            deadline_s: how long that may take, in seconds.
        """
        self.state = "draining"
        with suppress(ChannelError):
            await self._channel.ask("stop", let_go, deadline_s=_TELL_DEADLINE_S)
        try:
            async with asyncio.timeout(deadline_s):
                await self._process.wait()
        except TimeoutError:
            log.error(  # noqa: TRY400 - the trace says nothing
                "worker.killed", worker=self.number, pid=self.pid, after_s=deadline_s
            )
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> str:
        """Wait until it has ended, and return how: `exit 1`, `SIGKILL`."""
        status = await self._process.wait()
        self._channel.close()
        return f"exit {status}" if status >= 0 else signal.Signals(-status).name


async def spawn(number: int, sockets: Sequence[socket.socket], answer: Answer) -> WorkerProcess:
    """Start the process of a worker, with a new interpreter: code and settings are read again.

    Args:
        number: which of the workers it is, from 1.
        sockets: those that it accepts from.
        answer: answers its questions.

    Raises:
        OSError: the system has no room for it.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *COMMAND, str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *(one.fileno() for one in sockets)],
                # A process group of its own: Ctrl-C reaches the parent alone, which stops them.
                process_group=0 if os.name == "posix" else None,
            )
        except OSError:
            ours.close()
            raise
    ours.settimeout(0)
    _, channel = await asyncio.get_running_loop().create_unix_connection(
        lambda: Channel(answer), sock=ours
    )
    return WorkerProcess(number, process, channel)
