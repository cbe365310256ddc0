"""The journal of one buffer: a copy of what is pending that survives a crash of the process.

Every change of the buffer is appended to a segment: memory that is mapped to a file, which the
kernel keeps when the process is killed. When a flush has committed, the segments that were full
before its drain are freed. Records are merged by `max`, so segments need no order, and a committed
touch that is still in one has no effect.

Without room for a change the journal is *degraded*: some touches are in memory alone, until all
that was pending at that time is committed or has been appended again. Rewriting, which appends a
drained batch again, also keeps the journal short during an outage.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final

from tracker._journal.format import SEGMENT_BYTES, Segment
from tracker._journal.storage import SegmentStorage
from tracker._journal.supply import SegmentSupply
from tracker.instrumentation import Log, LogThrottle
from tracker.keys import Entries, Key

MIN_SEGMENTS: Final = 16
"""Half are for rewriting, and a flush starts when an eighth is full: fewer would be of no use."""
MIN_JOURNAL_BYTES: Final = MIN_SEGMENTS * SEGMENT_BYTES
"""The least that `journal_max_bytes` may be."""
_RETRY_S: Final = 1.0
_CHECK_EVERY_S: Final = 5.0
_CREATE_TIMEOUT_S: Final = 1.0
"""How long a flush waits for a new segment, before it continues without rewriting the journal."""
_LOG_EVERY_S: Final = 60.0
_SLICE_KEYS: Final = 1000
_FEW_KEYS: Final = 1000
_NO_SEGMENT: Final = Segment("", bytearray(), 0)
"""Has no room for any record."""

log: Final = Log(__name__)


class Journal:
    """The append-only log of one buffer's pending touches.

    Args:
        name: the target's name, for logs.
        storage: makes and removes segments.
        max_segments: the most that may exist, `MIN_SEGMENTS` or more; half are for rewriting.
    """

    def __init__(self, name: str, storage: SegmentStorage, *, max_segments: int) -> None:
        self.on_filling_up: Callable[[], None] = lambda: None
        """Called when it is time for a flush."""
        self.missed = 0
        """How many changes were not appended."""
        self._name = name
        self._supply = SegmentSupply(name, storage, max_segments)
        self._current = _NO_SEGMENT  # changes are appended to it
        self._full: list[Segment] = []  # since the last drain
        # Full before the last drain: with the current one they hold all that was drained.
        self._drained: list[Segment] = []
        self._carried = 0  # how many of these have outlived a flush
        self._rewritten = 0  # how many there were after they were rewritten
        self._rewriting: list[Segment] = []  # what replaces them, while it is written
        self._failing = False  # whether the last flush has left something uncommitted
        self._incomplete = False  # whether a change was missed since the last drain
        self._drained_incomplete = False  # whether one was missed before it
        self._degraded_throttle = LogThrottle(_LOG_EVERY_S)
        self._degraded_logged = False  # and not yet that it is healthy again
        self._work = asyncio.Event()
        self._work.set()

    @property
    def degraded(self) -> bool:
        """Whether a crash would lose a pending touch now."""
        return self._incomplete or self._drained_incomplete

    @property
    def size_bytes(self) -> int:
        """How much room is taken, spare segments included."""
        return len(self._supply) * SEGMENT_BYTES

    @property
    def capacity_bytes(self) -> int:
        """How much room may be taken; half of it is kept for rewriting."""
        return self._supply.max_segments * SEGMENT_BYTES

    def append(self, key: object, second: int) -> None:
        """Append a change of the buffer; never blocks, never raises.

        Args:
            key: the key that was touched.
            second: when, since the epoch.
        """
        try:
            if not self._current.append(key, second):
                self._next_segment().append(key, second)
        except Exception as error:  # noqa: BLE001 - no room, or a key that only equals one
            self.missed += 1
            self._miss(error)

    def _miss(self, error: Exception) -> None:
        if not self.degraded and self._degraded_throttle.due():
            problem = str(self._supply.problem or error)
            log.error("journal.degraded", target=self._name, error=problem)
            self._degraded_logged = True
        self._incomplete = True

    def _next_segment(self) -> Segment:
        """Go on with a spare segment.

        Raises:
            OSError: there is none.
        """
        self._work.set()
        segment = self._supply.take()
        if self._current is not _NO_SEGMENT:
            self._full.append(self._current)
            self._supply.seal([self._current])
        self._current = segment
        if len(self._full) >= self._supply.max_segments // 8:
            self.on_filling_up()
        return segment

    def drained(self) -> None:
        """Record that the buffer has just been drained."""
        self._drained += self._full
        self._full = []
        self._drained_incomplete |= self._incomplete
        self._incomplete = False

    async def rewrite(self, batch: Entries) -> None:
        """Replace what was appended before the drain by what was drained, if that is worth it.

        It is worth it only while flushes fail: what is committed needs no journal.

        Args:
            batch: what was drained; it must not change meanwhile.
        """
        long = self._carried > 2 * self._rewritten + 2
        short_of_room = len(self._supply) >= self._supply.max_segments // 4
        worth_it = long or (short_of_room and self._carried > self._rewritten)
        if not (self._failing and (self._drained_incomplete or worth_it)):
            return
        try:
            entries = iter(batch.items())
            while some := list(islice(entries, _SLICE_KEYS)):
                await self._append_rewriting(some)
                await asyncio.sleep(0)
        except OSError as error:
            self._supply.fail(error)
        else:
            self._supply.seal(self._rewriting)
            self._drained, self._rewriting = self._rewriting, self._drained
            self._carried = self._rewritten = len(self._drained)
            self._covered()
        finally:
            self._free(self._rewriting)
            self._rewriting = []

    async def _append_rewriting(self, some: Iterable[tuple[Key, int]]) -> None:
        segments = self._rewriting
        for key, second in some:
            if not segments or not segments[-1].append(key, second):
                async with asyncio.timeout(_CREATE_TIMEOUT_S):
                    segments.append(await self._supply.create())
                segments[-1].append(key, second)

    def settled(self, uncommitted: Entries) -> None:
        """Record what a flush has left to be written again; never raises.

        Args:
            uncommitted: some or all of what was drained.
        """
        if len(uncommitted) <= _FEW_KEYS and self._append_all(uncommitted):
            self._free(self._drained)
            self._drained = []
            self._rewritten = 0
            self._covered()
        self._carried = len(self._drained)
        self._failing = bool(uncommitted)

    def _append_all(self, few: Entries) -> bool:
        """Append what only the drained segments hold; return whether all of it was appended."""
        if not (self._drained or self._drained_incomplete):
            return True
        try:
            for key, second in few.items():
                if not self._current.append(key, second):
                    self._next_segment().append(key, second)
        except OSError:  # it stays in the drained segments
            return False
        return True

    def _covered(self) -> None:
        """Record that a crash would lose nothing of what was pending at the drain."""
        self._drained_incomplete = False
        # As long as there is no room, the next change will be missed again: that is not healthy.
        if self._degraded_logged and not self.degraded and self._supply.problem is None:
            log.info("journal.healthy", target=self._name)
            self._degraded_logged = False

    def _free(self, segments: list[Segment]) -> None:
        self._supply.free(segments)
        self._work.set()

    async def open(self) -> None:
        """Make the first segments; if there is no room, the journal starts degraded."""
        try:
            await self._supply.restock()
            self._next_segment()
        except OSError as error:
            self._supply.fail(error)

    async def keep(self) -> None:
        """Keep spare segments in supply, remove freed ones, and notice removed ones; never ends."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await self._work.wait()
            self._work.clear()
            try:
                await self._check_segments()
                is_tidy = await self._supply.tidy()
                await self._supply.restock()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self._supply.fail(error)
                await asyncio.sleep(_RETRY_S)
                self._work.set()
            else:
                if is_tidy:
                    self._supply.problem = None

    async def _check_segments(self) -> None:
        """Notice when another program has removed segments that hold touches."""
        lost = await self._supply.find_lost()
        if not lost:
            return
        if self._current in lost:
            self._current = _NO_SEGMENT
        for segments in (self._full, self._drained):
            segments[:] = [segment for segment in segments if segment not in lost]
        # A segment may hold touches from before the drain and from after it. Nor does it help if a
        # flush is about to cover the former: segments that it has just written may be lost, too.
        self._miss(
            FileNotFoundError("another program has removed or cut the journal, or its disk fails")
        )
        self._drained_incomplete = True

    def abandon(self) -> None:
        """Append nothing more, and leave all segments to the process that made them."""
        self._supply.abandon()
        self._current = _NO_SEGMENT

    async def close(self) -> None:
        """Release all segments and remove those without touches; nothing is appended afterwards."""
        await self._supply.close()
        self._current = _NO_SEGMENT
        self._full, self._drained = [], []
