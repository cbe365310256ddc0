"""Recovers orphaned journals: brings the touches of processes that are gone into our buffers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final

from tracker._buffer.buffer import Buffer
from tracker._journal.format import Contents, UnreadableJournal, read, read_header
from tracker._journal.storage import OrphanedJournal
from tracker.instrumentation import Log

_SLICE_KEYS: Final = 1000
_POLL_S: Final = 0.5
_SEARCH_EVERY_S: Final = 60.0
"""A process that ends after this one has started may leave a journal, too."""
_START_TIMEOUT_S: Final = 5.0
"""How long a start waits for the recovery. What does not fit into the buffers takes longer."""

log: Final = Log(__name__)


class JournalRecovery:
    """Recovers orphaned journals at the start, and regularly while the process runs.

    Args:
        orphans: locks and returns orphaned journals; may block.
        owners: for each target, what the headers of its segments say.
        buffers: the buffers, by target.
    """

    def __init__(
        self,
        orphans: Callable[[], Sequence[OrphanedJournal]],
        owners: Mapping[str, Mapping[str, str]],
        buffers: Mapping[str, Buffer],
    ) -> None:
        self.recovered = dict.fromkeys(buffers, 0)
        """How many touches were recovered, by target."""
        self.foreign_segments = 0
        """How many segments the last search found that cannot be recovered by this process."""
        self._orphans = orphans
        self._owners = owners
        self._buffers = buffers
        self._searched = asyncio.Event()
        self._logged: set[tuple[str, str]] = set()  # (path, reason) of foreign segments

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recover all that fits into the buffers before the block runs, and the rest meanwhile."""
        task = asyncio.create_task(self._run(), name="tracker-journal-recovery")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_START_TIMEOUT_S):
                    await self._searched.wait()
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                await self._search()
            except Exception:
                log.exception("journal.unreadable")
            self._searched.set()
            await asyncio.sleep(_SEARCH_EVERY_S)

    async def _search(self) -> None:
        orphans = list(await asyncio.to_thread(self._orphans))
        foreign_segments = 0
        try:
            while orphans:
                foreign_segments += await self._recover_journal(orphans[-1])
                orphans.pop().close()
            self.foreign_segments = foreign_segments
        finally:
            for orphan in orphans:
                orphan.close()

    async def _recover_journal(self, orphan: OrphanedJournal) -> int:
        """Recover a journal; return how many of its segments are foreign."""
        touches = dict.fromkeys(self._buffers, 0)
        foreign: Counter[str] = Counter()
        for path in await asyncio.to_thread(orphan.segments):
            try:
                owner, contents = await asyncio.to_thread(_contents, orphan, path)
                target = self._target(owner)
            except (UnreadableJournal, OSError) as error:
                foreign[str(error)] += 1
                continue
            if contents.torn_bytes:
                log.warning("journal.torn", path=path, cut_off_bytes=contents.torn_bytes)
            await self._recover_touches(target, contents.entries)
            touches[target] += len(contents.entries)
            # The segment may go only when its touches are in our own journal, or committed.
            await _until(self._all_is_journaled)
            await asyncio.to_thread(orphan.remove, path)
        if any(touches.values()):
            log.info("journal.recovered", path=str(orphan), touches=touches)
        for reason, segments in foreign.items():
            self._log_foreign(str(orphan), reason, segments)
        return foreign.total()

    def _target(self, owner: Mapping[str, str]) -> str:
        """Return the target that a segment belongs to.

        Raises:
            UnreadableJournal: it belongs to none of ours.
        """
        for target, ours in self._owners.items():
            if ours == owner:
                return target
        described = ", ".join(f"{name} {value!r}" for name, value in owner.items())
        raise UnreadableJournal(f"it belongs to another configuration: {described:.500}")

    def _all_is_journaled(self) -> bool:
        return not any(
            buffer.journal and buffer.journal.degraded for buffer in self._buffers.values()
        )

    def _log_foreign(self, path: str, reason: str, segments: int) -> None:
        if (path, reason) not in self._logged:
            self._logged.add((path, reason))
            log.error(
                "journal.foreign",
                path=path,
                segments=segments,
                error=reason,
                hint="start once with the configuration that it belongs to, or delete it",
            )

    async def _recover_touches(self, target: str, entries: Mapping[str, int]) -> None:
        buffer = self._buffers[target]
        high_water = buffer.target.high_water  # the rest of the room is for new touches
        remaining = iter(entries.items())
        while some := list(islice(remaining, min(_SLICE_KEYS, high_water))):
            max_keys = high_water - len(some)
            await _until(lambda: len(buffer) <= max_keys)  # noqa: B023 - awaited at once
            for key, second in some:
                buffer.recover(key, second)
            self.recovered[target] += len(some)
            await asyncio.sleep(0)


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(_POLL_S)


def _contents(orphan: OrphanedJournal, path: str) -> tuple[dict[str, str], Contents]:
    memory = orphan.read(path)
    owner, start = read_header(memory)
    return owner, read(memory, start)
