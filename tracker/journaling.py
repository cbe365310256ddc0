"""Gives each buffer a journal while a process runs, and decides whose journal is whose."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tracker.adoption import Adoption
from tracker.buffer import Buffer
from tracker.journal import SEGMENT_BYTES, Journal
from tracker.journal_files import FileDisk, Folder
from tracker.target import Target


@asynccontextmanager
async def journaling(
    directory: Path, buffers: Mapping[str, Buffer], *, dsn: str | None, max_bytes: int
) -> AsyncIterator[Adoption]:
    """Keep a journal of each buffer while the block runs.

    Args:
        directory: where all processes have their journals; made when it does not exist.
        buffers: the buffers, by target.
        dsn: where the touches go, if that is known.
        max_bytes: the most room for one buffer's journal.

    Yields:
        What is to be taken over from other processes, once flushes make room for it.

    Raises:
        ConfigurationError: the directory cannot be written to.
    """
    folder = Folder(directory)
    await folder.open()
    owners = {name: _owner(buffer.target, dsn) for name, buffer in buffers.items()}
    journals: list[tuple[Journal, Buffer]] = []
    keepers: list[asyncio.Task[None]] = []
    try:
        for name, buffer in buffers.items():
            disk = FileDisk(folder, owners[name])
            journal = Journal(name, disk, most_segments=max_bytes // SEGMENT_BYTES)
            await journal.open()
            buffer.attach(journal)
            journals.append((journal, buffer))
            keepers.append(asyncio.create_task(journal.keep(), name=f"tracker-journal-{name}"))
        yield Adoption(directory, owners, buffers)
    finally:
        for keeper in keepers:
            keeper.cancel()
        if keepers:
            await asyncio.wait(keepers)
        for journal, buffer in journals:
            await journal.close(keep=journal.gap or len(buffer) > 0)
        await folder.close()


def _owner(target: Target, dsn: str | None) -> dict[str, str]:
    """Return what touches must agree in to be of one target: a key means nothing elsewhere."""
    parts = urlsplit(dsn or "")
    return {
        "target": target.name,
        "table": target.table,
        "key_column": target.key_column,
        "key_type": target.key_type,
        "column": target.column,
        "database": parts.netloc.rpartition("@")[2] + parts.path,
    }
