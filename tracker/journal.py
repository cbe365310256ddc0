"""What is pending, once more, where a crash of the process leaves it: an append-only log.

Every change of the buffer is appended to memory that is mapped to a file, which the kernel keeps
when the process is killed. Nothing on a request's way creates, grows or removes a file: a task
keeps empty segments in store. What a flush has committed frees the segments that were full before
its drain. The merge is `max`, so segments need no order, and a committed touch that is still in one
does no harm.

Without room, touches are kept in memory alone, and `gap` says so, until all that was pending then
is committed or has been appended again. The same rewriting keeps the log short in an outage.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, Protocol

import structlog

from tracker.keys import Entries, Key
from tracker.records import Segment

SEGMENT_BYTES: Final = 2 << 20
"""Some 40,000 touches of uuids."""
LEAST_SEGMENTS: Final = 8
"""Fewer are of no use."""
_SPARES: Final = 2
_RETRY_S: Final = 1.0
_SLICE_KEYS: Final = 1000
_FEW_KEYS: Final = 1000
_NOTHING: Final = Segment("", bytearray(), 0)
"""Has no room."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Disk(Protocol):
    """Where segments come from."""

    async def create(self) -> Segment:
        """Return a new segment whose every byte is certain to find room.

        Raises:
            OSError: there is no room, or no disk.
        """
        ...

    async def remove(self, segment: Segment) -> None:
        """Give up a segment.

        Raises:
            OSError: it is still there.
        """
        ...


class Journal:
    """The log of one buffer's pending touches.

    Args:
        name: the target's name, for logs.
        disk: where segments come from.
        most_segments: the most there may be, `LEAST_SEGMENTS` or more; half are for rewriting.
    """

    def __init__(self, name: str, disk: Disk, *, most_segments: int) -> None:
        self.on_filling_up: Callable[[], None] = lambda: None
        """Called when it is time for a flush."""
        self.missed = 0
        """How many changes were not appended."""
        self._name = name
        self._disk = disk
        self._most_segments = most_segments
        self._live = _NOTHING
        self._full: list[Segment] = []  # since the last drain
        self._old: list[Segment] = []  # before it: with the live one they hold all that was drained
        self._carried = 0  # how many of these have outlived a flush
        self._rewritten = 0  # how many there were after they were written anew
        self._spares: list[Segment] = []
        self._freed: list[Segment] = []
        self._gap = self._old_gap = False  # whether a change was missed since the drain; before it
        self._problem: OSError | None = None  # why there is no spare segment
        self._work = asyncio.Event()
        self._work.set()

    @property
    def gap(self) -> bool:
        """Whether something that is pending would be lost in a crash."""
        return self._gap or self._old_gap

    @property
    def size_bytes(self) -> int:
        """How much room is taken, spare segments included."""
        return self._segments * SEGMENT_BYTES

    @property
    def _segments(self) -> int:
        live = self._live is not _NOTHING
        return live + len(self._full) + len(self._old) + len(self._spares) + len(self._freed)

    def append(self, key: object, second: int) -> None:
        """Note a change of the buffer; never blocks, never raises.

        Args:
            key: the key that was touched.
            second: when, since the epoch.
        """
        try:
            if not self._live.append(key, second):
                self._next_segment().append(key, second)
        except Exception:  # noqa: BLE001 - no segment, or a key that only equals one; no touch fails
            self._miss()

    def _miss(self) -> None:
        self.missed += 1
        if not self.gap:
            why = str(self._problem or "there are more touches than segments are made for")
            with suppress(Exception):  # a log that cannot be written fails no request
                log.error("journal.degraded", target=self._name, error=why)
        self._gap = True

    def _next_segment(self) -> Segment:
        """Go on with a spare segment.

        Raises:
            IndexError: there is none.
        """
        self._work.set()
        spare = self._spares.pop()
        if self._live is not _NOTHING:
            self._full.append(self._live)
        self._live = spare
        if len(self._full) >= self._most_segments // 8:
            self.on_filling_up()
        return spare

    def drained(self) -> None:
        """Note that the buffer has just been drained."""
        self._old += self._full
        self._full = []
        self._old_gap |= self._gap
        self._gap = False

    async def rewrite(self, batch: Entries) -> None:
        """Replace what was written before the drain by what was drained, if that is worth it.

        Args:
            batch: what was drained; it must not change meanwhile.
        """
        if not self._old_gap and self._carried <= 2 * self._rewritten + 2:
            return
        anew: list[Segment] = []
        try:
            entries = iter(batch.items())
            while some := list(islice(entries, _SLICE_KEYS)):
                await self._append_to(anew, some)
                await asyncio.sleep(0)
        except OSError as error:
            self._free(anew)
            self._fail(error)
        except BaseException:
            self._free(anew)
            raise
        else:
            self._free(self._old)
            self._old = anew
            self._carried = self._rewritten = len(anew)
            self._covered()

    async def _append_to(self, segments: list[Segment], some: Iterable[tuple[Key, int]]) -> None:
        for key, second in some:
            if not segments or not segments[-1].append(key, second):
                if len(segments) >= self._most_segments // 2:
                    raise OSError("what is pending does not fit into half of the journal")
                segments.append(await self._disk.create())
                segments[-1].append(key, second)

    def settled(self, uncommitted: Entries) -> None:
        """Note what a flush has left to be written again.

        Args:
            uncommitted: some or all of what was drained.
        """
        needed = self._old or self._old_gap
        if needed and len(uncommitted) <= _FEW_KEYS:
            try:
                for key, second in uncommitted.items():
                    if not self._live.append(key, second):
                        self._next_segment().append(key, second)
            except IndexError:  # there is no room: it stays where it is
                pass
            else:
                self._free(self._old)
                self._old = []
                self._rewritten = 0
                self._covered()
        self._carried = len(self._old)

    def _covered(self) -> None:
        """Note that a crash would lose nothing of what was pending at the drain."""
        gap, self._old_gap = self.gap, False
        if gap and not self.gap:
            log.info("journal.recovered", target=self._name)

    def _free(self, segments: list[Segment]) -> None:
        self._freed += segments
        self._work.set()

    async def open(self) -> None:
        """Make the first segments; without them it starts degraded."""
        try:
            await self._tidy()
            self._next_segment()
        except OSError as error:
            self._fail(error)

    async def keep(self) -> None:
        """Keep spare segments in store and remove those that are free, without end."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._tidy()
            except OSError as error:
                self._fail(error)
                await asyncio.sleep(_RETRY_S)
                self._work.set()
            else:
                self._problem = None

    async def _tidy(self) -> None:
        while self._freed:
            await self._disk.remove(self._freed[-1])
            self._freed.pop()
        while len(self._spares) < _SPARES:
            if self._segments >= self._most_segments // 2:
                raise OSError("the journal is as large as it may be")
            self._spares.append(await self._disk.create())

    def _fail(self, error: OSError) -> None:
        if self._problem is None:
            log.error("journal.failed", target=self._name, error=str(error))
        self._problem = error

    async def close(self, *, keep: bool) -> None:
        """End it; nothing may be appended any more.

        Args:
            keep: leave what was written, for the next process to find.
        """
        self._freed += [*self._spares, *self._full, *self._old]
        if self._live is not _NOTHING:
            self._freed.append(self._live)
        if not keep:
            for segment in self._freed:
                with suppress(OSError):  # whoever finds it finds nothing new in it
                    await self._disk.remove(segment)
        self._live = _NOTHING
        self._spares, self._full, self._old, self._freed = [], [], [], []
