"""Gives each buffer a journal while a process runs, and says in headers whose touches it holds."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tracker._buffer.buffer import Buffer
from tracker._journal.journal import SEGMENT_BYTES, Journal
from tracker._journal.recovery import JournalRecovery
from tracker._journal.storage import JournalStorage
from tracker.target import Target

_DEFAULT_PORT: Final = 5432


@asynccontextmanager
async def open_journals(
    storage: JournalStorage, buffers: Mapping[str, Buffer], *, dsn: str | None, max_bytes: int
) -> AsyncIterator[JournalRecovery]:
    """Keep a journal of each buffer while the block runs.

    Args:
        storage: where the journals are.
        buffers: the buffers, by target.
        dsn: where the touches go, if that is known.
        max_bytes: the most room for one buffer's journal, in bytes.

    Yields:
        The recovery of orphaned journals, to be started once flushes make room in the buffers.

    Raises:
        ConfigurationError: the storage cannot be written to.
    """
    await storage.open()
    owners = {name: _owner(buffer.target, dsn) for name, buffer in buffers.items()}
    journals: list[tuple[Journal, Buffer]] = []
    keepers: list[asyncio.Task[None]] = []
    try:
        for name, buffer in buffers.items():
            segments = storage.segments(owners[name])
            journal = Journal(name, segments, max_segments=max_bytes // SEGMENT_BYTES)
            await journal.open()
            buffer.attach(journal)
            journals.append((journal, buffer))
            keepers.append(asyncio.create_task(journal.keep(), name=f"tracker-journal-{name}"))
        yield JournalRecovery(storage.orphans, owners, buffers)
    finally:
        for keeper in keepers:
            keeper.cancel()
        if keepers:
            await asyncio.wait(keepers)
        keep = any(journal.degraded or len(buffer) for journal, buffer in journals)
        for journal, _ in journals:
            await journal.close()
        await storage.close(keep=keep)


def _owner(target: Target, dsn: str | None) -> dict[str, str]:
    """Return what identifies the rows that a journal's keys stand for.

    Touches are recovered only into a target with the same owner.
    """
    parts = urlsplit(dsn or "")
    options = parse_qs(parts.query)
    servers = parts.netloc.rpartition("@")[2].split(",") + options.get("host", [])
    ports = options.get("port", [str(_DEFAULT_PORT)])
    named = [one if ":" in one else f"{one}:{ports[0]}" for one in servers if one]
    return {
        "target": target.name,
        "table": target.table,
        "key_column": target.key_column,
        "key_type": target.key_type,
        "column": target.column,
        "database": ",".join(named) + parts.path,
    }
