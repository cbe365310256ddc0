"""The states of devices and groups of a webhook: read before events are filtered, stored after."""

import secrets
from collections import Counter
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from api.postgres.database import Database, Records
from api.webhooks.filtering import Filtered, Page, Stored
from api.webhooks.outages import FEW
from api.webhooks.rules import Rules
from api.webhooks.sizes import GroupSizes
from api.webhooks.snoozes import read_snoozes
from api.webhooks.state import (
    DeviceState,
    GroupState,
    decode_device,
    decode_group,
    encode_state,
)

_TIMERS: Final = 1000
"""How many timers are run at once."""
_STATES: Final = f"""
(SELECT device_id::text, true, state::text, extract(epoch FROM look_at)::float8
 FROM webhook_devices WHERE webhook_id = $1 AND look_at <= to_timestamp($2)
 ORDER BY look_at LIMIT {_TIMERS})
UNION ALL
SELECT device_id::text, false, state::text, extract(epoch FROM look_at)::float8
FROM webhook_devices WHERE webhook_id = $1 AND device_id = ANY ($3::text[]::uuid[])
"""  # noqa: S608 - of constants
"""Those whose time has come, then those of some devices; a state may be there twice.

Each part reads the table once, whatever the plan: Postgres keeps one that was made when the table
was empty. As a join it would read all states for each device.
"""
_DEVICES: Final = """
SELECT device_id::text, event_seq, group_id FROM devices WHERE device_id = ANY ($1::text[]::uuid[])
"""
_GROUPS: Final = """
SELECT group_id, state::text, extract(epoch FROM look_at)::float8 FROM webhook_groups
WHERE webhook_id = $1 AND (group_id = ANY ($2::text[]) OR look_at <= to_timestamp($3))
"""
_STORE: Final = """
WITH webhook AS (
    SELECT id FROM webhooks
    WHERE id = $1 AND leased_by = $2 AND filtered_to = $3 AND batch_id IS NULL
          AND rules_revision = $4 FOR UPDATE
), forgotten_devices AS (
    DELETE FROM webhook_devices AS s USING webhook
    WHERE s.webhook_id = webhook.id AND s.device_id = ANY ($9::text[]::uuid[])
), devices AS (
    INSERT INTO webhook_devices AS s (webhook_id, device_id, look_at, state)
    SELECT webhook.id, new.device_id, to_timestamp(new.look_at), new.state::jsonb
    FROM webhook, unnest($10::text[]::uuid[], $11::float8[], $12::text[])
        AS new (device_id, look_at, state)
    ON CONFLICT (webhook_id, device_id) DO UPDATE
    SET look_at = excluded.look_at, state = excluded.state
), forgotten_groups AS (
    DELETE FROM webhook_groups AS s USING webhook
    WHERE s.webhook_id = webhook.id AND s.group_id = ANY ($13::text[])
), groups AS (
    INSERT INTO webhook_groups AS s (webhook_id, group_id, look_at, state)
    SELECT webhook.id, new.group_id, to_timestamp(new.look_at), new.state::jsonb
    FROM webhook, unnest($14::text[], $15::float8[], $16::text[]) AS new (group_id, look_at, state)
    ON CONFLICT (webhook_id, group_id) DO UPDATE
    SET look_at = excluded.look_at, state = excluded.state
)
UPDATE webhooks AS w SET filtered_to = $5, batch_id = $6, batch_body = $7, batch_events = $8,
       batch_started_at = CASE WHEN $6::text IS NOT NULL THEN now() END, attempts = 0,
       retry_at = NULL
FROM webhook WHERE w.id = webhook.id RETURNING w.id
"""


class NewBatch(NamedTuple):
    """What is sent in one request; there is none if both are empty."""

    message_id: str
    body: str


