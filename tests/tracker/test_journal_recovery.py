"""Recovery of orphaned journals on a real disk: by which process, when, and without a loss."""

import asyncio
import errno
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from structlog.testing import capture_logs

from tests.support.journal_files import (
    CHECKOUT,
    CRASHING,
    GENEROUS_S,
    NOWHERE,
    events,
    found,
    orphan_touches,
    tracker,
)
from tests.support.memory_journal import MemoryDisk
from tests.support.sample_table import AT, THINGS, locking, seen, when
from tracker import Tracker
from tracker._buffer.buffer import Buffer
from tracker._journal.directory import JournalDirectory
from tracker._journal.format import Segment, header
from tracker._journal.journal import MIN_SEGMENTS, Journal
from tracker._journal.owner import Owners
from tracker._journal.recovery import JournalRecovery


async def test_what_a_stop_could_not_write_is_written_at_the_next_start(dsn, things, tmp_path):
    """The database is away at the stop; nothing is counted as lost, and the books balance."""
    async with locking(dsn, "LOCK TABLE things"):
        with capture_logs() as logs:
            async with tracker(dsn, tmp_path, shutdown_deadline_s=0.5).running() as first:
                first.touch("things", 1, AT)
                first.touch("things", 2, AT + 1)
        assert {"event": "flush.left_in_journal", "keys": 2} in [
            {name: entry.get(name) for name in ("event", "keys")} for entry in logs
        ]
    buffer = first.buffers["things"]
    assert (buffer.dropped["shutdown"], len(buffer), buffer.touches) == (0, 2, 2)
    first.touch("things", 3)
    assert buffer.dropped["shutdown"] == 1
    with capture_logs() as logs:
        async with tracker(dsn, tmp_path, shutdown_deadline_s=60).running() as second:
            assert second.pending("things").get(2) == AT + 1  # at once: readers see it
            assert second.recovered == {"things": 2}
    assert events(logs) == ["journal.recovered"]
    assert await seen(things) == {1: when(AT), 2: when(AT + 1)}
    assert list(tmp_path.iterdir()) == []


async def test_a_stop_with_a_permanent_error_does_not_wait_for_its_deadline(
    dsn, db, things, tmp_path
):
    """The next process writes what this one could not, when the table is repaired."""
    await db.execute("ALTER TABLE things RENAME COLUMN seen_at TO elsewhere")
    with capture_logs() as logs:
        async with (
            asyncio.timeout(60),
            tracker(dsn, tmp_path, shutdown_deadline_s=3600).running() as first,
        ):
            first.touch("things", 1, AT)
    assert [entry["keys"] for entry in logs if entry["event"] == "flush.left_in_journal"] == [1]
    await db.execute("ALTER TABLE things RENAME COLUMN elsewhere TO seen_at")
    async with tracker(dsn, tmp_path).running() as second:
        await second.flush()
    assert await db.fetchval("SELECT extract(epoch FROM seen_at) FROM things WHERE id = 1") == AT


async def test_the_journal_of_a_running_process_is_not_recovered(dsn, things, tmp_path):
    """Two may share the directory; neither sees what the other has."""
    async with tracker(dsn, tmp_path).running() as first:
        first.touch("things", 1, AT)
        async with tracker(dsn, tmp_path).running() as second:
            assert second.recovered == {"things": 0}
            assert len(list(tmp_path.iterdir())) == 2
        assert len(list(tmp_path.iterdir())) == 1


async def test_processes_that_start_together_recover_each_journal_once(dsn, things, tmp_path):
    """A lock decides which process recovers it."""
    for key in (1, 2, 3):
        left = await orphan_touches(tmp_path, key)
        assert len(left) == 1  # a later one takes over what the earlier ones left
    gone = [path.parent for path in left]
    many = [tracker(NOWHERE, tmp_path) for _ in range(4)]
    together = asyncio.Barrier(len(many))

    async def run(one: Tracker) -> int:
        async with one.running():
            await together.wait()
            return one.recovered["things"]

    async with asyncio.timeout(GENEROUS_S):
        recovered = await asyncio.gather(*(run(one) for one in many))
    assert sorted(recovered) == [0, 0, 0, 3]
    assert not any(folder.exists() for folder in gone)
    assert found(tmp_path) == {"1": AT, "2": AT, "3": AT}


async def test_a_start_that_is_cancelled_deletes_nothing(tmp_path, monkeypatch):
    """Wherever it is cut off, the touches are there for the next one."""
    monkeypatch.setattr("tracker._journal.recovery._SLICE_KEYS", 10)
    for turns in range(0, 60, 3):
        path = tmp_path / str(turns)
        await orphan_touches(path, *range(100))

        async def start(path: Path = path) -> None:
            async with tracker(NOWHERE, path).running():
                await asyncio.Event().wait()

        starting = asyncio.create_task(start())
        for _ in range(turns):
            await asyncio.sleep(0.001)
        starting.cancel()
        await asyncio.wait({starting})
        assert found(path) == {str(key): AT for key in range(100)}


