"""What journals need of a disk: protocols, so that simulations and tests can use one in memory."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from tracker._journal.format import Segment


class SegmentStorage(Protocol):
    """Makes and removes the segments of one target."""

    async def create(self) -> Segment:
        """Return a new segment, with disk space for all of its bytes.

        Raises:
            OSError: there is no room, or the disk fails.
        """
        ...

    async def seal(self, segment: Segment) -> None:
        """Release the memory of a segment that is full; it stays on disk."""
        ...

    async def remove(self, segment: Segment) -> None:
        """Remove a segment.

        Raises:
            OSError: it could not be removed.
        """
        ...

    async def held(self) -> AbstractSet[str]:
        """Return the names of the segments that are on disk; others may be among them.

        Raises:
            OSError: the disk fails.
        """
        ...


class OrphanedJournal(Protocol):
    """The journals of one process that is gone, locked by this process until `close`.

    All methods may block and raise OSError.
    """

    def server(self) -> str | None:
        """Return which database its process wrote to; None if the process never learned it."""
        ...

    def segments(self) -> Sequence[str]:
        """Return the paths of its segments."""
        ...

    def read(self, path: str) -> bytes:
        """Return the content of a segment."""
        ...

    def remove(self, path: str) -> None:
        """Remove a segment."""
        ...

    def close(self) -> None:
        """Unlock it; it is removed if it has no segments left."""
        ...


class JournalStorage(Protocol):
    """Where one process keeps its journals and finds orphaned ones."""

    async def open(self) -> None:
        """Claim a place for the journals of this process.

        Raises:
            ConfigurationError: it cannot be written to.
        """
        ...

    def segments(self, owner: Mapping[str, str]) -> SegmentStorage:
        """Return the storage for the segments of one target.

        Args:
            owner: what the header of each segment says: target, table, columns and origin.
        """
        ...

    async def record_server(self, server: str) -> None:
        """Keep beside the segments which database their touches are written to.

        Raises:
            OSError: it cannot be kept now.
        """
        ...

    def orphans(self) -> Sequence[OrphanedJournal]:
        """Lock and return the journals of processes that are gone; may block."""
        ...

    async def close(self, *, keep: bool) -> None:
        """Release the place.

        Args:
            keep: leave all segments for another process to recover.
        """
        ...
