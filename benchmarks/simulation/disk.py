"""The disk of the machine that all writers share: journals as bytes that outlive their process."""

import asyncio
import errno
import random
from collections.abc import Mapping
from typing import Final

from benchmarks.simulation.ledger import Ledger
from tracker._journal.format import Segment, header, read, read_header
from tracker._journal.journal import Disk

_TAIL_BYTES: Final = 12


class Machine:
    """Where all processes have their homes.

    Args:
        ledger: is told of what a limit is exceeded by.
        segment_bytes: the room for records in one segment.
        chance: decides how long things take.
    """

    def __init__(self, ledger: Ledger, segment_bytes: int, chance: random.Random) -> None:
        self.full = False
        self.takes_no_logs = False
        self.failing = 0.0
        """The share of operations that fail."""
        self.slow_s = 0.001
        self.homes: list[Home] = []
        self.ledger = ledger
        self.segment_bytes = segment_bytes
        self.chance = chance

    def left_behind(self) -> dict[int, int]:
        """Return the latest second of each key that processes which are gone have left."""
        entries: dict[int, int] = {}
        for home in self.homes:
            if home.deserted:
                for key, second in home.entries().items():
                    entries[key] = max(second, entries.get(key, 0))
        return entries

    async def work(self) -> None:
        """Take as long as the disk takes.

        Raises:
            OSError: it fails.
        """
        await asyncio.sleep(self.slow_s * self.chance.random())
        self.fail_perhaps()

    def fail_perhaps(self) -> None:
        """Fail as often as the disk does."""
        if self.failing and self.chance.random() < self.failing:
            raise OSError(errno.EIO, "Input/output error")


class Home:
    """The folder of one process.

    Args:
        machine: whose disk it is on.
        number: of the process.
        most_segments: how many there may be.
    """

    def __init__(self, machine: Machine, number: int, most_segments: int) -> None:
        self.number = number
        self.segments: dict[str, bytearray] = {}
        self.deserted = False
        self.taken_by: Home | None = None
        self.machine = machine
        self.made = 0
        self._most_segments = most_segments

    def __repr__(self) -> str:
        """Return its name."""
        return f"home {self.number}"

    async def open(self) -> None:
        """Take it."""
        self.machine.homes.append(self)

    def disk(self, owner: Mapping[str, str]) -> Disk:
        """Return where segments come from."""
        return HomeDisk(self, header(owner))

    def orphans(self) -> list["DeadHome"]:
        """Return the homes of processes that are gone, for this one alone."""
        if self.deserted:
            return []
        found = [home for home in self.machine.homes if home.deserted and home.taken_by is None]
        for home in found:
            home.taken_by = self
        return [DeadHome(home, self) for home in found]

    def add(self, first_line: bytes) -> Segment:
        """Make a segment."""
        self.made += 1
        name = f"{self.number}/{self.made:04d}"
        memory = bytearray(first_line) + bytes(self.machine.segment_bytes)
        self.segments[name] = memory
        if len(self.segments) > self._most_segments:
            self.machine.ledger.broken(f"{len(self.segments)} segments are more than there may be")
        return Segment(name, memory, len(first_line))

    async def close(self, *, keep: bool) -> None:
        """Let go of it.

        Args:
            keep: leave all that is in it to others.
        """
        if not self.deserted:
            if not keep:
                self.segments = {}
            self.desert()

    def crash(self, junk: bytes) -> None:
        """Keep what was written; behind it there may be what was never written as a whole.

        Args:
            junk: what is there.
        """
        self.segments = {name: bytearray(memory) for name, memory in self.segments.items()}
        for memory in self.segments.values():
            end = len(memory.rstrip(b"\0"))
            memory[end : end + len(junk)] = junk[: len(memory) - end]
        self.desert()

    def desert(self) -> None:
        """Leave it to others, and what it had taken, too."""
        self.deserted = True
        homes = self.machine.homes
        for home in homes:
            if home.taken_by is self:
                home.taken_by = None
        if not self.segments and self in homes:
            homes.remove(self)

    def entries(self) -> dict[int, int]:
        """Return the latest second of each key that is in its segments."""
        entries: dict[int, int] = {}
        for memory in self.segments.values():
            for key, second in _entries(memory).items():
                entries[key] = max(second, entries.get(key, 0))
        return entries


class HomeDisk:
    """Segments of one target in one home.

    Args:
        home: where they are.
        first_line: their header.
    """

    def __init__(self, home: Home, first_line: bytes) -> None:
        self._home = home
        self._first_line = first_line

    async def create(self) -> Segment:
        """Return a new segment, after a while."""
        await self._home.machine.work()
        if self._home.machine.full or self._home.deserted:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._home.add(self._first_line)

    async def remove(self, segment: Segment) -> None:
        """Remove a segment, after a while."""
        await self._home.machine.work()
        if self._home.deserted:
            raise OSError(errno.EIO, "Input/output error")
        self._home.segments.pop(segment.name, None)

    async def seal(self, segment: Segment) -> None:
        """Let go of the memory of a full segment, which here costs nothing."""

    async def holds(self, segment: Segment) -> bool:
        """Return whether a segment is still there."""
        return segment.name in self._home.segments


class DeadHome:
    """The home of a process that is gone, in the hands of another one.

    Args:
        home: it.
        heir: the home of the other one.
    """

    def __init__(self, home: Home, heir: Home) -> None:
        self._home = home
        self._heir = heir

    def __str__(self) -> str:
        """Return whose it was."""
        return str(self._home)

    def segments(self) -> list[str]:
        """Return the names of its segments."""
        return sorted(self._home.segments)

    def read(self, path: str) -> bytes:
        """Return all of a segment."""
        self._home.machine.fail_perhaps()
        return bytes(self._home.segments[path])

    def remove(self, path: str) -> None:
        """Remove a segment."""
        self._check()
        self._home.machine.fail_perhaps()
        del self._home.segments[path]

    def close(self) -> None:
        """Let go of it; with no segments left it is removed."""
        if self._home.taken_by is self._heir:
            self._home.taken_by = None
            if not self._home.segments:
                self._home.machine.homes.remove(self._home)

    def _check(self) -> None:
        if self._home.taken_by is not self._heir:
            raise OSError(errno.EBADF, "the process is gone")


def _entries(memory: bytearray) -> dict[int, int]:
    _, start = read_header(memory)
    found = read(memory, start).entries.items()
    return {int(key): second for key, second in found if key.isdecimal()}
