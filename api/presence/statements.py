"""The SQL of the watcher: when devices are offline, and how one is stored as offline.

`date_part` takes half the time of `extract`, whose numbers are of arbitrary precision.
"""

from typing import Final

from api.presence.listening import IS_LISTENING

SLICE: Final = 5000
"""How many devices LOAD and LOAD_GROUP return at most."""
GROUPS_LAG_S: Final = 10
"""How late a change of a group may commit and still be seen, in seconds."""


def _offline_at(seen: str) -> str:
    """Return SQL: when device d is offline unless it is seen again.

    Times of no listening do not count. What few devices have is looked up once for all:
    for each row it would take as long as the rest.

    Args:
        seen: SQL of the time when it was last seen.
    """
    return f"""
to_timestamp(ceil(date_part('epoch',
    {seen}
    + make_interval(secs => coalesce(
        d.offline_after_s,
        CASE WHEN (SELECT EXISTS (SELECT FROM group_settings WHERE offline_after_s IS NOT NULL))
        THEN (SELECT s.offline_after_s FROM group_settings AS s WHERE s.group_id = d.group_id) END,
        $1::integer))
    + CASE WHEN {seen} < (SELECT max(ended_at) FROM listening_gaps) THEN coalesce(
        (SELECT sum(least(g.ended_at, now()) - greatest(g.began_at, {seen}))
         FROM listening_gaps AS g
         WHERE g.ended_at > {seen} AND g.began_at < now()), interval '0')
      ELSE interval '0' END
)))
"""


_OFFLINE_AT: Final = _offline_at("d.last_seen_at")
_MAY_FALL_SILENT: Final = "d.is_active AND d.is_online IS NOT FALSE AND isfinite(d.last_seen_at)"
LOAD: Final = f"""
SELECT uuid_send(d.device_id), date_part('epoch', {_OFFLINE_AT})::bigint FROM devices AS d
WHERE {_MAY_FALL_SILENT} AND d.device_id > $2 ORDER BY d.device_id LIMIT {SLICE}
"""
LOAD_GROUP: Final = f"""
SELECT uuid_send(d.device_id), date_part('epoch', {_OFFLINE_AT})::bigint FROM devices AS d
WHERE {_MAY_FALL_SILENT} AND d.group_id = $3 AND d.device_id > $2
ORDER BY d.device_id LIMIT {SLICE}
"""
READ: Final = f"""
SELECT uuid_send(d.device_id), d.device_id::text, date_part('epoch', {_OFFLINE_AT})::bigint,
       date_part('epoch', d.last_seen_at)::bigint, date_part('epoch', now())
FROM devices AS d WHERE d.device_id = ANY((SELECT $2::text)::uuid[]) AND {_MAY_FALL_SILENT}
"""
READ_TOUCHED: Final = f"""
SELECT d.device_id::text, date_part('epoch', {_offline_at("to_timestamp(t.at)")})::bigint
FROM unnest((SELECT $2::text)::uuid[], (SELECT $3::text)::bigint[]) AS t(device_id, at)
JOIN devices AS d USING (device_id)
"""
"""When devices are offline that have touches which are not written yet."""
SILENCE: Final = f"""
WITH due AS (
    SELECT d.device_id, d.is_online, {_OFFLINE_AT} AS at FROM devices AS d
    WHERE d.device_id = ANY((SELECT $2::text)::uuid[]) AND {_MAY_FALL_SILENT}
          AND {_OFFLINE_AT} <= now() AND {IS_LISTENING}
    ORDER BY d.device_id FOR UPDATE OF d SKIP LOCKED
), changed AS (
    UPDATE devices AS d SET
        is_online = false, presence_since = due.at,
        -- Whether it was online before presence was watched is not known.
        event_seq = d.event_seq + due.is_online::boolean::integer
    FROM due WHERE d.device_id = due.device_id AND due.is_online
    RETURNING d.device_id, d.event_seq, d.group_id, d.last_seen_at, due.at
), unknown AS (
    UPDATE devices AS d SET is_online = false, presence_since = due.at
    FROM due WHERE d.device_id = due.device_id AND due.is_online IS NULL
    RETURNING d.device_id, NULL::bigint, NULL::text, NULL::timestamptz, due.at
), written AS (
    INSERT INTO event_outbox (device_id, seq, type, group_id, at, data)
    SELECT device_id, event_seq, 'device.offline', group_id, at,
           jsonb_build_object('last_seen_at', to_char(last_seen_at AT TIME ZONE 'UTC',
                                                      'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    FROM changed
)
SELECT device_id::text, date_part('epoch', now() - at), group_id IS NOT NULL
FROM (SELECT * FROM changed UNION ALL SELECT * FROM unknown) AS both_kinds
"""
CHANGED_GROUPS: Final = f"""
SELECT group_id, changed_at FROM group_settings
WHERE changed_at > now() - interval '{GROUPS_LAG_S} s'
"""
