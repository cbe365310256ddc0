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

from tracker._journal.format import Segment
from tracker.instrumentation import Log, LogThrottle
from tracker.keys import Entries, Key

SEGMENT_BYTES: Final = 4 << 20
"""Some 80,000 touches of uuids."""
MIN_SEGMENTS: Final = 16
"""Half are for rewriting, and a flush starts when an eighth is full: fewer would be of no use."""
MIN_JOURNAL_BYTES: Final = MIN_SEGMENTS * SEGMENT_BYTES
"""The least that `journal_max_bytes` may be."""
_SPARES: Final = 2
_RETRY_S: Final = 1.0
_LOOK_EVERY_S: Final = 5.0
_PATIENCE_S: Final = 1.0
"""How long a flush waits for a disk, before it goes on without the journal."""
_LOG_EVERY_S: Final = 60.0
_SLICE_KEYS: Final = 1000
_FEW_KEYS: Final = 1000
_NOTHING: Final = Segment("", bytearray(), 0)
"""Has no room."""

log: Final = Log(__name__)


class Disk(Protocol):
    """Where segments come from."""

    async def create(self) -> Segment:
        """Return a new segment whose every byte is certain to find room.

        Raises:
            OSError: there is no room, or no disk.
        """
        ...

    async def seal(self, segment: Segment) -> None:
        """Let go of a segment's memory: it is written to no more."""
        ...

    async def remove(self, segment: Segment) -> None:
        """Give up a segment.

        Raises:
            OSError: it is still there.
        """
        ...

    async def holds(self, segment: Segment) -> bool:
        """Return whether a segment is still there, for others to find."""
        ...


