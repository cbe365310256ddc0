"""Names and locks of journal files: a directory for each process, locked while the process lives.

The kernel releases a lock when its process ends, however it ends. A directory that can be locked is
therefore orphaned. The parent directory is locked, too, while a directory is made and while orphans
are searched. This needs POSIX and a file system with real locks, which some network file systems
are not.

A forked child inherits the descriptors, and would hold the locks for as long as it lives. So it
closes them at once.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tracker.instrumentation import Log

SEGMENT_SUFFIX: Final = ".journal"
UNFINISHED_SUFFIX: Final = ".new"
SERVER_FILE: Final = "server"
"""Holds the identity of the database that the process of a directory wrote to."""
is_directory_name: Final = re.compile(r"\d+-[0-9a-f]{8}").fullmatch
"""Whether a name is that of the directory of a process; everything else is left alone."""
_DIRECTORY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_OWN_DIRECTORY: Final = _DIRECTORY | os.O_NOFOLLOW
"""No pipe, which would block until another program writes to it, and no link to elsewhere."""
_descriptors: Final[set[int]] = set()
"""Of all locks that this process holds or waits for."""

log: Final = Log(__name__)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory while the block runs; waits for it.

    Args:
        directory: where all processes have their directories.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = _open(directory, _DIRECTORY)
    try:
        status = os.fstat(descriptor)
        # In a sticky directory, as /tmp is, no other user can replace our files.
        if not (status.st_mode & stat.S_ISVTX and status.st_uid in {0, os.geteuid()}):
            tighten(descriptor, keep=0o755)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        unlock(descriptor)


def lock(directory: Path) -> int:
    """Lock the directory of a process.

    Args:
        directory: the directory of one process.

    Returns:
        A descriptor that holds the lock until `unlock`.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: it cannot be opened.
    """
    descriptor = _open(directory, _OWN_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        unlock(descriptor)
        raise
    return descriptor


def tighten(descriptor: int, *, keep: int) -> os.stat_result:
    """Close a file or directory of this user to other users; return its status.

    A user who can write to a journal can make this process store any touch. A file that
    every user could write to is therefore rejected; one that its group could write to may come
    from a version that took the modes from the umask, and is closed.

    Args:
        descriptor: an open file or directory.
        keep: the bits of its mode that may stay.

    Raises:
        PermissionError: it belongs to another user, or every user can write to it.
    """
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EACCES, f"it belongs to another user (id {status.st_uid})")
    if status.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EACCES, "every user can write to it")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~keep:
        os.fchmod(descriptor, mode & keep)
    return status


def unlock(descriptor: int) -> None:
    """Release a lock, unless this is a forked child, which has none.

    Args:
        descriptor: what `lock` returned.
    """
    if descriptor in _descriptors:
        _descriptors.remove(descriptor)
        os.close(descriptor)


def _open(directory: Path, flags: int) -> int:
    descriptor = os.open(directory, flags)
    _descriptors.add(descriptor)
    return descriptor


def _close_in_child() -> None:
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_close_in_child)


def lock_if_orphaned(directory: Path) -> int | None:
    """Lock the directory of a process if the process is gone.

    Args:
        directory: the directory of one process.

    Returns:
        A descriptor that holds the lock until `unlock`; None if the process is alive, if
        another process has just recovered the directory, or if it cannot be opened.
    """
    try:
        return lock(directory)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as error:
        log.warning("journal.unreadable", path=str(directory), error=str(error))
        return None
