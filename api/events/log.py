"""Pages of stored events, oldest first, from a position on."""

from collections.abc import Iterable
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

from api.fleet.devices import LastLocation, Time
from api.postgres.database import Database

EventType = Literal[
    "device.online", "device.offline", "device.registered", "device.deactivated", "device.moved"
]
Take = Literal["oldest", "newest"]
_LEFT: Final = "e.type = 'device.moved' AND e.data ->> 'from_group_id'"
"""SQL: the group that a device has left, which may read that as well."""
_POSITION: Final = "SELECT last, removed FROM event_position"
_REMOVED_AT_ONCE: Final = 1000
_REMOVE: Final = f"""
WITH old AS (
    DELETE FROM device_events WHERE position IN (
        SELECT position FROM device_events WHERE position <= (
            SELECT max(position) FROM (
                SELECT position, stored_at FROM device_events ORDER BY position
                LIMIT {_REMOVED_AT_ONCE}
            ) AS oldest WHERE stored_at < now() - make_interval(days => $1)
        ) ORDER BY position LIMIT {_REMOVED_AT_ONCE}
    ) RETURNING position
)
UPDATE event_position SET removed = greatest(removed, (SELECT max(position) FROM old))
WHERE EXISTS (SELECT FROM old) RETURNING (SELECT count(*) FROM old)
"""  # noqa: S608 - a constant


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event of a device; `seq` numbers the events of each device from 1."""

    event_id: str
    seq: int
    type: EventType
    device_id: Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]
    group_id: str
    at: Time
    last_seen_at: Time | msgspec.UnsetType = msgspec.UNSET
    offline_for_s: int | msgspec.UnsetType | None = msgspec.UNSET
    from_group_id: str | msgspec.UnsetType = msgspec.UNSET
    last_location: LastLocation | msgspec.UnsetType | None = msgspec.UNSET


class Events(msgspec.Struct, frozen=True):
    """Events, oldest first, and the cursor with which to go on; it is never null."""

    events: list[Event]
    next_cursor: str


class CursorTooOld(Exception):
    """Events after a cursor have been removed, or it is of another database.

    Args:
        begin: the cursor with which to go on.
    """

    def __init__(self, begin: int) -> None:
        super().__init__(f"no event after this cursor is kept: begin with after={begin}")
        self.begin = begin


class _Details(msgspec.Struct, frozen=True):
    """What is stored of an event beside its columns."""

    last_seen_at: Time | msgspec.UnsetType = msgspec.UNSET
    offline_for_s: int | msgspec.UnsetType | None = msgspec.UNSET
    from_group_id: str | msgspec.UnsetType = msgspec.UNSET
    last_location: LastLocation | msgspec.UnsetType | None = msgspec.UNSET


_decode: Final = msgspec.json.Decoder(_Details).decode


def event_of(row: Iterable[Any]) -> Event:
    """Return the event of a row: position, device, seq, type, group, time, data as JSON."""
    position, device_id, seq, type_, group_id, at, data = row
    stored = _decode(data)
    return Event(
        *(str(position), seq, type_, device_id, group_id, at.astimezone(UTC)),
        *(stored.last_seen_at, stored.offline_for_s, stored.from_group_id, stored.last_location),
    )


def _statement(
    *, group_id: str | None, device_id: UUID | None, type_: str | None, take: Take
) -> tuple[str, list[Any]]:
    """Return a statement and what it takes after the position and the limit.

    It has only the conditions that are needed, so that an index serves each, however often the
    statement has run. `OR` between two indexes would have neither give the order, so the events of
    devices that left a group are read by themselves.
    """
    arguments: list[Any] = []

    def given(value: Any) -> str:
        arguments.append(value)
        return f"${2 + len(arguments)}"

    conditions = ["e.position > $1"]
    if device_id is not None:
        conditions.append(f"e.device_id = {given(device_id)}")
    if type_ is not None:
        conditions.append(f"e.type = {given(type_)}")
    order = "ORDER BY e.position" + (" DESC" if take == "newest" else "")
    branches = [""]
    if group_id is not None:
        group = given(group_id)
        branches = [f" AND e.group_id = {group}"]
        if type_ in {None, "device.moved"}:
            branches.append(f" AND {_LEFT} = {group} AND e.group_id <> {group}")
    selected = " UNION ALL ".join(
        f"(SELECT e.* FROM device_events AS e WHERE {' AND '.join(conditions)}{branch} "  # noqa: S608
        f"{order} LIMIT $2)"
        for branch in branches
    )
    return (
        "SELECT e.position, e.device_id::text, e.seq, e.type, e.group_id, e.at, e.data::text "  # noqa: S608
        f"FROM ({selected}) AS e {order} LIMIT $2"
    ), arguments


async def read_events(
    database: Database,
    *,
    after: int | None,
    limit: int,
    take: Take = "oldest",
    group_id: str | None = None,
    device_id: UUID | None = None,
    type_: str | None = None,
) -> Events:
    """Return the events after a position.

    Args:
        database: where they are.
        after: the position; None begins with the oldest event that is kept.
        limit: the most events.
        take: which events if there are more; they are oldest first either way.
        group_id: of this group alone, and those of devices that left it for another one.
        device_id: of this device alone.
        type_: of this type alone.

    Raises:
        CursorTooOld: events after the position have been removed.
        StoreError: the database is away.
    """
    # Read first: what gets a position meanwhile is for the next page.
    ((last, removed),) = await database.fetch(_POSITION)
    if after is None:
        after = removed
    if not removed <= after <= last:
        raise CursorTooOld(removed if after < removed else last)
    statement, arguments = _statement(
        group_id=group_id, device_id=device_id, type_=type_, take=take
    )
    rows = await database.fetch(statement, after, limit, *arguments)
    if take == "newest":
        rows = rows[::-1]
    events = [event_of(row) for row in rows if row[0] <= last]
    is_full = take == "oldest" and len(rows) == limit and len(events) == limit
    end = rows[len(events) - 1][0] if is_full else last
    return Events(events, str(end))


async def remove_old(database: Database, *, keep_days: int) -> int:
    """Remove some events that are older; return how many.

    Args:
        database: where they are.
        keep_days: how long events are kept, in days.

    Raises:
        StoreError: the database is away.
    """
    rows = await database.fetch(_REMOVE, keep_days)
    return int(rows[0][0]) if rows else 0
