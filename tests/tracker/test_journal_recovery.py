"""Journals on a real disk: whose they are, who takes them over, and what is wrong with some."""

import asyncio
import errno
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from tests.support.sample_table import AT, THINGS, locking, seen, when
from tests.tracker.test_journal import MemoryDisk
from tracker import ConfigurationError, Target, Tracker
from tracker._buffer.buffer import Buffer
from tracker._journal.directory import JournalDirectory
from tracker._journal.format import SEGMENT_BYTES, Segment, header, read, read_header
from tracker._journal.journal import MIN_SEGMENTS, Journal
from tracker._journal.owner import Owners
from tracker._journal.recovery import JournalRecovery
from tracker._journal.supply import _SPARES as SPARES

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
GENEROUS_S = 60
CHECKOUT = Path(__file__).parents[2]


def tracker(dsn: str, directory: Path, target: Target = THINGS, **options: float) -> Tracker:
    """A tracker that flushes when it ends, and gives up soon when it cannot."""
    options = {"flush_interval_s": 3600, "shutdown_deadline_s": 0.2, **options}
    return Tracker([target], dsn=dsn, journal_dir=directory, **options)


async def left_behind(directory: Path, *keys: int) -> list[Path]:
    """Leave touches behind as a process does that ends while the database is away."""
    async with tracker(NOWHERE, directory).running() as gone:
        for key in keys:
            gone.touch("things", key, AT)
    return segments(directory)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.journal"))


def found(directory: Path) -> dict[str, int]:
    entries: dict[str, int] = {}
    for path in segments(directory):
        memory = path.read_bytes()
        entries |= read(memory, read_header(memory)[1]).entries
    return entries


def flipped(segment: bytes) -> bytes:
    """Return a segment whose first record has one wrong bit."""
    _, start = read_header(segment)
    return segment[:start] + bytes([segment[start] ^ 1]) + segment[start + 1 :]


def events(logs: list[dict]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("journal.")]


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


async def test_a_stop_does_not_use_up_its_deadline_where_only_a_change_helps(
    dsn, db, things, tmp_path
):
    """The next process writes what this one could not, when somebody has mended the table."""
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


async def test_an_orderly_stop_leaves_nothing_on_the_disk(dsn, things, tmp_path):
    """Nor does a process that was never touched."""
    for keys in ((), (1, 2)):
        async with tracker(dsn, tmp_path / "deep" / "down").running() as running:
            for key in keys:
                running.touch("things", key, AT)
            assert segments(tmp_path / "deep" / "down")
        assert list((tmp_path / "deep" / "down").iterdir()) == []


async def test_a_living_process_keeps_its_journal_to_itself(dsn, things, tmp_path):
    """Two may share the directory; neither sees what the other has."""
    async with tracker(dsn, tmp_path).running() as first:
        first.touch("things", 1, AT)
        async with tracker(dsn, tmp_path).running() as second:
            assert second.recovered == {"things": 0}
            assert len(list(tmp_path.iterdir())) == 2
        assert len(list(tmp_path.iterdir())) == 1


async def test_many_that_start_at_once_take_over_each_journal_once(dsn, things, tmp_path):
    """A lock says whose it is."""
    for key in (1, 2, 3):
        left = await left_behind(tmp_path, key)
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


