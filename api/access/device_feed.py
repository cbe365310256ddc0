"""Loads the directory of devices, and keeps it current by polling for changes.

A trigger notes each change in `device_changes`, with the transaction that made it. Each poll reads
the changes of all transactions that were not over at the poll before, so a change that commits late
is not missed; to read one again has no effect. Polling works through a pooler in transaction mode.

Of several workers one polls, and the others ask it whether it has found changes: only then they
read them, too. A worker whose sibling does not answer, or has not polled just now, polls itself.

The directory is used while polls succeed. If the database is unavailable it is used until
`stale_limit_s`, and loaded again afterwards. If only the polls fail, devices are looked up, for
they may have moved; the directory then serves those that cannot be looked up.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from api.access.directory import DeviceDirectory
from api.postgres.database import Database
from api.siblings import DeviceRevision, Siblings
from tracker import StoreError, StoreMisconfigured, StoreUnavailable

_SLICE: Final = 5000
_KEPT_S: Final = 3600
"""How long changes are kept for processes that could not poll."""
_REMOVE_EVERY_S: Final = 600
_GRACE_S: Final = 1.0
"""How long failed polls are taken for an outage without a further check."""
_DEADLINE_S: Final = 5.0
_LOAD_DEADLINE_S: Final = 30.0
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_POSITION: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_PAGE: Final = f"""
SELECT d.device_id::text, d.group_id FROM devices AS d WHERE d.is_active AND d.device_id > $1
ORDER BY d.device_id LIMIT {_SLICE}
"""  # noqa: S608 - a constant
"""`ORDER BY device_id` would mean the text, which has no index: each page would sort all rows."""
_CHANGES: Final = """
WITH changed AS MATERIALIZED (
    SELECT device_id, max(id) AS id FROM device_changes WHERE transaction >= $1::text::xid8
    GROUP BY device_id
)
SELECT here.position, here.position::xid8 < $1::text::xid8, changed.id, changed.device_id::text,
       d.group_id
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS position) AS here
LEFT JOIN changed ON true
LEFT JOIN devices AS d ON d.device_id = changed.device_id AND d.is_active
"""
_REMOVE_OLD: Final = f"""
DELETE FROM device_changes WHERE (transaction, id) IN (
    SELECT transaction, id FROM device_changes
    WHERE changed_at < now() - make_interval(secs => {_KEPT_S})
    ORDER BY transaction LIMIT {_SLICE} FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - of constants

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class DeviceFeed:
    """Keeps a directory current while it runs.

    Args:
        database: where devices are stored.
        directory: receives them.
        siblings: one of them may poll for this process.
        every_s: time between polls, in seconds.
        stale_limit_s: how long the directory is used while the database is unavailable, in seconds.
        restore: fills the directory with what an earlier process knew, if the database cannot be
            reached at the start; returns the age of that in seconds, None if there is nothing.
        on_change: called with each active device that was changed, by any process.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        database: Database,
        directory: DeviceDirectory,
        siblings: Siblings,
        *,
        every_s: float,
        stale_limit_s: float,
        restore: Callable[[], Awaitable[float | None]],
        on_change: Callable[[str], None] = lambda _device_id: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._directory = directory
        self._siblings = siblings
        self._every_s = every_s
        self._stale_limit_s = stale_limit_s
        self._restore = restore
        self._on_change = on_change
        self._monotonic = monotonic
        self._position: str | None = None  # None: all devices have to be loaded
        self.current_at = float("-inf")
        """When the directory was current, by the monotonic clock."""
        self._all_changed = 0  # the newest change of all devices that was followed
        self._failed = False
        self._removed_at = monotonic()
        self._followed: int | None = None  # the sibling's number at the last poll
        self._number = time.monotonic_ns()  # of this process: no two processes have the same
        self._read_at = float("-inf")  # when this process polled itself
        self._changes: set[tuple[object, ...]] = set()  # that the last poll has read

    @property
    def polled_here(self) -> DeviceRevision | None:
        """What this process has just polled, for its siblings; None if it has not."""
        is_new = self._monotonic() - self._read_at <= 2 * self._every_s
        return DeviceRevision(self._number, self._read_at) if is_new else None

    async def run(self) -> None:
        """Load and poll until the task is cancelled."""
        try:
            await self._poll()
        except StoreUnavailable:
            if (age_s := await self._restore()) is not None:
                self.current_at = self._monotonic() - age_s
        except Exception:  # noqa: BLE001, S110 - the loop below reports it
            pass
        while True:
            try:
                await self._poll()
            except Exception as error:  # noqa: BLE001 - no error may end the polling
                await self._note_failure(error)
            else:
                if self._failed:
                    self._failed = False
                    log.info("directory.healthy", devices=len(self._directory))
            await asyncio.sleep(self._every_s)

    async def _poll(self) -> None:
        sibling = await self._siblings.device_revision()
        asked_at = self._monotonic()
        outdated = asked_at - self.current_at > _KEPT_S / 2
        position = None if outdated else self._position
        if position is not None and sibling is not None and sibling.number == self._followed:
            self.current_at = sibling.asked_at
            self._directory.use(current=True)
            return
        if position is None:
            await self._load()
        else:
            await self._apply_changes(position)
        self.current_at = self._read_at = asked_at
        # Asked before reading, so this process has read all that the sibling had.
        self._followed = None if sibling is None else sibling.number
        self._directory.use(current=True)
        if asked_at - self._removed_at > _REMOVE_EVERY_S:
            self._removed_at = asked_at
            await self._database.fetch(_REMOVE_OLD, deadline_s=_DEADLINE_S)

    async def _load(self) -> None:
        """Read all active devices, a slice at a time, so that requests have their turns."""
        ((position,),) = await self._database.fetch(_POSITION, deadline_s=_DEADLINE_S)
        groups: dict[str, str] = {}
        names: dict[str, str] = {}
        after = _NIL
        while len(groups) < self._directory.capacity:
            rows = await self._database.fetch(_PAGE, after, deadline_s=_LOAD_DEADLINE_S)
            for device_id, group_id in rows[: self._directory.capacity - len(groups)]:
                groups[device_id] = names.setdefault(group_id, group_id)
            if len(rows) < _SLICE:
                break
            after = rows[-1][0]
        self._directory.replace(groups)
        self._number += 1
        # What changed while the slices were read.
        await self._apply_changes(position)

    async def _apply_changes(self, position: str) -> None:
        rows = await self._database.fetch(_CHANGES, position, deadline_s=_DEADLINE_S)
        self._position = rows[0][0]
        changes = {tuple(row[2:]) for row in rows if row[2] is not None}
        if changes - self._changes:  # the rest was read at the last poll, too
            self._number += 1
        self._changes = changes
        for _, went_back, change, device_id, group_id in rows:
            # A server whose transactions are numbered lower is another one, or was restored.
            if went_back or (device_id is None and (change or 0) > self._all_changed):
                self._all_changed = change or 0
                self._position = None  # the next poll loads all
            elif device_id is None:
                pass
            elif group_id is None:
                self._directory.discard(device_id)
            else:
                self._directory.put(device_id, group_id)
                self._on_change(device_id)

    async def _note_failure(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.error("directory.failed", error=f"{type(error).__name__}: {error}")
        age_s = self._monotonic() - self.current_at
        usable = isinstance(error, StoreUnavailable) and age_s <= self._stale_limit_s
        if usable and age_s > _GRACE_S + self._every_s:
            usable = not await self._is_available()
            if usable:
                # After an outage the server may be a replica that lacks the last changes.
                self._position = None
        self._directory.use(current=usable, bridging=age_s <= self._stale_limit_s)

    async def _is_available(self) -> bool:
        try:
            await self._database.fetch("SELECT 1", deadline_s=_GRACE_S)
        except StoreMisconfigured:
            return True
        except StoreError:
            return False
        return True
