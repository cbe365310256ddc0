"""Journals as files: a folder for each process, locked for as long as the process lives.

The kernel lets go of a lock however a process ends, so a folder whose lock can be had belongs to
the dead. While a folder is made, and while the dead are looked for, the directory of all folders is
locked, too. POSIX only, and not for file systems that fake locks, as some network ones do. A
process that forks shares its lock with its children.
"""

import asyncio
import errno
import fcntl
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from tracker._journal.format import Segment, header
from tracker._journal.journal import SEGMENT_BYTES
from tracker.errors import ConfigurationError
from tracker.instrumentation import Log

_SUFFIX: Final = ".journal"
_UNFINISHED: Final = ".new"
_FOLDER_NAME: Final = re.compile(r"\d+-[0-9a-f]{8}").fullmatch
"""Nothing else in the directory is ours, whatever directory we were given."""
_FOLDER_ONLY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
"""No pipe that somebody would have to write to, and no link that leads elsewhere."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")

log: Final = Log(__name__)


class JournalDirectory:
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
                    f"cannot keep a journal in directory {self._path.parent}: {error.strerror}; "
                    "name a directory that can be written to, or do without a journal"
                ) from error

    def _make(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._path.parent):
            self._path.mkdir(exist_ok=True)
            lock = os.open(self._path, _FOLDER_ONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(lock)
                raise
            self._unlock()
            self._lock = lock

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def create(self, first_line: bytes) -> Segment:
        """Make a segment, all of it written, so that the disk cannot be too full for it later.

        Args:
            first_line: its header.

        Raises:
            OSError: there is no room, or no disk.
        """
        if self._lock is None or not self._path.exists():
            self._make()
        path = self._path / f"{next(self._numbers):08d}{_SUFFIX}"
        unfinished = path.with_suffix(_UNFINISHED)
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

    def holds(self, name: str) -> bool:
        """Return whether a segment is there."""
        return (self._path / name).exists()

    def disk(self, owner: Mapping[str, str]) -> "DirectorySegments":
        """Return where the journal of one target has its segments.

        Args:
            owner: whose touches they hold.
        """
        return DirectorySegments(self, owner)

    def orphans(self) -> list["OrphanedDirectory"]:
        """Lock and return the folders of processes that are gone; the caller closes them.

        Raises:
            OSError: the directory cannot be read.
        """
        with _locked(self._path.parent):
            folders = [path for path in self._path.parent.iterdir() if _FOLDER_NAME(path.name)]
            return [
                OrphanedDirectory(path, lock)
                for path in sorted(folders)
                if (lock := _lock_of_the_dead(path)) is not None
            ]

    async def close(self, *, keep: bool) -> None:
        """Let go of it.

        Args:
            keep: leave it with all that is in it, for another process to find.
        """
        await self.run(self._close, keep)
        self._thread.shutdown(wait=False)

    def _close(self, keep: bool) -> None:  # noqa: FBT001 - a thread takes no names
        if self._lock is not None and not keep:
            shutil.rmtree(self._path, ignore_errors=True)
        self._unlock()


class DirectorySegments:
    """Segments of one target, made and removed in a thread.

    Args:
        folder: where they are.
        owner: whose touches they hold.
    """

    def __init__(self, folder: JournalDirectory, owner: Mapping[str, str]) -> None:
        self._folder = folder
        self._first_line = header(owner)

    async def create(self) -> Segment:
        """Return a new segment.

        Raises:
            OSError: there is no room, or no disk.
        """
        return await self._folder.run(self._folder.create, self._first_line)

    async def seal(self, segment: Segment) -> None:
        """Unmap a segment: each one that is mapped takes a file descriptor."""
        if isinstance(segment.memory, mmap.mmap):
            await self._folder.run(segment.memory.close)

    async def remove(self, segment: Segment) -> None:
        """Give up a segment.

        Raises:
            OSError: it is still there.
        """
        await self._folder.run(self._folder.remove, segment.name)

    async def holds(self, segment: Segment) -> bool:
        """Return whether a segment is still there."""
        return await self._folder.run(self._folder.holds, segment.name)


class OrphanedDirectory:
    """The folder of a process that is gone, locked by this one.

    Args:
        path: where it is.
        lock: a descriptor of it.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    def __str__(self) -> str:
        """Return where it is."""
        return str(self._path)

    def segments(self) -> list[str]:
        """Return the paths of its segments, which are files and nothing else."""
        paths = [path for path in self._path.glob(f"*{_SUFFIX}") if path.is_file()]
        return sorted(str(path) for path in paths if not path.is_symlink())

    def read(self, path: str) -> bytes:
        """Return all of a segment."""
        return Path(path).read_bytes()

    def remove(self, path: str) -> None:
        """Remove a segment."""
        Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; it is removed unless there are journals in it."""
        with suppress(OSError):
            for unfinished in self._path.glob(f"*{_UNFINISHED}"):
                unfinished.unlink()
            self._path.rmdir()
        os.close(self._lock)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock_of_the_dead(folder: Path) -> int | None:
    """Lock a folder, unless its process lives."""
    try:
        lock = os.open(folder, _FOLDER_ONLY)
    except FileNotFoundError:  # somebody has just taken it over
        return None
    except OSError as error:
        log.warning("journal.unreadable", path=str(folder), error=str(error))
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock
