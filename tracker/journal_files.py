"""Journals as files: a folder for each process, locked for as long as the process lives.

The kernel lets go of a lock however a process ends, so a folder whose lock can be had belongs to
the dead. POSIX only, and not for file systems that fake locks, as some network ones do.
"""

import asyncio
import errno
import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

import structlog

from tracker.errors import ConfigurationError
from tracker.journal import SEGMENT_BYTES
from tracker.records import Segment, header, read, read_header

_LOCK: Final = "lock"
_SUFFIX: Final = ".journal"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Folder:
    """The folder of this process.

    Args:
        directory: where all processes have theirs.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock: int | None = None
        self._numbers = count(1)
        # Not the event loop's own: its threads may all be waiting for a name to be resolved.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker-journal")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something that may take long, in a thread, one thing at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    async def open(self) -> None:
        """Make it, unless the disk is full: then it is made when there is room.

        Raises:
            ConfigurationError: the directory cannot be written to.
        """
        try:
            await self.run(self._make)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise ConfigurationError(
                    f"cannot keep a journal in {self._path.parent}: {error.strerror}; "
                    "name a directory that can be written to, or do without a journal"
                ) from error

    def _make(self) -> None:
        # Under another name until it is locked: nobody may take it for one of the dead.
        hidden = self._path.with_name(f".{self._path.name}")
        hidden.mkdir(parents=True)
        lock = os.open(hidden / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        hidden.rename(self._path)
        self._lock = lock

    def create(self, first_line: bytes) -> Segment:
        """Make a segment, all of it written, so that the disk cannot be too full for it later.

        Args:
            first_line: its header.

        Raises:
            OSError: there is no room, or no disk.
        """
        if self._lock is None:
            self._make()
        path = self._path / f"{next(self._numbers):08d}{_SUFFIX}"
        unfinished = path.with_suffix(".new")
        try:
            with unfinished.open("x+b") as file:
                file.write(first_line.ljust(SEGMENT_BYTES, b"\0"))
                file.flush()
                memory = mmap.mmap(file.fileno(), SEGMENT_BYTES)
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return Segment(path.name, memory, len(first_line))

    def remove(self, name: str) -> None:
        """Remove a segment.

        Raises:
            OSError: it is still there.
        """
        (self._path / name).unlink(missing_ok=True)

    def disk(self, owner: Mapping[str, str]) -> "FileDisk":
        """Return where the journal of one target has its segments.

        Args:
            owner: whose touches they hold.
        """
        return FileDisk(self, owner)

    def dead(self) -> list["DeadFolder"]:
        """Lock and return the folders of processes that are gone; the caller closes them."""
        return dead_folders(self._path.parent)

    async def close(self) -> None:
        """Let go of it; it is removed unless there are journals in it."""
        await self.run(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._lock is not None:
            for path in self._path.glob(f"*{_SUFFIX}"):
                if _is_empty(path):
                    path.unlink()
            _remove_if_empty(self._path)
            os.close(self._lock)
            self._lock = None


class FileDisk:
    """Segments of one target, made and removed in a thread.

    Args:
        folder: where they are.
        owner: whose touches they hold.
    """

    def __init__(self, folder: Folder, owner: Mapping[str, str]) -> None:
        self._folder = folder
        self._first_line = header(owner)

    async def create(self) -> Segment:
        """Return a new segment.

        Raises:
            OSError: there is no room, or no disk.
        """
        return await self._folder.run(self._folder.create, self._first_line)

    async def remove(self, segment: Segment) -> None:
        """Give up a segment.

        Raises:
            OSError: it is still there.
        """
        await self._folder.run(self._folder.remove, segment.name)


class DeadFolder:
    """The folder of a process that is gone, locked by this one.

    Args:
        path: where it is.
        lock: a descriptor of its lock.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    def __str__(self) -> str:
        """Return where it is."""
        return str(self._path)

    def segments(self) -> list[str]:
        """Return the paths of its segments."""
        return sorted(map(str, self._path.glob(f"*{_SUFFIX}")))

    def read(self, path: str) -> bytes:
        """Return all of a segment."""
        return Path(path).read_bytes()

    def remove(self, path: str) -> None:
        """Remove a segment."""
        Path(path).unlink()

    def close(self) -> None:
        """Let go of it; it is removed unless there are journals in it."""
        _remove_if_empty(self._path)
        os.close(self._lock)


def dead_folders(directory: Path) -> list[DeadFolder]:
    """Lock and return the folders of processes that are gone; the caller closes them."""
    folders = []
    for path in sorted(directory.glob(f"[!.]*/{_LOCK}")):
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # somebody else has just taken it over
            continue
        except OSError as error:
            log.warning("journal.unreadable", path=str(path.parent), error=str(error))
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it lives
            os.close(lock)
            continue
        if path.exists():
            folders.append(DeadFolder(path.parent, lock))
        else:  # taken over in between
            os.close(lock)
    return folders


def _is_empty(segment: Path) -> bool:
    memory = segment.read_bytes()
    _, start = read_header(memory)
    contents = read(memory, start)
    return not contents.entries and not contents.torn_bytes


def _remove_if_empty(folder: Path) -> None:
    for unfinished in folder.glob("*.new"):
        unfinished.unlink()
    with suppress(OSError):
        if not any(folder.glob(f"*{_SUFFIX}")):
            (folder / _LOCK).unlink()
            folder.rmdir()
