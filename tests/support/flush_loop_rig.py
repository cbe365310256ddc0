"""A flush loop on a store in memory."""

from dataclasses import replace

from tests.support.stores import TARGET, MemoryStore
from tracker._buffer.buffer import Buffer
from tracker._flush.backoff import Backoff
from tracker._flush.flusher import Flusher
from tracker._flush.loop import FlushLoop

NEVER_S = 3600.0
SOON_S = 0.01


class LoopRig:
    """A flusher on a store in memory."""

    def __init__(
        self,
        *,
        interval_s: float,
        deadline_s: float = 60.0,
        high_water_keys: int = 1000,
        backoff: Backoff | None = None,
    ) -> None:
        target = replace(TARGET, capacity_keys=1000, high_water_keys=high_water_keys)
        self.buffer = Buffer(target)
        self.store = MemoryStore()
        self.flusher = Flusher(self.buffer, self.store, chunk_keys=100)
        self.loop = FlushLoop(
            self.flusher,
            interval_s=interval_s,
            deadline_s=deadline_s,
            backoff=backoff or Backoff(),
        )

    async def written(self) -> None:
        await self.store.written.wait()
        self.store.written.clear()
