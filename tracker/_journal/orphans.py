"""Orphaned journals as files: directories of processes that are gone, locked by this process."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from tracker._journal.files import (
    SEGMENT_SUFFIX,
    SERVER_FILE,
    UNFINISHED_SUFFIX,
    is_directory_name,
    lock_if_orphaned,
    locked,
    tighten,
    unlock,
)
from tracker._journal.format import SEGMENT_BYTES, UnreadableJournal

_SERVER_BYTES: Final = 4096


class OrphanedDirectory:
    """The directory of a process that is gone; an `OrphanedJournal`.

    Args:
        path: where it is.
        lock: a descriptor that holds its lock.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    def __str__(self) -> str:
        """Return its path."""
        return str(self._path)

    def server(self) -> str | None:
        """Return which database its process wrote to; None if the process never learned it."""
        try:
            return self._read(SERVER_FILE, _SERVER_BYTES).decode("utf-8", "replace").strip()
        except (FileNotFoundError, UnreadableJournal):  # segments are then rejected one by one
            return None

    def segments(self) -> list[str]:
        """Return the paths of its segments: regular files only."""
        paths = [path for path in self._path.glob(f"*{SEGMENT_SUFFIX}") if path.is_file()]
        return sorted(str(path) for path in paths if not path.is_symlink())

    def read(self, path: str) -> bytes:
        """Return the content of a segment.

        Raises:
            UnreadableJournal: another user may have written it, or it is no valid segment.
            OSError: it cannot be read.
        """
        return self._read(Path(path).name, SEGMENT_BYTES)

    def _read(self, name: str, max_bytes: int) -> bytes:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            tighten(self._lock, keep=0o700)
            descriptor = os.open(name, flags, dir_fd=self._lock)
            with os.fdopen(descriptor, "rb") as file:
                status = tighten(descriptor, keep=0o600)
                if not stat.S_ISREG(status.st_mode):
                    raise UnreadableJournal("it is not a file")
                if status.st_size > max_bytes:
                    raise UnreadableJournal("it is larger than any file of a journal")
                return file.read(max_bytes)
        except PermissionError as error:
            raise UnreadableJournal(f"it is not safe to read: {error.strerror}") from error

    def remove(self, path: str) -> None:
        """Remove a segment."""
        Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock it; it is removed if it has no segments left."""
        with suppress(OSError):
            tighten(self._lock, keep=0o700)
            for unfinished in self._path.glob(f"*{UNFINISHED_SUFFIX}"):
                unfinished.unlink()
            if not any(self._path.glob(f"*{SEGMENT_SUFFIX}")):
                (self._path / SERVER_FILE).unlink(missing_ok=True)
            self._path.rmdir()
        unlock(self._lock)


def lock_orphans(parent: Path) -> list[OrphanedDirectory]:
    """Lock and return the directories of processes that are gone; the caller closes them.

    Args:
        parent: where all processes have their directories.

    Raises:
        OSError: it cannot be read.
    """
    with locked(parent):
        directories = [path for path in parent.iterdir() if is_directory_name(path.name)]
        return [
            OrphanedDirectory(path, lock)
            for path in sorted(directories)
            if (lock := lock_if_orphaned(path)) is not None
        ]
