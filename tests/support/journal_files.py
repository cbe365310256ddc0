"""Journals on a real disk: trackers that write them, and what is in them."""

from pathlib import Path

from tests.support.sample_table import AT, THINGS
from tracker import Target, Tracker
from tracker._journal.format import read, read_header

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
GENEROUS_S = 60
CHECKOUT = Path(__file__).parents[2]


def tracker(dsn: str, directory: Path, target: Target = THINGS, **options: float) -> Tracker:
    """A tracker that flushes when it ends, and gives up soon when it cannot."""
    options = {"flush_interval_s": 3600, "shutdown_deadline_s": 0.2, **options}
    return Tracker([target], dsn=dsn, journal_dir=directory, **options)


async def orphan_touches(directory: Path, *keys: int) -> list[Path]:
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


def events(logs: list[dict]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("journal.")]


CRASHING = """
import asyncio, os, signal, sys
from tests.support.journal_files import AT, tracker
from pathlib import Path

async def main():
    async with tracker(sys.argv[1], Path(sys.argv[2])).running() as running:
        for key in range(1, 11):
            running.touch("things", key, AT + key)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