async def read_stored(
    database: Database, sizes: GroupSizes, webhook_id: int, rules: Rules, page: Page
) -> tuple[Rules, Stored, Page]:
    """Return what is stored that a page is filtered by.

    Args:
        database: where it is.
        sizes: of groups.
        webhook_id: of the webhook.
        rules: of the webhook.
        page: the events that follow.

    Returns:
        The rules with snoozes, the states, and the page; it ends earlier if there are too many
        timers.
    """
    device_ids = {one.event.device_id for one in page.events}
    rows = await database.fetch(_STATES, webhook_id, page.until, list(device_ids))
    due = [look_at for _, is_due, _, look_at in rows if is_due]
    if len(due) == _TIMERS:
        page = page._replace(until=min(page.until, max(due)))
    devices = _devices(rows)
    held = [state.held[0] for state in devices.values() if state.held]
    offline_events = [one.event for one in page.events if one.event.type == "device.offline"] + held
    if offline_events:
        since = min(event.at for event in offline_events).timestamp()
        groups = {event.group_id for event in offline_events}
        rules = rules._replace(snoozes=await read_snoozes(database, groups, since))
    group_ids = {one.event.group_id for one in page.events} | {one.group_id for one in held}
    rows_of_groups = await database.fetch(_GROUPS, webhook_id, list(group_ids), page.until)
    states: dict[str, GroupState] = {}
    for group_id, state, look_at in rows_of_groups:
        states[group_id] = decode_group(state)
        states[group_id].look_at = look_at
    changes = Counter(event.group_id for event in offline_events)
    for group_id, group in states.items():
        changes[group_id] += sum(count for _, count in group.recent) + FEW * bool(group.outage)
    busy = [group_id for group_id, count in changes.items() if count >= FEW]
    newest: dict[str, int] = {}
    elsewhere: set[str] = set()
    if not page.is_full or rules.group_id is not None:
        for device_id, seq, group_id in await database.fetch(
            _DEVICES, list(device_ids | devices.keys())
        ):
            if not page.is_full:  # with more events to come, the next one may be among those
                newest[device_id] = seq
            if rules.group_id not in (None, group_id):
                elsewhere.add(device_id)
    return rules, Stored(devices, states, newest, elsewhere, await sizes.of(busy)), page


def _devices(rows: Records) -> dict[str, DeviceState]:
    devices: dict[str, DeviceState] = {}
    for device_id, _, state, look_at in rows:
        if device_id not in devices:
            devices[device_id] = decode_device(state)
            devices[device_id].look_at = look_at
    return devices


async def store(
    database: Database,
    process: UUID,
    webhook_id: int,
    known: tuple[int, int],
    filtered: Filtered,
) -> NewBatch | None:
    """Store the result, with a batch of what is to be sent.

    Args:
        database: where it is.
        process: must have the lease of the webhook.
        webhook_id: of the webhook, which must have no batch.
        known: its position and the revision of its rules, as they were when it was read.
        filtered: what is to be stored.

    Returns:
        The batch; None if the webhook has changed, so nothing was stored.
    """
    message_id = f"msg_{secrets.token_hex(16)}" if filtered.send else None
    body = msgspec.json.encode({"events": filtered.send}).decode() if filtered.send else None
    stored = await database.fetch(
        _STORE,
        *(webhook_id, process, *known, filtered.position),
        message_id,
        body,
        len(filtered.send),
        *_columns(filtered.devices),
        *_columns(filtered.groups),
    )
    return NewBatch(message_id or "", body or "") if stored else None


def _columns(
    states: "dict[str, DeviceState | None] | dict[str, GroupState | None]",
) -> tuple[list[str], list[str], list[float | None], list[str]]:
    """Return the keys to forget, then the keys, times and states to keep."""
    kept = {key: state for key, state in states.items() if state is not None}
    return (
        [key for key, state in states.items() if state is None],
        list(kept),
        [state.look_at for state in kept.values()],
        [encode_state(state).decode() for state in kept.values()],
    )
