"""The data directory of the embedded server: private, locked, initialized, closed to other users.

All that the server and its users share is in this directory, whose mode is 0700: the Unix socket,
the locks, the log. Its parents are never changed.

Authentication is by `peer`: the kernel says which system user is at the other end of the socket.
There is no password that could leak. The user that the server runs as and root may be any role;
both could read the data directory anyway.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from api.postgres.embedded_program import Account, EmbeddedServerError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SUPERUSER: Final = "postgres"
VERSION: Final = "18"
_OWN: Final = {".lock", ".users", ".initdb", ".initialized", "lost+found"}
"""What may be in a directory that is not initialized."""
_HBA: Final = """\
# Written by the activity service at each start; changes are lost.
local all all peer map=activity
"""
_SAY_AFTER_S: Final = 1.0
_POLL_S: Final = 0.02


class DataDirectory:
    """An open data directory that belongs to the server's user and that only this user can enter.

    Args:
        path: where it is; made when it does not exist.
        account: the user that the server runs as.

    Raises:
        OSError: it cannot be used.
        EmbeddedServerError: it belongs to another user, or holds something else.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path.expanduser().resolve()
        self.account = account
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self._check_contents()
            self._make_private()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it."""
        os.close(self.descriptor)

    def _check_contents(self) -> None:
        owner = os.fstat(self.descriptor).st_uid
        if owner not in {self.account.uid, os.geteuid()}:
            raise EmbeddedServerError(
                f"the directory belongs to the user {_name(owner)}: run the command as this user, "
                "or set database.data_dir to another directory"
            )
        found = {entry.name for entry in self.path.iterdir()}
        if "PG_VERSION" in found:
            version = (self.path / "PG_VERSION").read_text(encoding="ascii").strip()
            if version != VERSION:
                raise EmbeddedServerError(
                    f"it holds data of PostgreSQL {version}, and this is PostgreSQL {VERSION}"
                )
        elif not found <= _OWN and ".initialized" not in found:
            raise EmbeddedServerError("the directory is not empty, and holds no PostgreSQL data")

    def _make_private(self) -> None:
        status = os.fstat(self.descriptor)
        if status.st_uid != self.account.uid:
            os.fchown(self.descriptor, self.account.uid, self.account.gid)
        if status.st_mode & 0o7777 != 0o700:  # noqa: PLR2004 - read, write and enter, by the owner
            os.fchmod(self.descriptor, 0o700)

    def open_file(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file in it, and return the descriptor; a symbolic link is not followed."""
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=self.descriptor)

    @contextmanager
    def locked(self, timeout_s: float) -> Iterator[None]:
        """Keep other processes from starting and stopping the server while the block runs.

        The kernel releases the lock when a process ends, however it ends.

        Args:
            timeout_s: how long to wait for the lock, in seconds.

        Raises:
            EmbeddedServerError: another process has held it for so long.
        """
        descriptor = self.open_file(".lock", os.O_RDWR | os.O_CREAT)
        try:
            self._wait_for_lock(descriptor, timeout_s)
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int, timeout_s: float) -> None:
        began = time.monotonic()
        said = False
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited_s = time.monotonic() - began
            if waited_s >= timeout_s:
                raise EmbeddedServerError(
                    f"another process has held the lock {self.path / '.lock'} for {timeout_s:g} s"
                )
            if waited_s >= min(_SAY_AFTER_S, timeout_s / 2) and not said:
                said = True
                self._say_waiting(timeout_s)
            time.sleep(_POLL_S)

    def _say_waiting(self, timeout_s: float) -> None:
        path = str(self.path / ".lock")
        if structlog.is_configured():
            log.warning("postgres.waiting_for_lock", path=path, timeout_s=timeout_s)
        else:  # a command whose stdout is for its result
            sys.stderr.write(f"waiting up to {timeout_s:g} s for the lock {path}\n")

    def initialize(self, bin_dir: Path) -> None:
        """Make a database cluster here unless there is one; to be called with the lock held.

        It is made in a subdirectory and then moved, `PG_VERSION` last: an interrupted attempt
        leaves nothing that looks complete.

        Args:
            bin_dir: where initdb is.

        Raises:
            EmbeddedServerError: initdb failed.
        """
        if (self.path / "PG_VERSION").exists():
            return
        new, complete = self.path / ".initdb", self.path / ".initialized"
        if not complete.exists():
            if new.exists():
                shutil.rmtree(new)
            new.mkdir(mode=0o700)
            if self.account.differs:
                os.chown(new, self.account.uid, self.account.gid, follow_symlinks=False)
            self._run_initdb(bin_dir, new)
            new.rename(complete)
        for entry in sorted(complete.iterdir(), key=lambda entry: entry.name == "PG_VERSION"):
            entry.rename(self.path / entry.name)
        complete.rmdir()
        os.fsync(self.descriptor)

    def _run_initdb(self, bin_dir: Path, new: Path) -> None:
        done = subprocess.run(  # noqa: S603 - of the package
            [
                *(bin_dir / "initdb", "--auth-local=peer", "--auth-host=reject", "-U", SUPERUSER),
                # Whether the locales of the environment exist makes no difference.
                *("--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--no-instructions", "-D", as_seen_from_inside(new, self.account)),
            ],
            cwd=new,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            umask=0o077,
            **run_as(self.account),
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error:" in line]
            reason = (said or done.stderr.splitlines() or ["no reason given"])[-1]
            raise EmbeddedServerError(f"initdb failed: {reason}")

    def require_peer_authentication(self) -> bool:
        """Write the files of authentication; return whether their content was different."""
        allowed = dict.fromkeys((self.account.name, _name(0)))
        ident = "".join(f'activity "{name}" all\n' for name in allowed)
        wrote = [self._write("pg_ident.conf", ident), self._write("pg_hba.conf", _HBA)]
        return any(wrote)

    def _write(self, name: str, text: str) -> bool:
        path = self.path / name
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
            return False
        self.replace(name, text)
        return True

    def replace(self, name: str, text: str) -> None:
        """Replace a file of the server at once."""
        temporary = f"{name}.{os.getpid()}.new"
        descriptor = self.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchown(descriptor, self.account.uid, self.account.gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        (self.path / temporary).replace(self.path / name)


def as_seen_from_inside(directory: Path, account: Account) -> str:
    """Return a name for a process's working directory that works whatever its parents allow.

    The server changes to its data directory and stays there. When root starts it for another
    user, that user may not be able to enter the parents (/root, for example).
    """
    inside = Path("/proc/self/cwd")
    return str(inside if account.differs and inside.exists() else directory)


def server_environment() -> dict[str, str]:
    """Return the environment of the server: no PG* variables, no locales, none of our secrets."""
    kept = ("PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def run_as(account: Account) -> dict[str, Any]:
    """Return the arguments of subprocess that run a command as a user."""
    if not account.differs:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
