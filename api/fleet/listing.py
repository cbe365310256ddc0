"""The listing of a group's devices: by name, by when they were last seen, page by page.

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
    DeviceAnswer,
    GroupId,
    Limit,
    device_answer,
    join_newest,
    last_seen,
)
from api.fleet.pending import Pending
from api.postgres.database import Database, Records
from tracker import View

SLICE_ROWS: Final = 200
"""The most rows that a statement returns of a page with many: other requests wait while they are
decoded, and a client that does not read holds as many."""
_SPARSE_SLICE_ROWS: Final = 2000
"""The most rows that a statement reads where it returns few of them."""
_ROWS_AT_ONCE: Final = 20
"""After so many, other requests have their turn: a row takes 20 microseconds."""
_MAX_ROWS: Final = 250_000
"""How many rows are read for one page; what is found by then is the page."""

_SLICE: Final = f"""
WITH d AS MATERIALIZED (
    SELECT device_id, display_name, platform, last_seen_at,
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
    """Which devices to list: those of a group, by when they were seen, how many, after which."""

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
    limit: Limit = 1000
    cursor: (
        Annotated[str, msgspec.Meta(description="The next_cursor of the page before.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Listed(msgspec.Struct, frozen=True):
    """A page of active devices by display name, and the cursor of the next; null on the last."""

    devices: list[DeviceAnswer]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Ages:
    """How long ago a device was last seen, in whole seconds by the database's clock.

    Args:
        at_least_s: at least so many seconds; never is longer ago than any of them.
        at_most_s: at most so many seconds.
    """

    at_least_s: float = -inf
    at_most_s: float = inf

    def admit(self, seen: int, now: int) -> bool:
        """Return whether a device that was seen then, 0 for never, is among them now."""
        return self.at_least_s <= (now - seen if seen else inf) <= self.at_most_s


ANY_AGE: Final = Ages()


@dataclass(frozen=True, slots=True)
class Slice:
    """Some devices of a page, one after the other.

    Args:
        devices: they may be none.
        is_last: whether the page ends with them.
        next_cursor: of the next page; None if there is none, or if this is not the last slice.
    """

    devices: list[DeviceAnswer]
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
    """Lists devices; a row's pending touch is taken into account before the row is chosen.

    Args:
        database: where devices are stored.
        pending: takes views of the devices' pending touches.
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
        most_rows: how many rows are read for one page at most.
    """

    def __init__(
        self,
        database: Database,
        pending: Pending,
        *,
        ahead_s: float,
        most_rows: int = _MAX_ROWS,
    ) -> None:
        self._first, self._next = slice_statements(ahead_s)
        self._database = database
        self._pending = pending
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
            ages: how long ago they were last seen.

        Raises:
            StoreError: the database is away.
        """
        found: list[DeviceAnswer] = []
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

        Each slice is read when it is asked for, as its devices are then. A page that is not the
        last may have fewer devices than the limit, even none, if those that match are few and far
        between in a huge group.

        Args:
            group_id: the group.
            limit: the most devices.
            after: where the page before ended; None for the first page.
            ages: how long ago they were last seen.
            turn: waits until the next slice may be read, and is left when it has been.

        Yields:
            At least one slice.

        Raises:
            StoreError: the database is away.
        """
        last = after  # of the devices that were returned
        left, rows_left, slice_rows = limit, self._most_rows, min(limit + 1, SLICE_ROWS)
        while True:
            async with turn():
                # Before the rows: what is written meanwhile is in them.
                pending = await self._pending.view()
                rows = await self._slice(
                    group_id, slice_rows, after, ages, may_be_newer=bool(pending)
                )
                view = await pending.of([row[1] for row in rows])
                devices = await _admitted(rows, view, ages)
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
        """Read the next rows, but for those that are out of the question."""
        silent_s = None if ages.at_least_s == -inf else int(ages.at_least_s)
        within_s = None if ages.at_most_s == inf or may_be_newer else int(ages.at_most_s)
        arguments = (group_id, rows, silent_s, within_s)
        if after is None:
            return await self._database.fetch(self._first, *arguments)
        return await self._database.fetch(self._next, *arguments, *after)


async def _admitted(rows: Records, view: View, ages: Ages) -> list[DeviceAnswer]:
    """Return the devices of some rows that belong to the page; other requests get their turns."""
    found: list[DeviceAnswer] = []
    for number, (_, *row) in enumerate(rows, start=1):
        seen, now = last_seen(row, view)
        if ages.admit(seen, now):
            found.append(device_answer(row, view))
        if not number % _ROWS_AT_ONCE:
            await asyncio.sleep(0)
    return found


def _position(device: DeviceAnswer) -> Position:
    return Position(device.display_name, UUID(device.device_id))