@pytest.mark.parametrize(
    ("damage", "event", "kept"),
    [
        (lambda good: good[: len(good) // 2], "journal.recovered", {1, 2}),
        (lambda good: good.rstrip(b"\0")[:-1], "journal.torn", {1}),
        (lambda good: good.rstrip(b"\0") + os.urandom(1000), "journal.torn", {1, 2}),
        (flipped, "journal.torn", set()),
    ],
    ids=["short file", "torn tail", "garbage tail", "flipped"],
)
async def test_a_damaged_tail_is_cut_off_with_a_log_line(tmp_path, damage, event, kept):
    """What was written whole before it is taken over, the rest is gone, and the start goes on."""
    (path,) = await left_behind(tmp_path, 1, 2)
    path.write_bytes(damage(path.read_bytes()))
    with capture_logs() as logs:
        async with tracker(NOWHERE, tmp_path).running() as running:
            view = running.pending("things")
            assert {key for key in (1, 2) if view.get(key) == AT} == kept
    assert event in events(logs)
    assert not path.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda good: good.replace(b" 1 {", b" 0 {"), "of format b'0'"),
        (lambda good: b"\0" * len(good), "no journal"),
        (lambda _: b"", "no journal"),
        (lambda good: good.replace(b'"things"', b'"others"'), "another configuration: .*'others'"),
        (lambda good: good.replace(b'"origin": "', b'"origin": "0')[:-1], "another database"),
    ],
    ids=["older format", "zeros", "empty", "a target that is gone", "another database"],
)
async def test_a_journal_that_is_not_ours_is_left_alone_with_one_clear_message(
    tmp_path, damage, said
):
    """At every start, and no start fails by it."""
    (path,) = await left_behind(tmp_path, 1)
    foreign = damage(path.read_bytes())
    path.write_bytes(foreign)
    for _ in range(2):
        with capture_logs() as logs:
            async with tracker(NOWHERE, tmp_path).running() as running:
                assert running.recovered == {"things": 0}
                assert running.foreign_segments == 1
        (entry,) = [entry for entry in logs if entry["event"] == "journal.foreign"]
        assert (entry["path"], entry["segments"]) == (str(path.parent), 1)
        assert re.search(said, entry["error"])
        assert path.read_bytes() == foreign


async def test_one_segment_that_cannot_be_read_keeps_none_of_the_others(tmp_path, monkeypatch):
    """A bad sector in one file, or many files of another table: one line for each reason."""
    first = await left_behind(tmp_path, 1)
    (first[0].parent / "00000000.journal").write_text("a bad sector")
    for number in range(3):
        foreign = first[0].parent / f"9000000{number}.journal"
        foreign.write_bytes(first[0].read_bytes().replace(b'"things"', b'"others"'))
    with capture_logs() as logs:
        async with tracker(NOWHERE, tmp_path).running() as running:
            assert running.recovered == {"things": 1}
            assert running.foreign_segments == 4
    foreign_segments = [entry for entry in logs if entry["event"] == "journal.foreign"]
    assert sorted(entry["segments"] for entry in foreign_segments) == [1, 3]


async def test_what_is_no_folder_of_ours_is_not_even_opened(tmp_path):
    """A pipe would keep the start waiting, and a link leads to somebody else's files."""
    (path,) = await left_behind(tmp_path, 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.new").touch()
    (tmp_path / "4-deadbeef").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "5-deadbeef")
    os.mkfifo(path.parent / "99999999.journal")
    (path.parent / "99999998.journal").symlink_to(path)
    async with asyncio.timeout(GENEROUS_S), tracker(NOWHERE, tmp_path).running() as running:
        assert running.recovered == {"things": 1}
    assert (elsewhere / "precious.new").exists()


async def test_a_start_that_is_cancelled_deletes_nothing(tmp_path, monkeypatch):
    """Wherever it is cut off, the touches are there for the next one."""
    monkeypatch.setattr("tracker._journal.recovery._SLICE_KEYS", 10)
    for turns in range(0, 60, 3):
        path = tmp_path / str(turns)
        await left_behind(path, *range(100))

        async def start(path: Path = path) -> None:
            async with tracker(NOWHERE, path).running():
                await asyncio.Event().wait()

        starting = asyncio.create_task(start())
        for _ in range(turns):
            await asyncio.sleep(0.001)
        starting.cancel()
        await asyncio.wait({starting})
        assert found(path) == {str(key): AT for key in range(100)}


async def test_nothing_is_removed_before_our_own_journal_has_it(tmp_path, monkeypatch):
    """With the disk full, what a predecessor left stays where it is."""
    (path,) = await left_behind(tmp_path, 1)
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


async def test_what_a_slower_predecessor_leaves_is_taken_over_later(tmp_path, monkeypatch):
    """In a rolling restart the old process ends after the new one has started."""
    monkeypatch.setattr("tracker._journal.recovery._SEARCH_EVERY_S", 0.01)
    async with tracker(NOWHERE, tmp_path).running() as running:
        await left_behind(tmp_path, 1, 2)
        async with asyncio.timeout(GENEROUS_S):
            while running.recovered["things"] < 2:
                await asyncio.sleep(0.01)


