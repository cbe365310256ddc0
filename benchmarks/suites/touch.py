"""Measures the cost of a touch: its time, compared with a dict assignment, and its memory.

All loops differ only in one line. The strings of the keys exist before, so all contenders use
cached hashes.
"""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed
from tracker import Target, Tracker
from tracker._buffer.buffer import Buffer
from tracker._journal.directory import JournalDirectory
from tracker._journal.format import header

FEW: Final = 1000
MANY: Final = 1_000_000
_ROUNDS: Final = 9
_TOUCHES: Final = 300_000
_NANO: Final = 1e9
_HOUR_S: Final = 3600.0
_APPENDS: Final = 40_000
"""The number of records that fit into a segment."""
_KEYS: Final = (1000, 10_000, 100_000, 300_000, 1_000_000)
STEPS: Final = 4 * _ROUNDS + len(_KEYS)
_MEMORY: Final = """
import os, sys, uuid
from benchmarks.suites.touch import TARGET
from tracker._buffer.buffer import Buffer

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

buffer, before = Buffer(TARGET), resident()
for number in range(int(sys.argv[1])):
    buffer.touch(str(uuid.UUID(int=number << 64 | 1 << 127)))  # a new string, as in requests
print((resident() - before) / len(buffer))
"""
TARGET: Final = Target(
    name="devices",
    table="devices",
    key_column="device_id",
    column="last_seen_at",
    key_type="uuid",
    capacity_keys=2 * MANY,
)


def _bare(keys: list[str]) -> Callable[[], None]:
    entries: dict[str, int] = {}

    def loop() -> None:
        for key in keys:
            entries[key] = int(time.time())

    return loop


def _buffer(keys: list[str]) -> Callable[[], None]:
    touch = Buffer(TARGET).touch

    def loop() -> None:
        for key in keys:
            touch(key)

    return loop


def _tracker(tracker: Tracker, keys: list[str]) -> Callable[[], None]:
    touch = tracker.touch

    def loop() -> None:
        for key in keys:
            touch("devices", key)

    return loop


def _timed(loop: Callable[[], None], keys: int) -> Callable[[], Awaitable[float]]:
    """Return a function that measures a loop over known keys, in nanoseconds per touch."""
    loop()  # now all keys are known

    async def measure() -> float:
        times = max(1, _TOUCHES // keys)
        started = time.perf_counter()
        for _ in range(times):
            loop()
        return (time.perf_counter() - started) / (times * keys) * _NANO

    return measure


async def touch(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the suite.

    Args:
        testbed: where the tracker's table is created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a buffer does not hold what was touched.
    """
    few, many = ([str(uuid.uuid4()) for _ in range(count)] for count in (FEW, MANY))
    _check(few)
    async with testbed.fleet(1) as fleet, _running_tracker(fleet.dsn) as tracker:
        contenders = {
            "bare": _timed(_bare(few), FEW),
            "buffer": _timed(_buffer(few), FEW),
            "tracker": _timed(_tracker(tracker, few), FEW),
            "buffer, many": _timed(_buffer(many), MANY),
        }
        measured = await alternate(_ROUNDS, contenders, advance)
    bare = Measured("dict", measured["bare"], "ns")
    buffer = Measured("buffer.touch", measured["buffer"], "ns")
    report.compare("touch", "known key / dict[key] = time", buffer, bare, goal=2.0, better="lower")
    report.compare(
        *("touch", "known key by target's name / dict[key] = time"),
        *(Measured("tracker.touch", measured["tracker"], "ns"), bare),
        better="lower",
    )
    report.compare(
        *("touch", "of 1,000,000 keys / of 1,000"),
        *(Measured("1,000,000", measured["buffer, many"], "ns"), buffer),
        goal=2.5,
        better="lower",
    )
    with TemporaryDirectory(prefix="activity-journal-") as folder:
        appended = [await _appended(many[:_APPENDS], Path(folder)) for _ in range(_ROUNDS)]
    report.state("touch", "a change appended to the journal", appended, "ns")
    await _memory(report, advance)


@asynccontextmanager
async def _running_tracker(dsn: str) -> AsyncIterator[Tracker]:
    """Run a tracker that never flushes while the block runs."""
    tracker = Tracker([TARGET], dsn=dsn, flush_interval_s=_HOUR_S)
    async with tracker.running():
        yield tracker
        buffer = tracker.buffers["devices"]
        buffer.drain()
        buffer.settle({})  # the keys have no rows, so the last flush would find none


async def _memory(report: Report, advance: Callable[[], None]) -> None:
    sizes = []
    for keys in _KEYS:
        values = []
        for _ in range(3 if keys == MANY else 1):
            ran = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", _MEMORY, str(keys)],
                capture_output=True,
                text=True,
                check=True,
            )
            values.append(float(ran.stdout))
        sizes.append(values[0])
        advance()
    report.state("touch", "bytes a key at 1,000,000 uuids", values, "B", goal=160)
    report.series("memory_per_key", "keys", _KEYS)
    report.series("memory_per_key", "bytes", sizes)


async def _appended(keys: list[str], folder: Path) -> float:
    """Return the nanoseconds per record in a new segment."""
    own = JournalDirectory(folder)
    segment = own.create(header({}))
    started = time.perf_counter()
    for key in keys:
        segment.append(key, 1_700_000_000)
    spent = time.perf_counter() - started
    await own.close(keep=False)
    return spent / len(keys) * _NANO


def _check(keys: list[str]) -> None:
    buffer = Buffer(TARGET)
    for key in keys + keys:
        buffer.touch(key)
    if set(buffer.drain()) != set(keys) or buffer.coalesced != len(keys):
        raise BenchmarkFailedError("the buffer does not hold what was touched")
