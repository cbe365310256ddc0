"""The supply of segments: makes spare ones before they are needed, and removes those that are free.

A request never waits for a file to be created, grown or removed: the keeper task of the journal
calls `restock` and `tidy`.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from tracker._journal.format import Segment
from tracker._journal.storage import SegmentStorage
from tracker.instrumentation import Log

_SPARES: Final = 2

log: Final = Log(__name__)


class SegmentSupply:
    """The segments of one journal: in use, spare, and freed but not yet removed.

    Args:
        name: the target's name, for logs.
        storage: makes and removes segments.
        max_segments: the most that may exist; half of them are kept for rewriting.
    """

    def __init__(self, name: str, storage: SegmentStorage, max_segments: int) -> None:
        self.max_segments = max_segments
        self.problem: Exception | None = None
        """What kept the last attempt to create or remove segments from success."""
        self._name = name
        self._storage = storage
        self._in_use: set[Segment] = set()
        self._spares: list[Segment] = []
        self._freed: list[Segment] = []
        self._unsealed: list[Segment] = []
        self._creating = 0

    def __len__(self) -> int:
        """The number of segments, those that are being created included."""
        return len(self._in_use) + len(self._spares) + len(self._freed) + self._creating

    def take(self) -> Segment:
        """Return a spare segment, which is in use from now on.

        Raises:
            OSError: there is none.
        """
        if not self._spares:
            raise OSError("touches come faster than the disk makes room for them")
        segment = self._spares.pop()
        self._in_use.add(segment)
        return segment

    async def create(self) -> Segment:
        """Make a segment for rewriting, which is in use from now on.

        Raises:
            OSError: there are as many as there may be, or there is no room.
        """
        segment = await self._create(self.max_segments)
        self._in_use.add(segment)
        return segment

    def seal(self, segments: Iterable[Segment]) -> None:
        """Release the memory of segments that are full, at the next `tidy`."""
        self._unsealed += segments

    def free(self, segments: Iterable[Segment]) -> None:
        """Remove segments that are no longer needed, at the next `tidy`."""
        freed = [segment for segment in segments if segment in self._in_use]
        self._in_use.difference_update(freed)
        self._freed += freed

    async def find_lost(self) -> set[Segment]:
        """Forget segments that are no longer on disk; return those that were in use.

        Raises:
            OSError: the disk fails.
        """
        known = [*self._in_use, *self._spares, *self._freed]
        if not known:
            return set()
        held = await self._storage.held()
        lost = {segment for segment in known if segment.name not in held}
        self._spares = [segment for segment in self._spares if segment not in lost]
        self._freed = [segment for segment in self._freed if segment not in lost]
        lost_in_use = self._in_use & lost
        self._in_use -= lost
        return lost_in_use

    async def restock(self) -> None:
        """Make spare segments.

        Raises:
            OSError: there is no room.
        """
        while len(self._spares) < _SPARES:
            self._spares.append(await self._create(self.max_segments // 2))

    async def _create(self, max_segments: int) -> Segment:
        if len(self) >= max_segments:
            raise OSError("the journal is as large as it may be")
        self._creating += 1
        try:
            return await self._storage.create()
        finally:
            self._creating -= 1

    async def tidy(self) -> bool:
        """Release the memory of full segments and remove freed ones; return whether that worked."""
        while self._unsealed:
            await self._storage.seal(self._unsealed.pop())
        for segment in self._freed.copy():
            try:
                await self._storage.remove(segment)
            except OSError as error:
                self.fail(error)
                return False
            with suppress(ValueError):
                self._freed.remove(segment)
        return True

    def fail(self, error: Exception) -> None:
        """Record what keeps segments from being created or removed, and log it once."""
        if self.problem is None:
            why = str(error) or type(error).__name__
            log.error("journal.failed", target=self._name, error=why)
        self.problem = error

    async def close(self) -> None:
        """Remove the segments without touches, and forget the rest, which stays on disk."""
        with suppress(OSError):  # if they stay, another process finds nothing new in them
            for segment in (*self._spares, *self._freed):
                await self._storage.remove(segment)
        self.abandon()

    def abandon(self) -> None:
        """Forget all segments, which stay on disk."""
        self._in_use, self._spares, self._freed, self._unsealed = set(), [], [], []