async def test_a_journal_whose_directory_is_removed_starts_again(tmp_path, monkeypatch):
    """It reports that it is degraded, and that it is healthy after the next flush."""
    monkeypatch.setattr("tracker._journal.journal._CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0.01)
    directory = tmp_path / "journal"
    options = {"flush_interval_s": 0.05, "backoff_initial_s": 0.05, "backoff_max_s": 0.05}
    with capture_logs() as logs:
        async with (
            asyncio.timeout(GENEROUS_S),
            tracker(NOWHERE, directory, **options).running() as running,
        ):
            running.touch("things", 1, AT)
            while len(segments(directory)) < 1 + SPARES:  # from here on, no file is being made
                await asyncio.sleep(0.01)
            directory.rename(tmp_path / "removed")  # at once, unlike rmtree
            while "journal.healthy" not in events(logs):  # the state itself may last milliseconds
                await asyncio.sleep(0.01)
    assert found(directory) == {"1": AT}  # read at rest: the keeper removes segments meanwhile
    assert events(logs)[:2] == ["journal.degraded", "journal.healthy"]


async def test_a_directory_that_cannot_be_written_to_stops_the_start(tmp_path):
    """In one message that says which, why, and what to do."""
    taken = tmp_path / "a file"
    taken.touch()
    with pytest.raises(ConfigurationError, match=r"in directory .*a file: File exists; name"):
        async with tracker(NOWHERE, taken).running():
            pass


async def test_a_disk_that_is_full_at_the_start_stops_nothing(tmp_path, monkeypatch):
    """Touches are in memory alone until there is room; then they are in the journal."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0.01)
    make, full = JournalDirectory._make, [True]

    def make_if_there_is_room(folder: JournalDirectory) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        make(folder)

    monkeypatch.setattr(JournalDirectory, "_make", make_if_there_is_room)
    async with tracker(NOWHERE, tmp_path).running() as running:
        journal = running.buffers["things"].journal
        running.touch("things", 1, AT)
        assert journal.degraded
        full[0] = False
        async with asyncio.timeout(GENEROUS_S):
            while journal.size_bytes == 0:
                await asyncio.sleep(0.01)
        running.touch("things", 2, AT)
    assert found(tmp_path) == {"1": AT, "2": AT}


FILLING = """
import asyncio, sys
from pathlib import Path
from tests.tracker.test_journal_recovery import AT, GENEROUS_S, NOWHERE, tracker

async def main():
    async with tracker(NOWHERE, Path(sys.argv[1])).running() as running:
        buffer, second = running.buffers["things"], AT
        async with asyncio.timeout(GENEROUS_S):
            while not buffer.journal.degraded:
                second += 1
                for key in range(10_000):
                    running.touch("things", key, second)
                await asyncio.sleep(0.005)
        assert all(at == second for at in buffer.drain().values())
        print("alive", buffer.touches, file=sys.stderr)

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare(1) here")
async def test_a_full_disk_kills_no_process(tmp_path):
    """A real one: memory that is mapped to a file without room would end the process."""
    # In a name space of its own, so that nothing stays mounted whatever happens to the test.
    mount = (
        f'mount -t tmpfs -o size={5 * SEGMENT_BYTES} tmpfs "$1" || exit 99; exec "$0" -c "$2" "$1"'
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", mount, sys.executable, str(tmp_path), FILLING),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode in {1, 99} and b"Traceback" not in stderr:
        pytest.skip(f"file systems cannot be mounted here: {stderr.decode().strip()}")
    assert process.returncode == 0, stderr.decode()
    (line,) = (line for line in stderr.splitlines() if line.startswith(b"alive"))
    alive, touches = line.split()
    assert (alive, int(touches) > 3 * SEGMENT_BYTES // 20) == (b"alive", True)


async def test_more_than_fits_is_taken_over_as_flushes_make_room(dsn, things, tmp_path):
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


CRASHING = """
import asyncio, os, signal, sys
from tests.tracker.test_journal_recovery import AT, tracker
from pathlib import Path

async def main():
    async with tracker(sys.argv[1], Path(sys.argv[2])).running() as running:
        for key in range(1, 11):
            running.touch("things", key, AT + key)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


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


async def test_what_is_taken_over_stays_where_it_was_until_a_journal_has_it(monkeypatch):
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


def test_a_journal_too_small_to_be_of_use_is_refused(tmp_path):
    """With the least that is not."""
    with pytest.raises(ConfigurationError, match=f"{MIN_SEGMENTS * SEGMENT_BYTES} or more"):
        tracker(NOWHERE, tmp_path, journal_max_bytes=1000)
