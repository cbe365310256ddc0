"""Reads the next events of a webhook, lets them be judged, and stores the result at once.

One statement moves the webhook's position on and stores the batch to send with the states of
devices. So an event is judged once, whichever process does so and whenever that one is killed.
"""

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from api.events.log import event_of
from api.postgres.database import Database, Records
from api.webhooks.judge import Logged, Page, Rules, Stored, Verdict, judge
from api.webhooks.snoozes import read_snoozes
from api.webhooks.state import decode_device, encode_state

if TYPE_CHECKING:
    import asyncpg

_PAGE: Final = 1000
"""How many events, and how many timers, are judged at once."""
MATCHES: Final = """
(w.group_id IS NULL OR e.group_id = w.group_id)
AND (w.types IS NULL OR e.type = ANY (w.types)
     OR w.types && '{device.online,device.offline}'::text[])
"""
"""SQL: whether a webhook w needs an event e; for those of silence also what else may end it."""
READ: Final = f"""
SELECT w.url, w.secret,
       CASE WHEN w.previous_secret_until > now() THEN w.previous_secret END AS previous_secret,
       w.batch_id, w.batch_body, w.batch_events, w.attempts,
       w.judged_to, w.group_id AS own_group_id, w.types, w.after_s, w.quiet, w.timezone,
       w.rules_revision, p.last, p.removed,
       extract(epoch FROM now())::float8 AS now,
       e.*, extract(epoch FROM e.stored_at)::float8 AS stored_s
FROM webhooks AS w CROSS JOIN event_position AS p LEFT JOIN LATERAL (
    SELECT e.stored_at, e.position, e.device_id::text, e.seq, e.type, e.group_id, e.at, e.data::text
    FROM device_events AS e
    WHERE w.batch_id IS NULL AND e.position > w.judged_to AND e.position <= p.last AND {MATCHES}
    ORDER BY e.position LIMIT {_PAGE}
) AS e ON true
WHERE w.id = $1 AND w.leased_by = $2 AND w.paused_at IS NULL
ORDER BY e.position
"""  # noqa: S608 - of constants
_EVENT: Final = slice(18, 25)
"""Which columns of that `event_of` reads."""
_STATES: Final = f"""
WITH due AS (
    SELECT device_id FROM webhook_devices
    WHERE webhook_id = $1 AND look_at <= to_timestamp($2) ORDER BY look_at LIMIT {_PAGE}
), wanted AS (
    SELECT device_id, true AS is_due FROM due
    UNION ALL
    SELECT device_id, false FROM unnest($3::uuid[]) AS device_id
    WHERE device_id NOT IN (SELECT device_id FROM due)
)
SELECT wanted.device_id::text, wanted.is_due, s.state::text,
       extract(epoch FROM s.look_at)::float8 AS look_at, d.event_seq, d.group_id
FROM wanted
LEFT JOIN webhook_devices AS s ON s.webhook_id = $1 AND s.device_id = wanted.device_id
LEFT JOIN devices AS d ON d.device_id = wanted.device_id
"""  # noqa: S608 - of constants
_STORE: Final = """
WITH webhook AS (
    SELECT id FROM webhooks
    WHERE id = $1 AND leased_by = $2 AND judged_to = $3 AND batch_id IS NULL
          AND rules_revision = $12 FOR UPDATE
), forgotten AS (
    DELETE FROM webhook_devices AS s USING webhook
    WHERE s.webhook_id = webhook.id AND s.device_id = ANY ($5::uuid[])
), kept AS (
    INSERT INTO webhook_devices AS s (webhook_id, device_id, look_at, state)
    SELECT webhook.id, new.device_id, to_timestamp(new.look_at), new.state::jsonb
    FROM webhook, unnest($6::uuid[], $7::float8[], $8::text[]) AS new (device_id, look_at, state)
    ON CONFLICT (webhook_id, device_id) DO UPDATE
    SET look_at = excluded.look_at, state = excluded.state
)
UPDATE webhooks AS w SET judged_to = $4, batch_id = $9, batch_body = $10, batch_events = $11,
       batch_started_at = CASE WHEN $9::text IS NOT NULL THEN now() END, attempts = 0,
       retry_at = NULL
FROM webhook WHERE w.id = webhook.id RETURNING w.id
"""


