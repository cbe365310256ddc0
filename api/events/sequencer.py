"""Moves events from the outbox to the log, where each gets the next position.

The row with the last position is locked until the commit. So one transaction at a time numbers
events, and positions become visible in their order, without gaps: who has read up to a position
misses no event that commits late. Two events of one device are written under the lock of its row,
so the second one is in the outbox no earlier than the first.

The outbox is mostly empty, so Postgres plans the statement for an empty table and keeps that plan.
It must be good for many events, too: a fleet that vanishes is thousands at once. That is why the
oldest events are found by a comparison and not by a join, which would read all for each of them.
"""

from typing import Final

from api.fleet.newest import newest_of
from api.postgres.database import Database

_AT_ONCE: Final = 500
_DEADLINE_S: Final = 5.0


def _statement(ahead_s: float) -> str:
    newest = newest_of("moved.device_id", ahead_s)
    return f"""
WITH turn AS MATERIALIZED (
    SELECT last FROM event_position WHERE EXISTS (SELECT FROM event_outbox)
    FOR UPDATE SKIP LOCKED
), moved AS (
    DELETE FROM event_outbox AS o USING turn
    WHERE o.id <= (
        SELECT max(id) FROM (SELECT id FROM event_outbox ORDER BY id LIMIT {_AT_ONCE}) AS oldest)
    RETURNING o.*
), stored AS (
    INSERT INTO device_events (position, device_id, seq, type, group_id, at, data)
    SELECT turn.last + row_number() OVER (ORDER BY moved.id), moved.device_id, moved.seq,
           moved.type, moved.group_id, moved.at,
           CASE WHEN moved.type IN ('device.online', 'device.offline')
           THEN moved.data || jsonb_build_object('last_location', (
               SELECT jsonb_build_object(
                   'latitude', newest.latitude, 'longitude', newest.longitude,
                   'accuracy', newest.accuracy,
                   'timestamp', to_char(newest.captured_at AT TIME ZONE 'UTC',
                                        'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
               FROM {newest} AS newest))
           ELSE moved.data END
    FROM moved, turn
), counted AS (
    UPDATE event_position SET last = last + (SELECT count(*) FROM moved)
    WHERE EXISTS (SELECT FROM moved)
)
SELECT count(*), extract(epoch FROM max(now() - written_at))::float8 FROM moved
"""  # noqa: S608 - of constants and a setting


class Sequencer:
    """Numbers events.

    Args:
        database: where they are.
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
    """

    def __init__(self, database: Database, *, ahead_s: float) -> None:
        self._database = database
        self._statement = _statement(ahead_s)
        self.delay_s = 0.0
        """How long the oldest event of the last move had waited, in seconds."""

    async def run_once(self) -> None:
        """Number all events that are there, unless another process does so just now.

        Raises:
            StoreError: the database is away.
        """
        while True:
            ((moved, delay_s),) = await self._database.fetch(
                self._statement, deadline_s=_DEADLINE_S
            )
            if moved:
                self.delay_s = delay_s
            if moved < _AT_ONCE:
                return
