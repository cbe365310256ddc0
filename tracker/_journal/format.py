"""The journal's format: a line that says whose touches these are, then checked records, then zeros.

A record is a head of three little-endian 32-bit numbers, checksum (CRC-32 of the key, begun with
the second's complement), length of the key plus 1, and second since the epoch, followed by the key
as UTF-8 text. A head of zeros is the end. Records need no order, as the latest second of a key is
what counts; a key may be there many times.
"""

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from zlib import crc32

Memory: TypeAlias = mmap.mmap | bytearray | bytes

_MAGIC: Final = b"activity-journal"
_FORMAT: Final = b"1"
_HEAD: Final = struct.Struct("<III")
_HEAD_BYTES: Final = _HEAD.size
_LAST_SECOND: Final = 0xFFFF_FFFF
_head_into = _HEAD.pack_into
_head_from = _HEAD.unpack_from


class UnreadableJournal(Exception):
    """A segment that cannot be taken over as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a segment holds.

    Args:
        entries: each key's latest second.
        torn_bytes: how much begins with a record that is not whole; 0 when all are.
    """

    entries: dict[str, int]
    torn_bytes: int


def header(owner: Mapping[str, str]) -> bytes:
    """Return the first line of a segment.

    Args:
        owner: what the touches are of: the target, its table and columns, the database.
    """
    return b"%b %b %b\n" % (_MAGIC, _FORMAT, json.dumps(owner, sort_keys=True).encode())


def read_header(memory: Memory) -> tuple[dict[str, str], int]:
    """Return whose touches a segment holds, and where its records begin.

    Raises:
        UnreadableJournal: it is no segment, or one of another format.
    """
    line = memory[: memory.find(b"\n") + 1]
    magic, _, rest = bytes(line).partition(b" ")
    version, _, owner = rest.partition(b" ")
    if magic != _MAGIC:
        raise UnreadableJournal("it is no journal of touches")
    if version != _FORMAT:
        raise UnreadableJournal(f"it is of format {version[:20]!r}, this version reads {_FORMAT!r}")
    try:
        said = json.loads(owner)
    except (ValueError, RecursionError) as error:
        raise UnreadableJournal("its header is damaged") from error
    if not isinstance(said, dict):
        raise UnreadableJournal("its header is damaged")
    return said, len(line)


class Segment:
    """Memory that outlives the process, and how far it is written.

    Args:
        name: what its disk knows it by.
        memory: zeros but for a header.
        start: where records begin, in bytes.
    """

    __slots__ = ("_end", "_room", "memory", "name")

    def __init__(self, name: str, memory: mmap.mmap | bytearray, start: int) -> None:
        self.name = name
        self.memory = memory
        self._end = start
        self._room = len(memory)

    def append(self, key: object, second: int) -> bool:
        """Append a record; whether there was room for it.

        Args:
            key: in any form that equals the canonical one.
            second: since the epoch; one after 2106 counts as the last one of then, since Postgres
                will store no time that is in its own future.

        Raises:
            Exception: whatever comes of a key that has no such form.
        """
        second = min(second, _LAST_SECOND)
        text = str.encode(key) if isinstance(key, str) else b"%d" % key  # type: ignore[str-format]
        start = self._end + _HEAD_BYTES
        end = start + len(text)
        if end > self._room:
            return False
        checksum = crc32(text, second ^ _LAST_SECOND)
        _head_into(self.memory, self._end, checksum, len(text) + 1, second)
        self.memory[start:end] = text
        self._end = end
        return True


def read(memory: Memory, position: int) -> Contents:
    """Return all whole records of a segment, up to the first one that is not.

    Args:
        memory: a segment.
        position: where its records begin, in bytes.
    """
    entries: dict[str, int] = {}
    size = len(memory)
    while position + _HEAD_BYTES <= size:
        checksum, length, second = _head_from(memory, position)
        if not (checksum or length or second):
            return Contents(entries, 0)
        start = position + _HEAD_BYTES
        end = start + length - 1
        text = memory[start:end]
        if not length or end > size or crc32(text, second ^ _LAST_SECOND) != checksum:
            break
        try:
            key = str(text, "utf-8")
        except UnicodeDecodeError:
            break
        if entries.get(key, -1) < second:
            entries[key] = second
        position = end
    else:
        return Contents(entries, 0)
    return Contents(entries, len(bytes(memory[position:]).rstrip(b"\0")))
