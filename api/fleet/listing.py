"""The listing of a group's devices: by name, filtered by when they were last seen, in pages.

No index helps with when a device was last seen: it would make every touch an index update, and the
latest touches are in memory alone. So the group is read in the order of its index by name, a
bounded slice at a time, and the overlay of pending touches is applied to each row before
the row is compared with the page. The statement leaves out only rows that no pending touch can
admit.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import Annotated, Final
from uuid import UUID

import msgspec

from api.durations import Duration
from api.fleet.cursors import Position, to_cursor
from api.fleet.devices import (
    COLUMNS,
    DeviceResponse,
    GroupId,
    Limit,
    device_response,
    join_newest,
    last_seen,
)
from api.fleet.pending import Pending
from api.fleet.presence import Presence, PresenceRule
from api.postgres.database import Database, Records
from tracker import View

SLICE_ROWS: Final = 200
"""The maximum number of rows of a statement on a large page. Other requests wait while the rows are
decoded, and a client that does not read keeps as many in memory."""
_SPARSE_SLICE_ROWS: Final = 2000
"""The maximum number of rows that a statement reads if few of them match."""
_ROWS_AT_ONCE: Final = 20
"""After so many rows, other requests get a turn: a row takes 20 microseconds."""
_MAX_ROWS: Final = 250_000
"""The maximum number of rows read for one page. The page then has the matches so far."""

_SLICE: Final = f"""
WITH d AS MATERIALIZED (
    SELECT device_id, group_id, display_name, platform, last_seen_at, is_online, presence_since,
           offline_after_s,
           row_number() OVER (ORDER BY display_name, device_id) AS n
    FROM devices WHERE group_id = $1 AND is_active {{after}}
    ORDER BY display_name, device_id LIMIT $2
)
SELECT d.n, {COLUMNS} FROM d {{newest}}
-- The last one comes whatever it is: it is where to go on.
WHERE d.n = $2 OR (
    ($3::bigint IS NULL OR d.last_seen_at IS NULL OR NOT isfinite(d.last_seen_at)
     OR d.last_seen_at < date_trunc('second', now()) - make_interval(secs => $3 - 1))
    AND ($4::bigint IS NULL
         OR d.last_seen_at >= date_trunc('second', now()) - make_interval(secs => $4)))
ORDER BY d.n
"""
_AFTER: Final = "AND (display_name, device_id) > ($5::text, $6::uuid)"


class Listing(msgspec.Struct, frozen=True):
    """The query of the listing."""

    group_id: GroupId
    silent_for: (
        Annotated[
            Duration, msgspec.Meta(description="Not seen for at least so long, or never: 7d.")
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    seen_within: (
        Annotated[Duration, msgspec.Meta(description="Seen so long ago at most: 15m.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    presence: (
        Annotated[Presence, msgspec.Meta(description="What the device is now: offline.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    limit: Limit = 1000
    cursor: (
        Annotated[str, msgspec.Meta(description="The next_cursor of the page before.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Listed(msgspec.Struct, frozen=True):
    """A page of active devices by display name, and the cursor of the next; null on the last."""

    devices: list[DeviceResponse]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Ages:
    """How long ago a device was last seen, in whole seconds by the database's clock.

    Args:
        at_least_s: at least so many seconds; a device that was never seen matches any number.
        at_most_s: at most so many seconds.
        presence: what they are now; None for anything.
    """

    at_least_s: float = -inf
    at_most_s: float = inf
    presence: Presence | None = None

    def admit(self, seen: int, now: int) -> bool:
        """Return whether a device that was last seen at this time, 0 for never, matches now."""
        return self.at_least_s <= (now - seen if seen else inf) <= self.at_most_s


ANY_AGE: Final = Ages()


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of a page: some of its devices, in order.

    Args:
        devices: may be empty.
        is_last: whether the page ends with them.
        next_cursor: of the next page; None if there is none, or if this is not the last slice.
    """

    devices: list[DeviceResponse]
    is_last: bool
    next_cursor: str | None = None


def _at_once() -> AbstractAsyncContextManager[None]:
    return nullcontext()


def slice_statements(ahead_s: float) -> tuple[str, str]:
    """Return the statements that read the first slice of a group and a later one.

    Args:
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
    """
    newest = join_newest(ahead_s)
    return _SLICE.format(newest=newest, after=""), _SLICE.format(newest=newest, after=_AFTER)


