"""A disk with errors degrades the journal, which is logged, and stops neither touch nor flush.

The errors come from the kernel. A file of `/proc` and a device take the place of a new segment: a
write to the former is an I/O error, and the latter is always full.
"""

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from itertools import count

import pytest
from structlog.testing import capture_logs

from tests.support.journal_files import (
    CHECKOUT,
    GENEROUS_S,
    NOWHERE,
    events,
    found,
    tracker,
)
from tests.support.sample_table import AT, seen
from tracker import Tracker
from tracker._journal import directory as journal_directory
from tracker._journal.directory import JournalDirectory
from tracker._journal.supply import _SPARES as SPARES

FAILING_FILES = {errno.EIO: "/proc/self/mem", errno.ENOSPC: "/dev/full"}
LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from tests.support.journal_files import AT, GENEROUS_S, NOWHERE, tracker
from tracker._journal import journal
journal._RETRY_S = 0.01

def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    limit_file_size(4096)
    async with tracker(NOWHERE, Path(sys.argv[1])).running() as running:
        journal = running.buffers["things"].journal
        running.touch("things", 1, AT)
        print("degraded", journal.degraded, len(running.buffers["things"]))
        limit_file_size(resource.RLIM_INFINITY)
        async with asyncio.timeout(GENEROUS_S):
            while not journal.size_bytes:
                await asyncio.sleep(0.01)
        running.touch("things", 2, AT)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """The journal tries again after a hundredth of a second, not after a second."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0.01)


def fail_writes(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Let every write to a new segment fail, until the patch is undone."""
    monkeypatch.setattr(
        journal_directory, "_create", lambda _: os.open(FAILING_FILES[error], os.O_RDWR)
    )


def fill(running: Tracker, *, until: Callable[[], bool]) -> None:
    """Touch keys at ever later seconds, each of which is a record, until a condition is met."""
    for second in count(AT):
        for key in range(1000):
            running.touch("things", key, second)
        if until():
            return


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc/self/mem and no /dev/full")
@pytest.mark.parametrize("error", FAILING_FILES)
async def test_a_write_that_fails_degrades_the_journal_until_one_succeeds(
    dsn, things, tmp_path, error
):
    """The reason is logged once, and touches are written to the database meanwhile."""
    with capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        async with tracker(dsn, tmp_path).running() as running:
            buffer = running.buffers["things"]
            async with asyncio.timeout(GENEROUS_S):
                fail_writes(patch, error)
                fill(running, until=lambda: len(buffer.journal._supply._spares) < SPARES)
                while "journal.failed" not in events(logs):
                    await asyncio.sleep(0.01)
                fill(running, until=lambda: buffer.journal.degraded)
                await running.flush()
                assert (await seen(things))[1] is not None
                assert "journal.healthy" not in events(logs)
                patch.undo()
                while "journal.healthy" not in events(logs):
                    running.touch("things", 1)
                    await running.flush()
                    await asyncio.sleep(0.01)
            assert not buffer.journal.degraded
    said = [(entry["event"], entry.get("error", "")) for entry in logs]
    failures = [text for event, text in said if event in {"journal.failed", "journal.degraded"}]
    assert len(failures) == 2
    assert all(os.strerror(error) in text for text in failures)


async def test_a_directory_that_cannot_be_read_is_logged_and_touches_are_recorded(
    tmp_path, monkeypatch
):
    """Touches are still recorded in the segments that are mapped."""
    monkeypatch.setattr("tracker._journal.journal._CHECK_EVERY_S", 0.01)

    def held(_: JournalDirectory) -> set[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with capture_logs() as logs:
        async with tracker(NOWHERE, tmp_path).running() as running:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(JournalDirectory, "held", held)
                async with asyncio.timeout(GENEROUS_S):
                    while "journal.failed" not in events(logs):
                        await asyncio.sleep(0.01)
                running.touch("things", 1, AT)
                assert found(tmp_path) == {"1": AT}
                assert not running.buffers["things"].journal.degraded
    (failed,) = (entry for entry in logs if entry["event"] == "journal.failed")
    assert os.strerror(errno.EIO) in failed["error"]


async def test_a_limit_on_file_size_does_not_end_the_process(tmp_path):
    """The kernel sends SIGXFSZ, or the write fails: the touch is in memory alone, then in both."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LIMITED, str(tmp_path)),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GENEROUS_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"degraded True 1\n" in output
    assert found(tmp_path) == {"1": AT, "2": AT}
