"""The directory of a process: at the start, on a full disk, and when another program removes it."""

import asyncio
import errno
import shutil
import sys

import pytest
from structlog.testing import capture_logs

from tests.support.journal_files import (
    CHECKOUT,
    GENEROUS_S,
    NOWHERE,
    events,
    found,
    segments,
    tracker,
)
from tests.support.sample_table import AT
from tracker import ConfigurationError
from tracker._journal.directory import JournalDirectory
from tracker._journal.format import SEGMENT_BYTES
from tracker._journal.journal import MIN_SEGMENTS
from tracker._journal.supply import _SPARES as SPARES


async def test_an_orderly_stop_leaves_nothing_on_the_disk(dsn, things, tmp_path):
    """Nor does a process that was never touched."""
    for keys in ((), (1, 2)):
        async with tracker(dsn, tmp_path / "deep" / "down").running() as running:
            for key in keys:
                running.touch("things", key, AT)
            assert segments(tmp_path / "deep" / "down")
        assert list((tmp_path / "deep" / "down").iterdir()) == []


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


async def test_a_full_disk_at_the_start_does_not_stop_the_start(tmp_path, monkeypatch):
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
from tests.support.journal_files import AT, GENEROUS_S, NOWHERE, tracker

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
async def test_a_full_disk_does_not_end_the_process(tmp_path):
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


def test_a_journal_below_the_minimum_size_is_rejected(tmp_path):
    """With the least that is not."""
    with pytest.raises(ConfigurationError, match=f"{MIN_SEGMENTS * SEGMENT_BYTES} or more"):
        tracker(NOWHERE, tmp_path, journal_max_bytes=1000)