class Listings:
    """Lists devices; the overlay is applied to a row before the row is filtered.

    Args:
        database: where devices are stored.
        pending: takes views of the devices' pending touches.
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
        rule: when a device is online.
        most_rows: how many rows are read for one page at most.
    """

    def __init__(
        self,
        database: Database,
        pending: Pending,
        *,
        ahead_s: float,
        rule: PresenceRule = PresenceRule(),  # noqa: B008 - it is frozen
        most_rows: int = _MAX_ROWS,
    ) -> None:
        self._first, self._next = slice_statements(ahead_s)
        self._database = database
        self._pending = pending
        self._rule = rule
        self._most_rows = most_rows

    async def page(
        self,
        group_id: str,
        *,
        limit: int,
        after: Position | None = None,
        ages: Ages = ANY_AGE,
    ) -> Listed:
        """Return a page of the active devices of a group by display name.

        Args:
            group_id: the group.
            limit: the most devices.
            after: where the page before ended; None for the first page.
            ages: how long ago the devices were last seen.

        Raises:
            StoreError: the database is unavailable.
        """
        found: list[DeviceResponse] = []
        cursor = None
        async for part in self.slices(group_id, limit=limit, after=after, ages=ages):
            found += part.devices
            cursor = part.next_cursor
        return Listed(found, cursor)

    async def slices(
        self,
        group_id: str,
        *,
        limit: int,
        after: Position | None = None,
        ages: Ages = ANY_AGE,
        turn: Callable[[], AbstractAsyncContextManager[None]] = _at_once,
    ) -> AsyncGenerator[Slice, None]:
        """Read a page of the active devices of a group by display name, slice by slice.

        Each slice is read when it is requested, and shows the devices as they are then. A page
        that is not the last may have fewer devices than the limit, even none, if few devices of a
        huge group match.

        Args:
            group_id: the group.
            limit: the most devices.
            after: where the page before ended; None for the first page.
            ages: how long ago the devices were last seen.
            turn: waits until the next slice may be read, and is left when it has been.

        Yields:
            At least one slice.

        Raises:
            StoreError: the database is unavailable.
        """
        last = after  # position of the last device that was returned
        left, rows_left, slice_rows = limit, self._most_rows, min(limit + 1, SLICE_ROWS)
        while True:
            async with turn():
                # Taken before the rows are read: a touch that is written in between is in the rows.
                pending = await self._pending.view()
                rows = await self._slice(
                    group_id, slice_rows, after, ages, may_be_newer=bool(pending)
                )
                view = await pending.of([row[1] for row in rows])
                devices = await _admitted(rows, view, ages, self._rule)
            if len(devices) > left:
                del devices[left:]
                last = _position(devices[-1]) if devices else last
                yield Slice(devices, is_last=True, next_cursor=last and to_cursor(last))
                return
            if not rows or rows[-1][0] < slice_rows:
                yield Slice(devices, is_last=True)
                return
            after = Position(rows[-1][2], UUID(rows[-1][1]))
            rows_left -= slice_rows
            if rows_left <= 0:
                yield Slice(devices, is_last=True, next_cursor=to_cursor(after))
                return
            left -= len(devices)
            last = _position(devices[-1]) if devices else last
            is_sparse = 4 * len(devices) <= len(rows) or slice_rows < SLICE_ROWS
            slice_rows = min(4 * slice_rows, _SPARSE_SLICE_ROWS if is_sparse else SLICE_ROWS)
            yield Slice(devices, is_last=False)

    async def _slice(
        self, group_id: str, rows: int, after: Position | None, ages: Ages, *, may_be_newer: bool
    ) -> Records:
        """Read the next rows, except those that cannot match."""
        silent_s = None if ages.at_least_s == -inf else int(ages.at_least_s)
        within_s = None if ages.at_most_s == inf or may_be_newer else int(ages.at_most_s)
        arguments = (group_id, rows, silent_s, within_s)
        if after is None:
            return await self._database.fetch(self._first, *arguments)
        return await self._database.fetch(self._next, *arguments, *after)


async def _admitted(
    rows: Records, view: View, ages: Ages, rule: PresenceRule
) -> list[DeviceResponse]:
    """Return the devices of the rows that match; let other requests run in between."""
    found: list[DeviceResponse] = []
    for number, (_, *row) in enumerate(rows, start=1):
        seen, now = last_seen(row, view)
        if ages.admit(seen, now):
            device = device_response(row, view, rule)
            if ages.presence is None or device.presence == ages.presence:
                found.append(device)
        if not number % _ROWS_AT_ONCE:
            await asyncio.sleep(0)
    return found


def _position(device: DeviceResponse) -> Position:
    return Position(device.display_name, UUID(device.device_id))
