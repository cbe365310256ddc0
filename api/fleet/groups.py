"""Groups: their number of active devices, and when the last of these was seen."""

from typing import Annotated, Final

import msgspec

from api.fleet.cursors import to_cursor
from api.fleet.devices import Limit, Time
from api.postgres.database import Database

_SUMMARY: Final = (
    "count(*), date_trunc('second', "
    "max(least(last_seen_at, now())) FILTER (WHERE isfinite(last_seen_at)))"
)
_PAGE: Final = f"""
SELECT group_id, {_SUMMARY} FROM devices
WHERE is_active AND group_id > $1 GROUP BY group_id ORDER BY group_id LIMIT $2
"""
_ONE: Final = f"SELECT $1::text, {_SUMMARY} FROM devices WHERE is_active AND group_id = $1"


class GroupsQuery(msgspec.Struct, frozen=True):
    """The query of the list of groups."""

    limit: Limit = 1000
    cursor: (
        Annotated[str, msgspec.Meta(description="The next_cursor of the page before.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Group(msgspec.Struct, frozen=True):
    """A group, its number of active devices, and the latest stored time of these."""

    group_id: str
    devices: Annotated[int, msgspec.Meta(ge=0)]
    last_seen_at: Time | None


class Groups(msgspec.Struct, frozen=True):
    """A page of groups that have active devices, by id, and the cursor of the next page."""

    groups: list[Group]
    next_cursor: str | None


async def list_groups(database: Database, *, limit: int, after: str | None) -> Groups:
    """Return a page of all groups.

    `last_seen_at` is the stored time. Pending touches are known by device only, so an overlay would
    need the group of every pending touch.

    Args:
        database: where devices are stored.
        limit: the most groups.
        after: the last group of the page before; None for the first page.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(_PAGE, after or "", limit + 1)
    groups = [Group(*row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Groups(groups, None if is_last else to_cursor(groups[-1].group_id))


async def one_group(database: Database, group_id: str) -> Groups:
    """Return a page with one group, even if it has no devices.

    Args:
        database: where devices are stored.
        group_id: the group.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(_ONE, group_id)
    return Groups([Group(*row) for row in rows], None)