async def take_in(
    database: Database,
    process: UUID,
    webhook_id: int,
    rows: "Sequence[asyncpg.Record]",
    *,
    settle_s: float,
) -> Verdict | None:
    """Judge the next events of a webhook and store the result, with a batch of what is to be sent.

    Args:
        database: where all of it is.
        process: must have the lease of the webhook.
        webhook_id: of the webhook, which has no batch just now.
        rows: what `READ` has returned.
        settle_s: how long a touch may wait until it is written, in seconds.

    Returns:
        What was stored; None if nothing was, because the row of the webhook has changed meanwhile.
    """
    first = rows[0]
    rules = Rules(first["own_group_id"], first["types"], first["after_s"], settle_s)
    page = _page(rows)
    device_ids = list({one.event.device_id for one in page.events})
    states = await database.fetch(_STATES, webhook_id, page.until, device_ids)
    stored, until = _stored(states, rules, page)
    silences = [one.event for one in page.events if one.event.type == "device.offline"]
    silences += [state.held[0] for state in stored.devices.values() if state.held]
    if silences:
        since = min(event.at for event in silences).timestamp()
        groups = {event.group_id for event in silences}
        rules = rules._replace(snoozes=await read_snoozes(database, groups, since))
    verdict = judge(rules, stored, page._replace(until=until))
    if verdict.position > page.position or verdict.devices or verdict.send:
        known = (first["judged_to"], first["rules_revision"])
        if not await _store(database, process, webhook_id, known, verdict):
            return None
    return verdict


def _page(rows: "Sequence[asyncpg.Record]") -> Page:
    first = rows[0]
    events = [
        Logged(row["position"], row["stored_s"], event_of(row[_EVENT]))
        for row in rows
        if row["position"] is not None
    ]
    if len(events) < _PAGE:
        return Page(first["judged_to"], events, first["last"], first["now"])
    return Page(first["judged_to"], events, events[-1].position, events[-1].stored_at)


def _stored(rows: Records, rules: Rules, page: Page) -> tuple[Stored, float]:
    """Return what is stored, and until when all timers are known."""
    stored = Stored({}, {}, set())
    timers: list[float] = []
    for device_id, is_due, state, look_at, newest_seq, group_id in rows:
        if state is not None:
            device = stored.devices[device_id] = decode_device(state)
            device.look_at = look_at
        if is_due:
            timers.append(look_at)
        if len(page.events) < _PAGE and newest_seq is not None:
            stored.newest_seq[device_id] = newest_seq
        if rules.group_id is not None and group_id not in (None, rules.group_id):
            stored.elsewhere.add(device_id)
    return stored, min(page.until, max(timers)) if len(timers) == _PAGE else page.until


async def _store(
    database: Database, process: UUID, webhook_id: int, known: tuple[int, int], verdict: Verdict
) -> bool:
    """Store a verdict unless the webhook has changed; return whether that was done."""
    position, rules_revision = known
    kept = {key: state for key, state in verdict.devices.items() if state is not None}
    body = msgspec.json.encode({"events": verdict.send}).decode() if verdict.send else None
    stored = await database.fetch(
        _STORE,
        *(webhook_id, process, position, verdict.position),
        [key for key, state in verdict.devices.items() if state is None],
        list(kept),
        [state.look_at for state in kept.values()],
        [encode_state(state).decode() for state in kept.values()],
        f"msg_{secrets.token_hex(16)}" if body else None,
        body,
        len(verdict.send),
        rules_revision,
    )
    return bool(stored)
