"""Snoozes: times of maintenance in which no webhook is sent that devices of a group are offline."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from api.postgres.database import Database

Snoozes: TypeAlias = Mapping[str, Sequence[tuple[float, float]]]
"""When the snoozes of each group begin and end, in seconds since the epoch."""

_KEPT_DAYS: Final = 400
"""For so long the events of a webhook that is paused may still be filtered by a snooze."""
_BEGIN: Final = f"""
WITH old AS (
    DELETE FROM presence_snoozes WHERE ends_at < now() - interval '{_KEPT_DAYS} days'
)
INSERT INTO presence_snoozes (group_id, ends_at) VALUES ($1, now() + make_interval(secs => $2))
RETURNING ends_at
"""  # noqa: S608 - a constant
_END: Final = """
WITH ended AS (
    UPDATE presence_snoozes SET ends_at = now() WHERE group_id = $1 AND ends_at > now()
    RETURNING id
), webhook AS (
    UPDATE webhooks SET rules_revision = rules_revision + 1
)
SELECT count(*) FROM ended
"""
_WAKE: Final = """
UPDATE webhook_devices SET look_at = now()
WHERE look_at > now() AND state #>> '{held,0,group_id}' = $1
"""
_LIST: Final = """
SELECT group_id, min(began_at), max(ends_at) FROM presence_snoozes WHERE ends_at > now()
GROUP BY group_id ORDER BY group_id
"""
_READ: Final = """
SELECT group_id, extract(epoch FROM began_at)::float8, extract(epoch FROM ends_at)::float8
FROM presence_snoozes WHERE group_id = ANY ($1::text[]) AND ends_at > to_timestamp($2)
ORDER BY began_at
"""


class Snooze(NamedTuple):
    """A group of which no webhook is sent that devices are offline."""

    group_id: str
    began_at: datetime
    ends_at: datetime


async def begin_snooze(database: Database, group_id: str, length_s: int) -> datetime:
    """Begin a snooze now; return when it ends.

    Args:
        database: where it is stored.
        group_id: the group.
        length_s: how long it lasts, in seconds.
    """
    ((ends_at,),) = await database.fetch(_BEGIN, group_id, float(length_s))
    ends: datetime = ends_at
    return ends


async def end_snooze(database: Database, group_id: str) -> bool:
    """End the snoozes of a group now; return whether there were any."""
    ((ended,),) = await database.fetch(_END, group_id)
    # After the commit of the end: nothing that was filtered without it can be stored any more.
    await database.fetch(_WAKE, group_id)
    return bool(ended)


async def list_snoozes(database: Database) -> list[Snooze]:
    """Return the groups that are snoozed now."""
    return [Snooze(*row) for row in await database.fetch(_LIST)]


async def read_snoozes(database: Database, group_ids: Collection[str], since: float) -> Snoozes:
    """Return the snoozes of groups that end after a time, in seconds since the epoch."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for group_id, began_at, ends_at in await database.fetch(_READ, list(group_ids), since):
        found[group_id].append((began_at, ends_at))
    return found


def end_of_snooze(snoozes: Sequence[tuple[float, float]], at: float) -> float:
    """Return when the snoozes end in which a time is; the time itself if it is in none.

    Args:
        snoozes: of a group, by their beginning.
        at: in seconds since the epoch.
    """
    for began_at, ends_at in snoozes:
        if began_at <= at < ends_at:
            at = ends_at
    return at
