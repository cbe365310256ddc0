"""The format of a segment: a header line with its owner, then records with checksums, then zeros.

A record is a record header of three little-endian 32-bit numbers, then the key as UTF-8 text. The
numbers are a checksum (CRC-32 of the key, started with the complement of the second), the length of
the key plus 1, and the second since the epoch. A record header of zeros is the end. Records need no
order and a key may occur many times: the latest second of a key counts.
"""

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from zlib import crc32

Memory: TypeAlias = mmap.mmap | bytearray | bytes

SEGMENT_BYTES: Final = 4 << 20
"""Some 80,000 touches of uuids."""
_MAGIC: Final = b"activity-journal"
_FORMAT: Final = b"1"
_HEAD: Final = struct.Struct("<III")
_HEAD_BYTES: Final = _HEAD.size
_LAST_SECOND: Final = 0xFFFF_FFFF
_head_into = _HEAD.pack_into
_head_from = _HEAD.unpack_from


class UnreadableJournal(Exception):
    """A segment that cannot be recovered; the message says why."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a segment holds.

    Args:
        entries: each key's latest second.
        torn_bytes: how many bytes follow the last whole record; 0 if all records are whole.
    """

    entries: dict[str, int]
    torn_bytes: int


def header(owner: Mapping[str, str]) -> bytes:
    """Return the first line of a segment.

    Args:
        owner: the target, its table and columns, and the database.
    """
    return b"%b %b %b\n" % (_MAGIC, _FORMAT, json.dumps(owner, sort_keys=True).encode())


def read_header(memory: Memory) -> tuple[dict[str, str], int]:
    """Return the owner of a segment, and the position of its first record, in bytes.

    Raises:
        UnreadableJournal: it is not a segment, or has another format.
    """
    line = memory[: memory.find(b"\n") + 1]
    magic, _, rest = bytes(line).partition(b" ")
    version, _, owner = rest.partition(b" ")
    if magic != _MAGIC:
        raise UnreadableJournal("it is no journal of touches")
    if version != _FORMAT:
        raise UnreadableJournal(f"it is of format {version[:20]!r}, this version reads {_FORMAT!r}")
    try:
        header_fields = json.loads(owner)
    except (ValueError, RecursionError) as error:
        raise UnreadableJournal("its header is damaged") from error
    if not isinstance(header_fields, dict):
        raise UnreadableJournal("its header is damaged")
    return header_fields, len(line)


class Segment:
    """Memory that survives a crash of the process, and the position of its next record.

    Args:
        name: its name in the storage.
        memory: a header followed by zeros.
        start: the position of the first record, in bytes.
    """

    __slots__ = ("_end", "_room", "memory", "name")

    def __init__(self, name: str, memory: mmap.mmap | bytearray, start: int) -> None:
        self.name = name
        self.memory = memory
        self._end = start
        self._room = len(memory)

    def append(self, key: object, second: int) -> bool:
        """Append a record; return whether there was room for it.

        Args:
            key: in any form that equals the canonical one.
            second: since the epoch. A second after 2106 is stored as the last one that fits, which
                is harmless: Postgres never stores a time in its own future.

        Raises:
            Exception: any error of a key that has no such form.
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
    """Return the records of a segment, up to the first one that is not whole.

    Args:
        memory: a segment.
        position: the position of its first record, in bytes.
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
