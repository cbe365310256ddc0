"""Takes over what processes that are gone have left in their journals."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final, Protocol

import structlog

from tracker.buffer import Buffer
from tracker.records import Contents, UnreadableJournal, read, read_header

_SLICE_KEYS: Final = 1000
_LOOK_AGAIN_S: Final = 0.5
_PATIENCE_S: Final = 5.0
"""How long a start waits; what takes longer, as it does not fit into the buffers, comes later."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Legacy(Protocol):
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


class Adoption:
    """Brings journals of the dead into the buffers of this process.

    Args:
        dead: finds what processes that are gone have left; it may take long.
        owners: for each target what the headers of its segments say.
        buffers: the buffers, by target.
    """

    def __init__(
        self,
        dead: Callable[[], Sequence[Legacy]],
        owners: Mapping[str, Mapping[str, str]],
        buffers: Mapping[str, Buffer],
    ) -> None:
        self.recovered = dict.fromkeys(buffers, 0)
        """How many touches were taken over, by target."""
        self._dead = dead
        self._owners = owners
        self._buffers = buffers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take over all that fits before the block runs, and the rest while it does."""
        task = asyncio.create_task(self._run(), name="tracker-adoption")
        await asyncio.wait({task}, timeout=_PATIENCE_S)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        for legacy in await asyncio.to_thread(self._dead):
            try:
                await self._take_over(legacy)
            except Exception:  # a journal that cannot be read must not be one that stops the start
                log.exception("journal.unreadable", path=str(legacy))
            finally:
                await asyncio.to_thread(legacy.close)

    async def _take_over(self, legacy: Legacy) -> None:
        taken: list[str] = []
        for path in legacy.segments():
            try:
                owner, contents = await asyncio.to_thread(_contents, legacy, path)
                target = self._target(owner)
            except UnreadableJournal as error:
                _say_left_alone(path, error)
                continue
            if contents.torn_bytes:
                log.warning("journal.torn", path=path, cut_off_bytes=contents.torn_bytes)
            await self._recover(target, contents.entries)
            taken.append(path)
        if taken:
            # What is in our own journal, or committed, is needed there no more.
            await _until(self._all_is_journaled)
            for path in taken:
                legacy.remove(path)
            log.info("journal.adopted", path=str(legacy), touches=dict(self.recovered))

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
        return not any(buffer.journal and buffer.journal.gap for buffer in self._buffers.values())

    async def _recover(self, target: str, entries: Mapping[str, int]) -> None:
        buffer = self._buffers[target]
        slice_keys = min(_SLICE_KEYS, buffer.target.capacity_keys)
        left = iter(entries.items())
        while some := list(islice(left, slice_keys)):
            most_keys = buffer.target.capacity_keys - len(some)
            await _until(lambda: len(buffer) <= most_keys)  # noqa: B023 - awaited at once
            for key, second in some:
                buffer.recover(key, second)
            self.recovered[target] += len(some)
            await asyncio.sleep(0)


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(_LOOK_AGAIN_S)


def _say_left_alone(path: str, error: UnreadableJournal) -> None:
    log.error(
        "journal.left_alone",
        path=path,
        error=str(error),
        hint="start once with what it belongs to, or delete it to give it up",
    )


def _contents(legacy: Legacy, path: str) -> tuple[dict[str, str], Contents]:
    memory = legacy.read(path)
    owner, start = read_header(memory)
    return owner, read(memory, start)
