"""Recovers orphaned journals: brings the touches of processes that are gone into our buffers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final

from tracker._buffer.buffer import Buffer
from tracker._journal.format import Contents, UnreadableJournal, read, read_header
from tracker._journal.owner import Owners
from tracker._journal.storage import JournalStorage, OrphanedJournal
from tracker.errors import StoreError
from tracker.instrumentation import Log

_SLICE_KEYS: Final = 1000
_POLL_S: Final = 0.5
_SEARCH_EVERY_S: Final = 60.0
"""A process that ends after this one has started may leave a journal, too."""
_ASK_TIMEOUT_S: Final = 2.0
"""How long to wait for the server to say which database it is, before other journals are read."""
_ASK_EVERY_S: Final = 5.0
_START_TIMEOUT_S: Final = 5.0
"""How long a start waits for the recovery. What does not fit into the buffers takes longer."""

log: Final = Log(__name__)


class JournalRecovery:
    """Recovers orphaned journals at the start, and regularly while the process runs.

    Args:
        storage: finds orphaned journals, and keeps beside our own which database it is.
        owners: whose touches our journals hold.
        buffers: the buffers, by target.
        identity: asks the server which database it is; raises StoreError if it cannot be asked.
    """

    def __init__(
        self,
        storage: JournalStorage,
        owners: Owners,
        buffers: Mapping[str, Buffer],
        *,
        identity: Callable[[], Awaitable[str]],
    ) -> None:
        self.recovered = dict.fromkeys(buffers, 0)
        """How many touches were recovered, by target."""
        self.foreign_segments = 0
        """How many segments the last search found that cannot be recovered by this process."""
        self._storage = storage
        self._owners = owners
        self._identity = identity
        self._buffers = buffers
        self._searched = asyncio.Event()
        self._due = asyncio.Event()
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

    def search(self) -> None:
        """Search for orphaned journals soon, not only at the next regular time."""
        self._due.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._ask_server()
                await self._search()
            except Exception:
                log.exception("journal.unreadable")
            self._searched.set()
            # Journals of a database that is known wait for the server to say which one this is.
            is_known = self._owners.server is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(_SEARCH_EVERY_S if is_known else _ASK_EVERY_S):
                    await self._due.wait()
            self._due.clear()

    async def _ask_server(self) -> None:
        """Find out which database this is, unless it is known or the server is away."""
        if self._owners.server is not None:
            return
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S):
                self._owners.server = server = await self._identity()
        except (StoreError, TimeoutError):
            return
        try:
            await self._storage.record_server(server)
        except OSError as error:  # until then, how the database is addressed will have to do
            log.warning("journal.unrecorded", error=str(error))

    async def _search(self) -> None:
        orphans = list(await asyncio.to_thread(self._storage.orphans))
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
        server = await asyncio.to_thread(orphan.server)
        if not self._owners.is_known(server):
            return 0
        for path in await asyncio.to_thread(orphan.segments):
            try:
                owner, contents = await asyncio.to_thread(_contents, orphan, path)
                target = self._owners.target(owner, server)
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
                hint="start once with the configuration that it belongs to, or delete it; if the "
                "database was restored or upgraded, delete the file `server` beside it",
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
