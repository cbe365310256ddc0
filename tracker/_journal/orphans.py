"""Orphaned journals as files: directories of processes that are gone, locked by this process."""

from contextlib import suppress
from pathlib import Path

from tracker._journal.files import (
    SEGMENT_SUFFIX,
    SERVER_FILE,
    UNFINISHED_SUFFIX,
    is_directory_name,
    lock_if_orphaned,
    locked,
    unlock,
)


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
            return (self._path / SERVER_FILE).read_text().strip()
        except FileNotFoundError:
            return None

    def segments(self) -> list[str]:
        """Return the paths of its segments: regular files only."""
        paths = [path for path in self._path.glob(f"*{SEGMENT_SUFFIX}") if path.is_file()]
        return sorted(str(path) for path in paths if not path.is_symlink())

    def read(self, path: str) -> bytes:
        """Return the content of a segment."""
        return Path(path).read_bytes()

    def remove(self, path: str) -> None:
        """Remove a segment."""
        Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock it; it is removed if it has no segments left."""
        with suppress(OSError):
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
