"""Journals as files: the directory of this process, and segments as memory-mapped files in it."""

import asyncio
import errno
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from tracker._journal.files import (
    SEGMENT_SUFFIX,
    SERVER_FILE,
    UNFINISHED_SUFFIX,
    lock,
    locked,
    tighten,
    unlock,
)
from tracker._journal.format import SEGMENT_BYTES, Segment, header
from tracker._journal.mapping import mapped
from tracker._journal.orphans import OrphanedDirectory, lock_orphans
from tracker.errors import ConfigurationError

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class JournalDirectory:
    """The directory of this process; a `JournalStorage`.

    Args:
        parent: where all processes have their directories.
    """

    def __init__(self, parent: Path) -> None:
        self._path = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock: int | None = None
        self._server: str | None = None
        self._numbers = count(1)
        # Not the event loop's default executor: its threads may all be resolving host names.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker-journal")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call a blocking function in a thread, one at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    async def open(self) -> None:
        """Make the directory; if the disk is full, it is made once there is room.

        Raises:
            ConfigurationError: the parent directory cannot be written to.
        """
        try:
            await self.run(self._make)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise ConfigurationError(
                    f"cannot keep a journal in directory {self._path.parent}: {error.strerror}; "
                    "name a directory that can be written to by this user alone, or do without a "
                    "journal"
                ) from error

    def _make(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._path.parent):
            self._path.mkdir(mode=0o700, exist_ok=True)
            descriptor = lock(self._path)
            self._unlock()
            self._lock = descriptor
            tighten(descriptor, keep=0o700)
        if self._server is not None:
            self._write_server()

    async def record_server(self, server: str) -> None:
        """Keep beside the segments which database their touches are written to.

        Raises:
            OSError: it cannot be kept now; it is tried again with the next directory.
        """
        self._server = server
        await self.run(self._write_server)

    def _write_server(self) -> None:
        if self._lock is None:  # there is no room yet
            return
        unfinished = self._path / f"{SERVER_FILE}{UNFINISHED_SUFFIX}"
        unfinished.unlink(missing_ok=True)
        with os.fdopen(_create(unfinished), "w") as file:
            file.write(f"{self._server}\n")
        unfinished.rename(self._path / SERVER_FILE)

    def _unlock(self) -> None:
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def create(self, first_line: bytes) -> Segment:
        """Make a segment, and write all of it, so that the disk has room for every record.

        Args:
            first_line: its header.

        Raises:
            OSError: there is no room, or the disk fails.
        """
        if self._lock is None or not self._path.exists():
            self._make()
        path = self._path / f"{next(self._numbers):08d}{SEGMENT_SUFFIX}"
        unfinished = path.with_suffix(UNFINISHED_SUFFIX)
        try:
            with os.fdopen(_create(unfinished), "w+b") as file:
                file.write(first_line.ljust(SEGMENT_BYTES, b"\0"))
                file.flush()
                memory = mmap.mmap(file.fileno(), SEGMENT_BYTES)
            unfinished.rename(path)
            mapped.add(str(path), memory)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return Segment(path.name, memory, len(first_line))

    def remove(self, name: str) -> None:
        """Remove a segment.

        Raises:
            OSError: it could not be removed.
        """
        mapped.forget(str(self._path / name))
        (self._path / name).unlink(missing_ok=True)

    def unmap(self, name: str, memory: mmap.mmap) -> None:
        """Release the memory of a segment, whose file stays."""
        mapped.remove(str(self._path / name))
        memory.close()

    def held(self) -> set[str]:
        """Return the names of all whole files in the directory; none if it has been removed.

        A segment that was truncated, or whose disk has failed, is not whole.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return {path.name for path in self._path.iterdir() if _is_whole(path)}
        except FileNotFoundError:
            return set()

    def segments(self, owner: Mapping[str, str]) -> "DirectorySegments":
        """Return the storage for the segments of one target.

        Args:
            owner: what the header of each segment says: target, table, columns and origin.
        """
        return DirectorySegments(self, owner)

    def orphans(self) -> list[OrphanedDirectory]:
        """Lock and return the directories of processes that are gone; the caller closes them.

        Raises:
            OSError: the parent directory cannot be read.
        """
        return lock_orphans(self._path.parent)

    async def close(self, *, keep: bool) -> None:
        """Unlock the directory.

        Args:
            keep: leave it with all segments, for another process to recover.
        """
        await self.run(self._close, keep)
        self._thread.shutdown(wait=False)

    def _close(self, keep: bool) -> None:  # noqa: FBT001 - an executor passes no keyword arguments
        mapped.forget(f"{self._path}{os.sep}")
        if self._lock is not None and not keep:
            shutil.rmtree(self._path, ignore_errors=True)
        self._unlock()


def _create(path: Path) -> int:
    """Create a file that only this user can open, and return a descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)  # whatever the umask
    return descriptor


def _is_whole(path: Path) -> bool:
    if path.suffix != SEGMENT_SUFFIX:
        return True
    try:
        return path.stat().st_size == SEGMENT_BYTES and not mapped.has_lost(str(path))
    except FileNotFoundError:
        return False


class DirectorySegments:
    """Segments of one target, made and removed in a thread; a `SegmentStorage`.

    Args:
        directory: where they are.
        owner: what their header says.
    """

    def __init__(self, directory: JournalDirectory, owner: Mapping[str, str]) -> None:
        self._directory = directory
        self._first_line = header(owner)

    async def create(self) -> Segment:
        """Return a new segment.

        Raises:
            OSError: there is no room, or the disk fails.
        """
        return await self._directory.run(self._directory.create, self._first_line)

    async def seal(self, segment: Segment) -> None:
        """Unmap a segment, because each mapped file takes a file descriptor."""
        if isinstance(segment.memory, mmap.mmap):
            await self._directory.run(self._directory.unmap, segment.name, segment.memory)

    async def remove(self, segment: Segment) -> None:
        """Remove a segment.

        Raises:
            OSError: it could not be removed.
        """
        await self._directory.run(self._directory.remove, segment.name)

    async def held(self) -> set[str]:
        """Return the names of the segments that are on disk, those of other targets included.

        Raises:
            OSError: the directory cannot be read.
        """
        return await self._directory.run(self._directory.held)
