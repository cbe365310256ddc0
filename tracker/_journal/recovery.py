"""Takes over what processes that are gone have left in their journals."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final, Protocol

from tracker._buffer.buffer import Buffer
from tracker._journal.format import Contents, UnreadableJournal, read, read_header
from tracker.instrumentation import Log

_SLICE_KEYS: Final = 1000
_TRY_AGAIN_S: Final = 0.5
_LOOK_EVERY_S: Final = 60.0
"""A process that stops after this one has started may leave something, too."""
_PATIENCE_S: Final = 5.0
"""How long a start waits; what takes longer, as it does not fit into the buffers, comes later."""

log: Final = Log(__name__)


class OrphanedJournal(Protocol):
    """What one process that is gone has left; nobody else has it until it is closed.

    All methods may take long and raise OSError.
    """

    def segments(self) -> Sequence[str]:
        """Return the paths of its segments."""
        ...

    def read(self, path: str) -> bytes:
        """Return all of a segment."""
        ...

    def remove(self, path: str) -> None:
        """Remove a segment."""
        ...

    def close(self) -> None:
        """Let go of it; with no segments left it is removed."""
        ...


class JournalRecovery:
    """Brings journals of the dead into the buffers of this process.

    Args:
        dead: finds what processes that are gone have left; it may take long.
        owners: for each target what the headers of its segments say.
        buffers: the buffers, by target.
    """

    def __init__(
        self,
        dead: Callable[[], Sequence[OrphanedJournal]],
        owners: Mapping[str, Mapping[str, str]],
        buffers: Mapping[str, Buffer],
    ) -> None:
        self.recovered = dict.fromkeys(buffers, 0)
        """How many touches were taken over, by target."""
        self.foreign_segments = 0
        """How many segments the last look found that are not ours to take."""
        self._dead = dead
        self._owners = owners
        self._buffers = buffers
        self._looked = asyncio.Event()
        self._reported: set[tuple[str, str]] = set()  # what was said already

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take over all that fits before the block runs, and the rest while it does."""
        task = asyncio.create_task(self._run(), name="tracker-adoption")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._looked.wait()
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("journal.unreadable")
            self._looked.set()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self) -> None:
        legacies = list(await asyncio.to_thread(self._dead))
        foreign_segments = 0
        try:
            while legacies:
                foreign_segments += await self._take_over(legacies[-1])
                legacies.pop().close()
            self.foreign_segments = foreign_segments
        finally:
            for legacy in legacies:
                legacy.close()

    async def _take_over(self, legacy: OrphanedJournal) -> int:
        """Return how many segments had to be left alone."""
        taken = dict.fromkeys(self._buffers, 0)
        not_ours: Counter[str] = Counter()
        for path in await asyncio.to_thread(legacy.segments):
            try:
                owner, contents = await asyncio.to_thread(_contents, legacy, path)
                target = self._target(owner)
            except (UnreadableJournal, OSError) as error:
                not_ours[str(error)] += 1
                continue
            if contents.torn_bytes:
                log.warning("journal.torn", path=path, cut_off_bytes=contents.torn_bytes)
            await self._recover(target, contents.entries)
            taken[target] += len(contents.entries)
            # Only what is in our own journal, or committed, is not needed there any more.
            await _until(self._all_is_journaled)
            await asyncio.to_thread(legacy.remove, path)
        if any(taken.values()):
            log.info("journal.recovered", path=str(legacy), touches=taken)
        for why, segments in not_ours.items():
            self._say_left_alone(str(legacy), why, segments)
        return not_ours.total()

    def _target(self, owner: Mapping[str, str]) -> str:
        """Return the target that a segment is of.

        Raises:
            UnreadableJournal: none of ours.
        """
        for target, ours in self._owners.items():
            if ours == owner:
                return target
        said = ", ".join(f"{name} {value!r}" for name, value in owner.items())
        raise UnreadableJournal(f"it belongs to another configuration: {said:.500}")

    def _all_is_journaled(self) -> bool:
        return not any(
            buffer.journal and buffer.journal.degraded for buffer in self._buffers.values()
        )

    def _say_left_alone(self, path: str, why: str, segments: int) -> None:
        if (path, why) not in self._reported:
            self._reported.add((path, why))
            log.error(
                "journal.foreign_segments",
                path=path,
                segments=segments,
                error=why,
                hint="start once with what it belongs to, or delete it to give it up",
            )

    async def _recover(self, target: str, entries: Mapping[str, int]) -> None:
        buffer = self._buffers[target]
        high_water = buffer.target.high_water  # the rest of the room is for who is active now
        left = iter(entries.items())
        while some := list(islice(left, min(_SLICE_KEYS, high_water))):
            most_keys = high_water - len(some)
            await _until(lambda: len(buffer) <= most_keys)  # noqa: B023 - awaited at once
            for key, second in some:
                buffer.recover(key, second)
            self.recovered[target] += len(some)
            await asyncio.sleep(0)


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(_TRY_AGAIN_S)


def _contents(legacy: OrphanedJournal, path: str) -> tuple[dict[str, str], Contents]:
    memory = legacy.read(path)
    owner, start = read_header(memory)
    return owner, read(memory, start)