class Journal:
    """The log of one buffer's pending touches.

    Args:
        name: the target's name, for logs.
        disk: where segments come from.
        most_segments: the most there may be, `MIN_SEGMENTS` or more; half are for rewriting.
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
        self._anew: list[Segment] = []  # these, while they are written
        self._in_making = 0  # how many segments are being created
        self._failing = False  # whether the last flush has left much uncommitted
        self._spares: list[Segment] = []
        self._unsealed: list[Segment] = []
        self._freed: list[Segment] = []
        self._gap = self._old_gap = False  # whether a change was missed since the drain; before it
        self._problem: Exception | None = None  # what keeps the keeper from its work
        self._degraded = LogThrottle(_LOG_EVERY_S)
        self._told = False  # that it is degraded, and not yet that it has recovered
        self._work = asyncio.Event()
        self._work.set()

    @property
    def degraded(self) -> bool:
        """Whether something that is pending would be lost in a crash."""
        return self._gap or self._old_gap

    @property
    def size_bytes(self) -> int:
        """How much room is taken, spare segments included."""
        return self._segments * SEGMENT_BYTES

    @property
    def capacity_bytes(self) -> int:
        """How much room may be taken; half of it is kept for rewriting."""
        return self._most_segments * SEGMENT_BYTES

    @property
    def _segments(self) -> int:
        live = self._live is not _NOTHING
        needed = len(self._full) + len(self._old) + len(self._anew) + len(self._spares)
        return live + needed + len(self._freed) + self._in_making

    def append(self, key: object, second: int) -> None:
        """Note a change of the buffer; never blocks, never raises.

        Args:
            key: the key that was touched.
            second: when, since the epoch.
        """
        try:
            if not self._live.append(key, second):
                self._next_segment().append(key, second)
        except Exception as error:  # noqa: BLE001 - no room, or a key that only equals one
            self.missed += 1
            self._miss(error)

    def _miss(self, error: Exception) -> None:
        if not self.degraded and self._degraded.due():
            log.error("journal.degraded", target=self._name, error=str(self._problem or error))
            self._told = True
        self._gap = True

    def _next_segment(self) -> Segment:
        """Go on with a spare segment.

        Raises:
            OSError: there is none.
        """
        self._work.set()
        if not self._spares:
            raise OSError("touches come faster than the disk makes room for them")
        if self._live is not _NOTHING:
            self._full.append(self._live)
            self._unsealed.append(self._live)
        self._live = self._spares.pop()
        if len(self._full) >= self._most_segments // 8:
            self.on_filling_up()
        return self._live

    def drained(self) -> None:
        """Note that the buffer has just been drained."""
        self._old += self._full
        self._full = []
        self._old_gap |= self._gap
        self._gap = False

    async def rewrite(self, batch: Entries) -> None:
        """Replace what was written before the drain by what was drained, if that is worth it.

        It is when flushes fail: what is committed needs no journal.

        Args:
            batch: what was drained; it must not change meanwhile.
        """
        long = self._carried > 2 * self._rewritten + 2
        short_of_room = self._segments >= self._most_segments // 4
        worth_it = long or (short_of_room and self._carried > self._rewritten)
        if not (self._failing and (self._old_gap or worth_it)):
            return
        try:
            entries = iter(batch.items())
            while some := list(islice(entries, _SLICE_KEYS)):
                await self._append_anew(some)
                await asyncio.sleep(0)
        except OSError as error:
            self._fail(error)
        else:
            self._unsealed += self._anew
            self._old, self._anew = self._anew, self._old
            self._carried = self._rewritten = len(self._old)
            self._covered()
        finally:
            self._free(self._anew)
            self._anew = []

    async def _append_anew(self, some: Iterable[tuple[Key, int]]) -> None:
        anew = self._anew
        for key, second in some:
            if not anew or not anew[-1].append(key, second):
                async with asyncio.timeout(_PATIENCE_S):
                    anew.append(await self._create(self._most_segments))
                anew[-1].append(key, second)

    async def _create(self, most_segments: int) -> Segment:
        """Make a segment, unless there are so many, those that wait for their removal included.

        Raises:
            OSError: there are, or there is no room.
        """
        if self._segments >= most_segments:
            raise OSError("the journal is as large as it may be")
        self._in_making += 1
        try:
            return await self._disk.create()
        finally:
            self._in_making -= 1

    def settled(self, uncommitted: Entries) -> None:
        """Note what a flush has left to be written again; never raises.

        Args:
            uncommitted: some or all of what was drained.
        """
        if len(uncommitted) <= _FEW_KEYS and self._append_all(uncommitted):
            self._free(self._old)
            self._old = []
            self._rewritten = 0
            self._covered()
        self._carried = len(self._old)
        self._failing = bool(uncommitted)

    def _append_all(self, few: Entries) -> bool:
        """Append what would be lost with the old segments; whether nothing would."""
        if not (self._old or self._old_gap):
            return True
        try:
            for key, second in few.items():
                if not self._live.append(key, second):
                    self._next_segment().append(key, second)
        except OSError:  # it stays where it is
            return False
        return True

    def _covered(self) -> None:
        """Note that a crash would lose nothing of what was pending at the drain."""
        self._old_gap = False
        # As long as there is no room, the next change is missed again: that is no recovery.
        if self._told and not self.degraded and self._problem is None:
            log.info("journal.healthy", target=self._name)
            self._told = False

    def _free(self, segments: list[Segment]) -> None:
        self._freed += segments
        self._work.set()

    async def open(self) -> None:
        """Make the first segments; without them it starts degraded."""
        try:
            await self._restock()
            self._next_segment()
        except OSError as error:
            self._fail(error)

    async def keep(self) -> None:
        """Keep spare segments in store and remove those that are free, without end."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._work.wait()
            self._work.clear()
            try:
                await self._look()
                tidy = await self._tidy()
                await self._restock()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self._fail(error)
                await asyncio.sleep(_RETRY_S)
                self._work.set()
            else:
                if tidy:
                    self._problem = None

    async def _look(self) -> None:
        """See that nobody has swept the journal away."""
        live = self._live
        if live is _NOTHING or await self._disk.holds(live) or live is not self._live:
            return
        self._live = _NOTHING
        self._full, self._old, self._spares, self._freed = [], [], [], []
        self._miss(FileNotFoundError("somebody has removed the journal"))
        self._old_gap = True

    async def _tidy(self) -> bool:
        """Let go of what is needed no more; whether all of it could be removed."""
        while self._unsealed:
            await self._disk.seal(self._unsealed.pop())
        for segment in self._freed.copy():
            try:
                await self._disk.remove(segment)
            except OSError as error:
                self._fail(error)
                return False
            with suppress(ValueError):
                self._freed.remove(segment)
        return True

    async def _restock(self) -> None:
        """Make spare segments.

        Raises:
            OSError: there is no room.
        """
        while len(self._spares) < _SPARES:
            self._spares.append(await self._create(self._most_segments // 2))

    def _fail(self, error: Exception) -> None:
        if self._problem is None:
            why = str(error) or type(error).__name__
            log.error("journal.failed", target=self._name, error=why)
        self._problem = error

    async def close(self) -> None:
        """Let go of all segments, and remove those without a use; nothing is appended any more."""
        with suppress(OSError):  # whoever finds them finds nothing new in them
            for segment in (*self._spares, *self._freed):
                await self._disk.remove(segment)
        self._live = _NOTHING
        self._spares, self._full, self._old, self._freed = [], [], [], []
        self._unsealed = []
