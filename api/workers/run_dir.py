"""The directory in which the processes of a service find each other, and take commands.

It holds Unix sockets: one of each worker, for its siblings, and one of the parent, for commands
such as `reload`. Only this user may enter it.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from api.config import ServerSettings
from api.workers.channel import Answer, Channel, no_answer

_COMMAND_DEADLINE_S: Final = 900.0
_PRIVATE: Final = 0o700
_MAX_SOCKET_PATH: Final = 100
"""Bytes of a path that a Unix socket may have on all systems."""


class RunDirectory:
    """The directory of one service.

    Args:
        server: names the directory, and the port, which distinguishes services in one directory.

    Raises:
        OSError: it cannot be used; the message says what to do.
    """

    def __init__(self, server: ServerSettings) -> None:
        absolute = os.path.abspath(server.run_dir)  # noqa: PTH100 - links may make it longer
        # The path of a socket has to be short, and workers have the same working directory.
        self.path = Path(min(absolute, os.path.relpath(absolute), key=len))
        self._commands = self.path / f"commands-{server.port}.sock"

    def make(self) -> None:
        """Make it, and make sure that no other user may enter it.

        Raises:
            OSError: it cannot be used; the message says what to do.
        """
        try:
            self.path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            status = self.path.stat()
            if status.st_uid != os.geteuid():
                raise PermissionError("it belongs to another user")
            if stat.S_IMODE(status.st_mode) != _PRIVATE:
                self.path.chmod(_PRIVATE)
        except OSError as error:
            raise OSError(
                f"server.run_dir {self.path}: {error.strerror or error}; name a directory that "
                "this user alone can write to"
            ) from error
        longest = self.path / f"{os.getpid()}99.sock"
        if max(len(os.fsencode(path)) for path in (longest, self._commands)) > _MAX_SOCKET_PATH:
            raise OSError(
                f"server.run_dir {self.path} is too long for the path of a Unix socket; name a "
                "directory with a shorter path"
            )
        self._remove_left_behind()

    def _remove_left_behind(self) -> None:
        """Remove sockets of processes that were killed."""
        for path in self.path.glob("*.sock"):
            pid = path.stem
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                self.remove_socket(str(path))

    def remove_socket(self, path: str) -> None:
        """Remove the socket of a worker that has ended."""
        with suppress(OSError):
            Path(path).unlink()

    @asynccontextmanager
    async def answering(self, answer: Answer) -> AsyncIterator[None]:
        """Take commands while the block runs.

        Args:
            answer: answers them.
        """
        server = await serve_channels(str(self._commands), lambda: Channel(answer))
        try:
            yield
        finally:
            server.close()
            self.remove_socket(str(self._commands))

    async def command(self, what: str) -> Any:
        """Give a command to the parent that runs, and return its answer.

        Args:
            what: the command.

        Raises:
            OSError: no parent runs.
            ChannelError: it has not answered.
        """
        channel = Channel(no_answer)
        try:
            await asyncio.get_running_loop().create_unix_connection(
                lambda: channel, str(self._commands)
            )
        except OSError as error:
            raise OSError(
                f"no service with workers runs here: {self._commands}: {error.strerror or error}; "
                "a service of one process has to be restarted"
            ) from error
        try:
            return await channel.ask(what, deadline_s=_COMMAND_DEADLINE_S)
        finally:
            channel.close()


async def serve_channels(path: str, make: Callable[[], Channel]) -> asyncio.AbstractServer:
    """Listen on a Unix socket in the directory.

    Args:
        path: of the socket; one that is left there is replaced.
        make: makes the channel of each connection.

    Returns:
        The server.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - of pathlib in a coroutine, the linter thinks that it blocks
    return await asyncio.get_running_loop().create_unix_server(make, path)
