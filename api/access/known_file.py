"""The devices and API keys that a process knows, in a file for the next one.

A process that starts while the database is away serves what the last one knew, for as long as that
one would have. The file has ids of devices and hashes of API keys, no key and no name; it is
readable by its owner alone, and a file of another owner is not read.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog

from api.access.keys import Principal

_FORMAT: Final = 1
_AT_ONCE: Final = 2000
"""After so many devices, requests have their turn: one takes half a microsecond."""
_ID_DIGITS: Final = 32
_CLOCK_TOLERANCE_S: Final = 5.0
"""How far the clock may have been set back since the file was written, in seconds."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Key(msgspec.Struct, frozen=True, array_like=True):
    hashed: bytes
    key_id: int
    group_id: str | None
    expires_at: float


class _Contents(msgspec.Struct, frozen=True):
    format: int
    database: bytes
    saved_at: float
    keys: list[_Key]
    devices: dict[str, bytes]
    """The ids of each group's devices, 16 bytes each."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Contents).decode


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knew.

    Args:
        age_s: how long ago it knew that, in seconds.
        keys: principals by the hash of their API key.
        groups: the group of each device.
    """

    age_s: float
    keys: dict[bytes, Principal]
    groups: dict[str, str]


class KnownFile:
    """The file.

    Args:
        path: where it is; its directory is made when it is needed.
        dsn: of the database that it is about; a file about another one is not read.
    """

    def __init__(self, path: Path, dsn: str) -> None:
        self._path = path
        self._database = _digest(dsn)

    async def save(self, groups: Mapping[str, str], keys: Mapping[bytes, Principal]) -> None:
        """Replace the file.

        Args:
            groups: the group of each device; not changed meanwhile.
            keys: principals by the hash of their API key; not changed meanwhile.

        Raises:
            OSError: it cannot be written.
        """
        ids: dict[str, bytearray] = {}
        for number, (device_id, group_id) in enumerate(groups.items(), start=1):
            ids.setdefault(group_id, bytearray()).extend(bytes.fromhex(device_id.replace("-", "")))
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
        contents = _Contents(
            _FORMAT,
            self._database,
            time.time(),
            [
                _Key(digest, one.key_id, one.group_id, one.expires_at)
                for digest, one in keys.items()
            ],
            {group_id: bytes(of_group) for group_id, of_group in ids.items()},
        )
        await asyncio.to_thread(self._write, _encode(contents))

    async def load(self, max_age_s: float) -> Known | None:
        """Return what the last process knew; None if there is no file that can be used.

        Args:
            max_age_s: how old it may be, in seconds.
        """
        try:
            contents = _decode(await asyncio.to_thread(self._read))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("directory.file_unusable", path=str(self._path), error=str(error))
            return None
        age_s = time.time() - contents.saved_at
        # A file of the future may be of any age: the clock has been set back since.
        is_usable = -_CLOCK_TOLERANCE_S <= age_s <= max_age_s
        if contents.format != _FORMAT or contents.database != self._database or not is_usable:
            return None
        age_s = max(0.0, age_s)
        groups: dict[str, str] = {}
        for group_id, ids in contents.devices.items():
            digits = ids.hex()
            for at in range(0, len(digits), _ID_DIGITS):
                # A third of the time that a UUID takes for the same text.
                groups[
                    f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-{digits[at + 12 : at + 16]}"
                    f"-{digits[at + 16 : at + 20]}-{digits[at + 20 : at + 32]}"
                ] = group_id
                if not len(groups) % _AT_ONCE:
                    await asyncio.sleep(0)
        keys = {
            one.hashed: Principal(one.key_id, one.group_id, one.expires_at) for one in contents.keys
        }
        return Known(age_s, keys, groups)

    def _write(self, contents: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(contents)
        partial.replace(self._path)

    def _read(self) -> bytes:
        with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise PermissionError("it belongs to another user, or others may write to it")
            return file.read()


def _digest(dsn: str) -> bytes:
    """Return what stands for a database: its address and name, without user and password."""
    parts = urlsplit(dsn)
    return hashlib.sha256(
        f"{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}".encode()
    ).digest()


def is_recent(path: Path, max_age_s: float) -> bool:
    """Return whether there is a file that was written at most so many seconds ago."""
    try:
        return time.time() - path.stat().st_mtime <= max_age_s
    except OSError:
        return False
