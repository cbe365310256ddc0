"""Gives each buffer a journal while a process runs, and says in headers whose touches it holds."""

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from tracker._buffer.buffer import Buffer
from tracker._journal.format import SEGMENT_BYTES
from tracker._journal.journal import Journal
from tracker._journal.owner import Owners
from tracker._journal.recovery import JournalRecovery
from tracker._journal.storage import JournalStorage

_open: Final[weakref.WeakSet[Journal]] = weakref.WeakSet()
"""Journals that are being written."""


@asynccontextmanager
async def open_journals(
    storage: JournalStorage,
    buffers: Mapping[str, Buffer],
    *,
    dsn: str | None,
    identity: Callable[[], Awaitable[str]],
    max_bytes: int,
) -> AsyncIterator[JournalRecovery]:
    """Keep a journal of each buffer while the block runs.

    Args:
        storage: where the journals are.
        buffers: the buffers, by target.
        dsn: where the touches go, if that is known.
        identity: asks the server which database it is; raises StoreError if it cannot be asked.
        max_bytes: the most room for one buffer's journal, in bytes.

    Yields:
        The recovery of orphaned journals, to be started once flushes make room in the buffers.

    Raises:
        ConfigurationError: the storage cannot be written to.
    """
    await storage.open()
    owners = Owners({name: buffer.target for name, buffer in buffers.items()}, dsn=dsn)
    journals: list[tuple[Journal, Buffer]] = []
    keepers: list[asyncio.Task[None]] = []
    try:
        for name, buffer in buffers.items():
            segments = storage.segments(owners.header(name))
            journal = Journal(name, segments, max_segments=max_bytes // SEGMENT_BYTES)
            await journal.open()
            buffer.attach(journal)
            _open.add(journal)
            journals.append((journal, buffer))
            keepers.append(asyncio.create_task(journal.keep(), name=f"tracker-journal-{name}"))
        yield JournalRecovery(storage, owners, buffers, identity=identity)
    finally:
        for keeper in keepers:
            keeper.cancel()
        if keepers:
            await asyncio.wait(keepers)
        keep = any(journal.degraded or len(buffer) for journal, buffer in journals)
        for journal, _ in journals:
            await journal.close()
            _open.discard(journal)
        await storage.close(keep=keep)


def _abandon_in_child() -> None:
    """Keep a forked child from writing into the segments of its parent."""
    for journal in list(_open):
        journal.abandon()


os.register_at_fork(after_in_child=_abandon_in_child)
