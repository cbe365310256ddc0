"""Simulates the disk that all writers share; journals survive their process."""

import asyncio
import errno
import random
from collections.abc import Mapping
from typing import Final

from benchmarks.simulation.ledger import Ledger
from tracker._journal.format import Segment, header, read, read_header
from tracker._journal.storage import SegmentStorage

_TAIL_BYTES: Final = 12


class Disk:
    """The disk with the journal directories of all processes.

    Args:
        ledger: receives violations of limits.
        segment_bytes: the size of a segment's records, in bytes.
        rng: the random source of durations and failures.
    """

    def __init__(self, ledger: Ledger, segment_bytes: int, rng: random.Random) -> None:
        self.full = False
        self.rejects_logs = False
        self.failing = 0.0
        """The share of operations that fail."""
        self.slow_s = 0.001
        self.directories: list[SimulatedDirectory] = []
        self.ledger = ledger
        self.segment_bytes = segment_bytes
        self.rng = rng

    def orphaned_entries(self) -> dict[int, int]:
        """Return the latest second of each key in the journals of ended processes."""
        entries: dict[int, int] = {}
        for directory in self.directories:
            if directory.orphaned:
                for key, second in directory.entries().items():
                    entries[key] = max(second, entries.get(key, 0))
        return entries

    async def work(self) -> None:
        """Wait for the duration of an operation.

        Raises:
            OSError: the operation fails.
        """
        await asyncio.sleep(self.slow_s * self.rng.random())
        self.fail_at_random()

    def fail_at_random(self) -> None:
        """Raise an error at the disk's failure rate."""
        if self.failing and self.rng.random() < self.failing:
            raise OSError(errno.EIO, "Input/output error")


class SimulatedDirectory:
    """The journal directory of one process; a `JournalStorage`.

    Args:
        disk: the disk.
        number: the number of the process.
        max_segments: the maximum number of segments.
    """

    def __init__(self, disk: Disk, number: int, max_segments: int) -> None:
        self.number = number
        self.memories: dict[str, bytearray] = {}
        self.server: str | None = None
        self.orphaned = False
        self.taken_by: SimulatedDirectory | None = None
        self.disk = disk
        self.made = 0
        self._max_segments = max_segments

    def __repr__(self) -> str:
        """Return its name."""
        return f"directory {self.number}"

    async def open(self) -> None:
        """Take it."""
        self.disk.directories.append(self)

    def segments(self, owner: Mapping[str, str]) -> SegmentStorage:
        """Return the storage for the segments of one target."""
        return SimulatedSegments(self, header(owner))

    async def record_server(self, server: str) -> None:
        """Store the name of the database."""
        self.server = server

    def orphans(self) -> list["SimulatedOrphan"]:
        """Lock and return the directories of ended processes."""
        if self.orphaned:
            return []
        found = [
            directory
            for directory in self.disk.directories
            if directory.orphaned and directory.taken_by is None
        ]
        for directory in found:
            directory.taken_by = self
        return [SimulatedOrphan(directory, self) for directory in found]

    def add(self, first_line: bytes) -> Segment:
        """Create a segment."""
        self.made += 1
        name = f"{self.number}/{self.made:04d}"
        memory = bytearray(first_line) + bytes(self.disk.segment_bytes)
        self.memories[name] = memory
        if len(self.memories) > self._max_segments:
            self.disk.ledger.violated(f"{len(self.memories)} segments are more than the maximum")
        return Segment(name, memory, len(first_line))

    async def close(self, *, keep: bool) -> None:
        """Close it.

        Args:
            keep: whether to leave its segments to other processes.
        """
        if not self.orphaned:
            if not keep:
                self.memories = {}
            self.release()

    def crash(self, torn: bytes) -> None:
        """Keep the records as a crash leaves them, perhaps with an incomplete record at the end.

        Args:
            torn: the bytes after the last complete record.
        """
        self.memories = {name: bytearray(memory) for name, memory in self.memories.items()}
        for memory in self.memories.values():
            end = len(memory.rstrip(b"\0"))
            memory[end : end + len(torn)] = torn[: len(memory) - end]
        self.release()

    def release(self) -> None:
        """Leave it and the orphaned directories that it had locked to other processes."""
        self.orphaned = True
        directories = self.disk.directories
        for directory in directories:
            if directory.taken_by is self:
                directory.taken_by = None
        if not self.memories and self in directories:
            directories.remove(self)

    def entries(self) -> dict[int, int]:
        """Return the latest second of each key that is in its segments."""
        entries: dict[int, int] = {}
        for memory in self.memories.values():
            for key, second in _entries(memory).items():
                entries[key] = max(second, entries.get(key, 0))
        return entries


class SimulatedSegments:
    """Segments of one target in one directory.

    Args:
        directory: their directory.
        first_line: the header of each.
    """

    def __init__(self, directory: SimulatedDirectory, first_line: bytes) -> None:
        self._directory = directory
        self._first_line = first_line

    async def create(self) -> Segment:
        """Return a new segment, after the disk's delay."""
        await self._directory.disk.work()
        if self._directory.disk.full or self._directory.orphaned:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._directory.add(self._first_line)

    async def remove(self, segment: Segment) -> None:
        """Remove a segment, after the disk's delay."""
        await self._directory.disk.work()
        if self._directory.orphaned:
            raise OSError(errno.EIO, "Input/output error")
        self._directory.memories.pop(segment.name, None)

    async def seal(self, segment: Segment) -> None:
        """Release the memory of a full segment, which has no effect here."""

    async def held(self) -> set[str]:
        """Return the names of the segments that are on disk."""
        return set(self._directory.memories)


class SimulatedOrphan:
    """The directory of an ended process, locked by another one; an `OrphanedJournal`.

    Args:
        directory: the orphaned one.
        new_owner: the directory of the process that locks it.
    """

    def __init__(self, directory: SimulatedDirectory, new_owner: SimulatedDirectory) -> None:
        self._directory = directory
        self._new_owner = new_owner

    def __str__(self) -> str:
        """Return the name of its process."""
        return str(self._directory)

    def server(self) -> str | None:
        """Return the database of its process."""
        return self._directory.server

    def segments(self) -> list[str]:
        """Return the names of its segments."""
        return sorted(self._directory.memories)

    def read(self, path: str) -> bytes:
        """Return the content of a segment."""
        self._directory.disk.fail_at_random()
        return bytes(self._directory.memories[path])

    def remove(self, path: str) -> None:
        """Remove a segment."""
        self._check()
        self._directory.disk.fail_at_random()
        del self._directory.memories[path]

    def close(self) -> None:
        """Unlock it; it is removed if it has no segments left."""
        if self._directory.taken_by is self._new_owner:
            self._directory.taken_by = None
            if not self._directory.memories:
                self._directory.disk.directories.remove(self._directory)

    def _check(self) -> None:
        if self._directory.taken_by is not self._new_owner:
            raise OSError(errno.EBADF, "the process has ended")


def _entries(memory: bytearray) -> dict[int, int]:
    _, start = read_header(memory)
    found = read(memory, start).entries.items()
    return {int(key): second for key, second in found if key.isdecimal()}