async def test_no_orphan_is_removed_before_its_touches_are_in_the_own_journal(
    tmp_path, monkeypatch
):
    """With the disk full, what a predecessor left stays where it is."""
    (path,) = await orphan_touches(tmp_path, 1)
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0.01)
    monkeypatch.setattr("tracker._journal.recovery._START_TIMEOUT_S", 0.2)
    monkeypatch.setattr("tracker._journal.recovery._POLL_S", 0.01)
    create, full = JournalDirectory.create, [True]

    def create_if_there_is_room(folder: JournalDirectory, first_line: bytes) -> Segment:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(folder, first_line)

    monkeypatch.setattr(JournalDirectory, "create", create_if_there_is_room)
    async with tracker(NOWHERE, tmp_path, flush_interval_s=0.05).running() as running:
        assert running.pending("things").get(1) == AT
        assert path.exists()
        full[0] = False
        async with asyncio.timeout(GENEROUS_S):
            while path.exists():
                await asyncio.sleep(0.01)
        assert found(tmp_path) == {"1": AT}


async def test_a_journal_that_is_orphaned_after_the_start_is_recovered(tmp_path, monkeypatch):
    """In a rolling restart the old process ends after the new one has started."""
    monkeypatch.setattr("tracker._journal.recovery._SEARCH_EVERY_S", 0.01)
    async with tracker(NOWHERE, tmp_path).running() as running:
        await orphan_touches(tmp_path, 1, 2)
        async with asyncio.timeout(GENEROUS_S):
            while running.recovered["things"] < 2:
                await asyncio.sleep(0.01)


async def test_more_than_fits_is_recovered_as_flushes_make_room(dsn, things, tmp_path):
    """Nothing is dropped because a predecessor could hold more."""
    async with locking(dsn, "LOCK TABLE things"), tracker(dsn, tmp_path).running() as first:
        for key in range(1, 11):
            first.touch("things", key, AT + key)
    assert len(found(tmp_path)) == 10
    few = replace(THINGS, capacity_keys=3, high_water_keys=1)
    async with tracker(dsn, tmp_path, few, flush_interval_s=0.05).running() as second:
        async with asyncio.timeout(GENEROUS_S):
            while second.recovered["things"] < 10:
                await asyncio.sleep(0.01)
    assert second.buffers["things"].dropped == {"capacity": 0, "invalid": 0, "shutdown": 0}
    assert await seen(things) == {key: when(AT + key) for key in range(1, 11)}


async def test_a_process_that_is_killed_between_two_lines_loses_nothing(dsn, things, tmp_path):
    """Without a flush, without an await."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CRASHING, dsn, str(tmp_path)), cwd=CHECKOUT
    )
    assert await process.wait() == -signal.SIGKILL
    async with tracker(dsn, tmp_path, shutdown_deadline_s=60).running() as running:
        assert running.recovered == {"things": 10}
    assert await seen(things) == {key: when(AT + key) for key in range(1, 11)}


class Left:
    """What a process has left behind, in memory: one segment."""

    def __init__(self, owner: dict[str, str], **touches: int) -> None:
        memory = bytearray(header(owner).ljust(1000, b"\0"))
        segment = Segment("1", memory, len(header(owner)))
        assert all(segment.append(key, at) for key, at in touches.items())
        self.left = {"1": bytes(memory)}

    def server(self) -> str | None:
        return "this"

    def segments(self) -> list[str]:
        return list(self.left)

    def read(self, path: str) -> bytes:
        return self.left[path]

    def remove(self, path: str) -> None:
        del self.left[path]

    def close(self) -> None:
        """There is no lock."""


async def anything(*_: object) -> str:
    return "this"


async def test_an_orphan_is_kept_until_its_touches_are_in_another_journal(monkeypatch):
    """Or the table: the next crash may come before either."""
    monkeypatch.setattr("tracker._journal.recovery._POLL_S", 0)
    monkeypatch.setattr("tracker._journal.recovery._START_TIMEOUT_S", 0.1)
    owners = Owners({"things": THINGS}, dsn=None)
    left, buffer, full = Left(owners.header("things"), **{"7": AT}), Buffer(THINGS), MemoryDisk()
    full.full = True
    journal = Journal("things", full, max_segments=MIN_SEGMENTS)
    await journal.open()
    buffer.attach(journal)
    storage = SimpleNamespace(orphans=lambda: [left], record_server=anything)
    async with JournalRecovery(storage, owners, {"things": buffer}, identity=anything).running():
        assert buffer.drain() == {7: AT}
        assert journal.degraded
        assert left.left
        buffer.settle({})
        async with asyncio.timeout(GENEROUS_S):
            while left.left:
                await asyncio.sleep(0)
