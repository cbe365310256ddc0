"""Reads the next events of a webhook, decides which are sent, and stores the result at once.

One statement moves the webhook's position on and stores the batch to send with the states of
devices. So an event is filtered once, whichever process does so and whenever that one is killed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from api.events.log import event_of
from api.postgres.database import Database
from api.webhooks.filtering import Logged, Page, filter_events
from api.webhooks.rules import Rules
from api.webhooks.sizes import GroupSizes
from api.webhooks.state_store import NewBatch, read_stored, store

if TYPE_CHECKING:
    import asyncpg

MATCHES: Final = """
(w.group_id IS NULL OR e.group_id = w.group_id)
AND (w.types IS NULL OR e.type = ANY (w.types)
     OR w.types && '{device.online,device.offline}'::text[])
"""
"""SQL: whether a webhook w needs an event e; for for those of presence also what may end it."""
READ: Final = f"""
SELECT w.url, w.secret,
       CASE WHEN w.previous_secret_until > now() THEN w.previous_secret END AS previous_secret,
       w.batch_id, w.batch_body, w.batch_events, w.attempts,
       w.filtered_to, w.group_id AS own_group_id, w.types, w.after_s, w.quiet, w.timezone,
       w.rules_revision, p.last, p.removed,
       extract(epoch FROM now())::float8 AS now,
       e.*, extract(epoch FROM e.stored_at)::float8 AS stored_s
FROM webhooks AS w CROSS JOIN event_position AS p LEFT JOIN LATERAL (
    SELECT e.stored_at, e.position, e.device_id::text, e.seq, e.type, e.group_id, e.at, e.data::text
    FROM device_events AS e
    WHERE w.batch_id IS NULL AND e.position > w.filtered_to AND e.position <= p.last AND {MATCHES}
    ORDER BY e.position LIMIT $3
) AS e ON true
WHERE w.id = $1 AND w.leased_by = $2 AND w.paused_at IS NULL
ORDER BY e.position
"""  # noqa: S608 - of constants
_EVENT: Final = slice(18, 25)
"""Which columns of that `event_of` reads."""


class Taken(NamedTuple):
    """What was stored."""

    batch: NewBatch
    events: int
    """How many are in the batch."""
    dropped: int
    is_end: bool
    """Whether that is all there is for now."""


async def take_in(
    database: Database,
    sizes: GroupSizes,
    process: UUID,
    webhook_id: int,
    rows: "Sequence[asyncpg.Record]",
    *,
    limit: int,
    settle_s: float,
) -> Taken | None:
    """Filter the next events of a webhook and store the result, with a batch of what is to be sent.

    Args:
        database: where all of it is.
        sizes: of groups.
        process: must have the lease of the webhook.
        webhook_id: of the webhook, which has no batch just now.
        rows: what `READ` has returned.
        limit: how many events were requested.
        settle_s: how long a touch may wait until it is written, in seconds.

    Returns:
        None if nothing was stored, because the row of the webhook has changed meanwhile.
    """
    first = rows[0]
    rules = Rules(first["own_group_id"], first["types"], first["after_s"], settle_s)
    found = _page(rows, limit)
    rules, stored, page = await read_stored(database, sizes, webhook_id, rules, found)
    filtered = filter_events(rules, stored, page)
    batch = NewBatch("", "")
    if filtered.position > page.position or filtered.devices or filtered.groups or filtered.send:
        known = (first["filtered_to"], first["rules_revision"])
        new = await store(database, process, webhook_id, known, filtered)
        if new is None:
            return None
        batch = new
    is_end = filtered.is_end and not page.is_full and page.until == found.until
    return Taken(batch, len(filtered.send), filtered.dropped, is_end)


def _page(rows: "Sequence[asyncpg.Record]", limit: int) -> Page:
    first = rows[0]
    events = [  # if the clock has gone back since, an event is not to wait for its time
        Logged(row["position"], min(row["stored_s"], first["now"]), event_of(row[_EVENT]))
        for row in rows
        if row["position"] is not None
    ]
    if len(events) < limit:
        return Page(first["filtered_to"], events, first["last"], first["now"])
    last = events[-1]
    return Page(first["filtered_to"], events, last.position, last.stored_at, is_full=True)
