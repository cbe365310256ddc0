"""Keeps the known devices and API keys in a file, and loads all API keys soon after the start.

So an outage of the database is survived by processes that start in it, and by API keys that no
request has used since the start.
"""

import asyncio
from typing import Final

import structlog

from api.access.directory import DeviceDirectory
from api.access.keys import Principal, load_all_principals
from api.access.known_file import KnownFile
from api.access.lookup import CachedLookup
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from tracker import StoreError

_SAVE_EVERY_S: Final = 300.0
_LOAD_KEYS_EVERY_S: Final = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Known:
    """What this process knows.

    Args:
        database: where API keys are stored.
        clock: receives the database's time.
        directory: of all devices.
        keys: the cache of API keys.
        file: where it is kept; None for nowhere.
        stale_limit_s: how old what is kept may be, in seconds.
    """

    def __init__(
        self,
        database: Database,
        clock: DatabaseClock,
        directory: DeviceDirectory,
        keys: CachedLookup[bytes, Principal],
        *,
        file: KnownFile | None,
        stale_limit_s: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._directory = directory
        self._keys = keys
        self._file = file
        self._stale_limit_s = stale_limit_s
        self._failed = False
        self._keys_are_due = asyncio.Event()
        self._keys_are_due.set()

    async def restore(self) -> float | None:
        """Know what the last process knew; return its age in seconds, or None if there is nothing.

        For a start at which the database is unavailable.
        """
        found = self._file and await self._file.load(self._stale_limit_s)
        if not found:
            return None
        self._directory.replace(found.groups)
        for hashed, principal in found.keys.items():
            self._keys.put_read(
                hashed, principal, generation=self._keys.generation - 1, age_s=found.age_s
            )
        log.warning(
            "directory.restored",
            devices=len(found.groups),
            keys=len(found.keys),
            age_s=round(found.age_s),
        )
        return found.age_s

    def keys_changed(self) -> None:
        """Note that API keys were changed, so that all are loaded again."""
        self._keys_are_due.set()

    async def follow_keys(self) -> None:
        """Load all API keys, and again after each change, until the task is cancelled."""
        while True:
            await self._keys_are_due.wait()
            self._keys_are_due.clear()
            if not await self._load_keys():
                self._keys_are_due.set()
            await asyncio.sleep(_LOAD_KEYS_EVERY_S)

    async def save_regularly(self) -> None:
        """Save what is known again and again, until the task is cancelled."""
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        """Save what is known, if it is current."""
        if self._file is None or not self._directory.is_current or not len(self._directory):
            return
        try:
            await self._file.save(self._directory.copy(), self._keys.rows())
        except OSError as error:
            if not self._failed:
                log.warning("directory.file_failed", error=str(error))
            self._failed = True
        else:
            self._failed = False

    async def _load_keys(self) -> bool:
        generation = self._keys.generation  # what is invalidated meanwhile must stay so
        started, found = self._clock.monotonic(), set()
        try:
            async for hashed, principal in load_all_principals(self._database, self._clock):
                age_s = self._clock.monotonic() - started
                self._keys.put_read(hashed, principal, generation=generation, age_s=age_s)
                found.add(hashed)
        except StoreError:
            return False
        self._keys.discard_unread(found, older_than_s=self._clock.monotonic() - started)
        return True
