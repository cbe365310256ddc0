"""A journal in memory, with the buffer and the flush that use it."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.stores import FlushRig
from tracker._journal.format import Segment, read
from tracker._journal.journal import Journal

RECORD_BYTES = 15


ROOM = 4
"""Records of keys of three digits that fit into a segment."""


class MemoryDisk:
    """Segments in memory, and what a process that comes later would find in them."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.made = 0
        self.full = False
        self.stuck = False
        self.sealed: set[str] = set()

    async def create(self) -> Segment:
        await asyncio.sleep(0)
        if self.full:
            raise OSError(errno.ENOSPC, "no space left")
        self.made += 1
        segment = Segment(f"{self.made}", bytearray(ROOM * RECORD_BYTES), 0)
        self.segments[segment.name] = segment
        return segment

    async def remove(self, segment: Segment) -> None:
        await asyncio.sleep(0)
        if self.stuck:
            raise OSError(errno.EIO, "cannot be removed")
        del self.segments[segment.name]

    async def seal(self, segment: Segment) -> None:
        assert segment.name not in self.sealed
        self.sealed.add(segment.name)

    async def held(self) -> set[str]:
        return set(self.segments)

    def found(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for segment in self.segments.values():
            for key, at in read(segment.memory, 0).entries.items():
                found[key] = max(found.get(key, 0), at)
        return found


class JournalRig(FlushRig):
    """A buffer with a journal, and the flush that empties it."""

    def __init__(self, most_segments: int = 64) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.journal = Journal("things", self.disk, max_segments=most_segments)
        self.buffer.attach(self.journal)

    def covered(self) -> bool:
        """Whether a process that is killed now would lose nothing."""
        view, found = self.buffer.view(), self.disk.found()
        keys = {key for entries in view._maps for key in entries}
        return all(found.get(str(key), -1) >= (view.get(key) or 0) for key in keys)

    async def tidied(self) -> None:
        """Let the keeper do what it has to do."""
        for _ in range(50):
            await asyncio.sleep(0)


@asynccontextmanager
async def running_rig() -> AsyncIterator[JournalRig]:
    """Open a journal, and run its keeper while the block runs."""
    rig = JournalRig()
    await rig.journal.open()
    keeper = asyncio.create_task(rig.journal.keep())
    await rig.tidied()
    yield rig
    keeper.cancel()
    await asyncio.wait({keeper})
