"""Groups: what active devices are in, how many, and when the last of them was seen."""

from typing import Annotated, Final

import msgspec

from api.fleet.devices import Time
from api.postgres.database import Database

_MOST: Final = 1000
_SUMMARY: Final = (
    "count(*), date_trunc('second', max(last_seen_at) FILTER (WHERE isfinite(last_seen_at)))"
)
_ALL: Final = f"""
SELECT group_id, {_SUMMARY} FROM devices
WHERE is_active GROUP BY group_id ORDER BY group_id LIMIT {_MOST}
"""
_ONE: Final = f"SELECT $1::text, {_SUMMARY} FROM devices WHERE is_active AND group_id = $1"


class Group(msgspec.Struct, frozen=True):
    """A group, its active devices, and when the newest of those was seen, as far as written."""

    group_id: str
    devices: Annotated[int, msgspec.Meta(ge=0)]
    last_seen_at: Time | None


class Groups(msgspec.Struct, frozen=True):
    """Groups that have active devices, by id."""

    groups: Annotated[list[Group], msgspec.Meta(max_length=_MOST)]


async def list_groups(database: Database, own_group: str | None) -> Groups:
    """Return the groups that a key may reach, 1,000 at most.

    Nothing is laid over `last_seen_at`: who is pending is known by device alone, so it would take
    a look at every pending touch.

    Args:
        database: where devices are stored.
        own_group: the one group that the key may reach, returned even if it is empty; None for all.

    Raises:
        StoreError: the database is away.
    """
    rows = await (database.fetch(_ALL) if own_group is None else database.fetch(_ONE, own_group))
    return Groups([Group(*row) for row in rows])
