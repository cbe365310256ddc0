"""Gives each buffer a journal while a process runs, and decides whose journal is whose."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol
from urllib.parse import parse_qs, urlsplit

from tracker._buffer.buffer import Buffer
from tracker._journal.journal import SEGMENT_BYTES, Disk, Journal
from tracker._journal.recovery import JournalRecovery, OrphanedJournal
from tracker.target import Target

_DEFAULT_PORT: Final = 5432


class Home(Protocol):
    """Where one process has its journals, and finds those of others."""

    async def open(self) -> None:
        """Take it.

        Raises:
            ConfigurationError: there can be none.
        """
        ...

    def disk(self, owner: Mapping[str, str]) -> Disk:
        """Return where segments come from that say whose touches they hold."""
        ...

    def orphans(self) -> Sequence[OrphanedJournal]:
        """Return what processes that are gone have left, for this one alone."""
        ...

    async def close(self, *, keep: bool) -> None:
        """Let go of it.

        Args:
            keep: leave all that is in it, for another process to find.
        """
        ...


@asynccontextmanager
async def open_journals(
    home: Home, buffers: Mapping[str, Buffer], *, dsn: str | None, max_bytes: int
) -> AsyncIterator[JournalRecovery]:
    """Keep a journal of each buffer while the block runs.

    Args:
        home: where the journals are.
        buffers: the buffers, by target.
        dsn: where the touches go, if that is known.
        max_bytes: the most room for one buffer's journal.

    Yields:
        What is to be taken over from other processes, once flushes make room for it.

    Raises:
        ConfigurationError: the directory cannot be written to.
    """
    await home.open()
    owners = {name: _owner(buffer.target, dsn) for name, buffer in buffers.items()}
    journals: list[tuple[Journal, Buffer]] = []
    keepers: list[asyncio.Task[None]] = []
    try:
        for name, buffer in buffers.items():
            journal = Journal(
                name, home.disk(owners[name]), most_segments=max_bytes // SEGMENT_BYTES
            )
            await journal.open()
            buffer.attach(journal)
            journals.append((journal, buffer))
            keepers.append(asyncio.create_task(journal.keep(), name=f"tracker-journal-{name}"))
        yield JournalRecovery(home.orphans, owners, buffers)
    finally:
        for keeper in keepers:
            keeper.cancel()
        if keepers:
            await asyncio.wait(keepers)
        keep = any(journal.degraded or len(buffer) for journal, buffer in journals)
        for journal, _ in journals:
            await journal.close()
        await home.close(keep=keep)


def _owner(target: Target, dsn: str | None) -> dict[str, str]:
    """Return what touches must agree in to be of one target: a key means nothing elsewhere."""
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
