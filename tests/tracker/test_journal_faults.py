"""What must not end a process or hold on to its journal: a cut file, a forked child."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.journal_files import GENEROUS_S, NOWHERE, found, segments, tracker
from tests.support.sample_table import AT
from tracker._journal.format import SEGMENT_BYTES

CHECKOUT = Path(__file__).parents[2]
CUT = """
import asyncio, os, sys
from pathlib import Path
from tests.support.journal_files import AT, GENEROUS_S, NOWHERE, segments, tracker
from tracker._journal import journal
journal._CHECK_EVERY_S = 0.01

async def main():
    directory = Path(sys.argv[1])
    async with tracker(NOWHERE, directory, flush_interval_s=0.1).running() as running:
        kept = running.buffers["things"].journal
        running.touch("things", 0, AT)
        for path in segments(directory):
            os.truncate(path, int(sys.argv[2]))
        for key in range(1, 20_000):
            running.touch("things", key, AT)
        async with asyncio.timeout(GENEROUS_S):
            while not kept.degraded:
                await asyncio.sleep(0.01)
            print("degraded", flush=True)
            while kept.degraded:
                await asyncio.sleep(0.01)
        print("healthy", len(running.buffers["things"]), flush=True)

asyncio.run(main())
"""
FORKING = """
import asyncio, os, sys, time
from pathlib import Path
from tests.support.journal_files import AT, NOWHERE, tracker

async def main():
    async with tracker(NOWHERE, Path(sys.argv[1])).running() as running:
        running.touch("things", 1, AT)
        if os.fork() == 0:
            for key in range(100, 200):
                running.touch("things", key, AT)
            (Path(sys.argv[1]) / "child.new").write_text(str(os.getpid()))
            (Path(sys.argv[1]) / "child.new").rename(Path(sys.argv[1]) / "child")
            time.sleep(600)
        running.touch("things", 2, AT)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def started(program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments), cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is handled on Linux alone")
@pytest.mark.parametrize("left_bytes", [0, 4096, 100_000])
async def test_a_truncated_segment_does_not_end_the_process(tmp_path, left_bytes):
    """The kernel sends SIGBUS; the journal is degraded, and healthy again with another segment."""
    process = await started(CUT, str(tmp_path), str(left_bytes))
    async with asyncio.timeout(GENEROUS_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"degraded\n" in output
    assert b"healthy 20000\n" in output
    for path in segments(tmp_path):
        if path.stat().st_size < SEGMENT_BYTES:
            path.unlink()
    assert len(found(tmp_path)) == 20_000


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is handled on Linux alone")
@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGBUS)", "memory[0]"])
async def test_a_bus_error_outside_of_the_journal_ends_the_process(tmp_path, how):
    """Of another mapping, or sent by another program."""
    program = f"""
import mmap, os, signal, sys
from pathlib import Path
from tracker._journal.mapping import mapped
from tracker._journal.format import SEGMENT_BYTES

def mapping(name):
    with open(Path(sys.argv[1]) / name, "w+b") as file:
        file.truncate(SEGMENT_BYTES)
        memory = mmap.mmap(file.fileno(), SEGMENT_BYTES)
        file.truncate(0)
    return memory

ours = mapping("ours")
mapped.add("ours", ours)
ours[0] = 1
assert mapped.has_lost("ours") and ours[0] == 1
memory = mapping("other")
{how}
{how}
"""
    process = await started(program, str(tmp_path))
    assert await process.wait() == -signal.SIGBUS


async def test_a_forked_child_neither_holds_nor_writes_the_journal_of_its_parent(tmp_path):
    """The parent is killed while the child lives on: its touches are recovered at once."""
    # The output is not read: the child holds it open, and the end of the parent would not be seen.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING, str(tmp_path)),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(GENEROUS_S):
        while not (tmp_path / "child").exists() or len(found(tmp_path)) < 2:
            await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    child = int((tmp_path / "child").read_text())
    try:
        os.kill(child, 0)  # it lives
        async with tracker(NOWHERE, tmp_path).running() as running:
            view = running.pending("things")
            assert (view.get(1), view.get(2), view.get(100)) == (AT, AT, None)
            assert running.recovered == {"things": 2}
    finally:
        os.kill(child, signal.SIGKILL)
