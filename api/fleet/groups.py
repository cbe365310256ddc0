"""Groups: their number of active devices, and when the last of these was seen."""

from datetime import datetime
from typing import Annotated, Final

import msgspec

from api.fleet.cursors import to_cursor
from api.fleet.devices import Limit, OfflineAfter, Time
from api.fleet.presence import PRESENCES, PresenceRule, presence_sql
from api.postgres.database import Database

_STATE: Final = presence_sql(idle_after_s="$3", offline_after_s="$4", is_watched="$5")
_SUMMARY: Final = (
    "count(*), date_trunc('second', "
    "max(least(last_seen_at, now())) FILTER (WHERE isfinite(last_seen_at))), "
    + ", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in PRESENCES)
)
_PAGE: Final = f"""
SELECT group_id, {_SUMMARY}
FROM (SELECT group_id, last_seen_at, {_STATE} AS state FROM devices
      WHERE is_active AND group_id > $1) AS devices
GROUP BY group_id ORDER BY group_id LIMIT $2
"""
_ONE: Final = f"""
SELECT $1::text, {_SUMMARY}
FROM (SELECT last_seen_at, {_STATE} AS state FROM devices
      WHERE is_active AND group_id = $1 AND $2::integer > 0) AS devices
"""
_SET: Final = """
INSERT INTO group_settings (group_id, offline_after_s) VALUES ($1, $2)
ON CONFLICT (group_id) DO UPDATE
SET offline_after_s = excluded.offline_after_s, changed_at = clock_timestamp()
"""


class GroupsQuery(msgspec.Struct, frozen=True):
    """The query of the list of groups."""

    limit: Limit = 1000
    cursor: (
        Annotated[str, msgspec.Meta(description="The next_cursor of the page before.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class PresenceCounts(msgspec.Struct, frozen=True):
    """How many devices of a group are in each state, as stored."""

    online: int
    idle: int
    offline: int
    never: int


class Group(msgspec.Struct, frozen=True):
    """A group, its number of active devices, the latest stored time and the states of these."""

    group_id: str
    devices: Annotated[int, msgspec.Meta(ge=0)]
    last_seen_at: Time | None
    presence: PresenceCounts


class ChangedSettings(msgspec.Struct, frozen=True):
    """What a group has of its own; null is the default of the service."""

    offline_after_s: OfflineAfter | None


class GroupSettings(msgspec.Struct, frozen=True):
    """A group and what it has of its own."""

    group_id: str
    offline_after_s: int | None


class Groups(msgspec.Struct, frozen=True):
    """A page of groups that have active devices, by id, and the cursor of the next page."""

    groups: list[Group]
    next_cursor: str | None


async def list_groups(
    database: Database, *, limit: int, after: str | None, rule: PresenceRule
) -> Groups:
    """Return a page of all groups.

    `last_seen_at` is the stored time. Pending touches are known by device only, so an overlay would
    need the group of every pending touch.

    Args:
        database: where devices are stored.
        limit: the most groups.
        after: the last group of the page before; None for the first page.
        rule: when a device is online.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(_PAGE, after or "", limit + 1, *_arguments(rule))
    groups = [_group(*row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Groups(groups, None if is_last else to_cursor(groups[-1].group_id))


async def one_group(database: Database, group_id: str, *, rule: PresenceRule) -> Groups:
    """Return a page with one group, even if it has no devices.

    Args:
        database: where devices are stored.
        group_id: the group.
        rule: when a device is online.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(_ONE, group_id, 1, *_arguments(rule))
    return Groups([_group(*row) for row in rows], None)


def _arguments(rule: PresenceRule) -> tuple[int, int, bool]:
    return rule.idle_after_s, rule.offline_after_s, rule.is_watched


def _group(group_id: str, devices: int, last_seen_at: datetime | None, *counts: int) -> Group:
    return Group(group_id, devices, last_seen_at, PresenceCounts(*counts))


async def set_group(
    database: Database, group_id: str, offline_after_s: int | None
) -> GroupSettings:
    """Set what a group has of its own.

    Args:
        database: where it is stored.
        group_id: the group; it need not have devices yet.
        offline_after_s: seconds after which its devices are offline; None for the default.

    Raises:
        StoreError: the database is unavailable.
    """
    await database.fetch(_SET, group_id, offline_after_s)
    return GroupSettings(group_id, offline_after_s)
