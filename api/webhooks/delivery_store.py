"""What a process needs to deliver: leases, batches and outcomes, one statement each.

A lease is a process's name and a time in the webhook's row, so it works through a pooler in
transaction mode and ends by itself when the process does. Each write names the lease: a process
that has lost it changes nothing any more.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import structlog

from api.postgres.database import Database, Records
from api.webhooks.batch import Batch, Expired, LeaseLost, new_batch
from api.webhooks.intake import MATCHES, READ, Taken, take_in
from api.webhooks.outgoing import MOST_EVENTS
from api.webhooks.quiet import quiet_hours
from api.webhooks.sender import Outcome
from api.webhooks.sizes import GroupSizes
from api.webhooks.state_store import NewBatch
from tracker.instrumentation import LogThrottle

if TYPE_CHECKING:
    import asyncpg

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_SKIPPED: Final = 1000
"""A webhook whose group is quiet moves on after so many events of others, so that the look for its
own events stays short."""
_KEEP_DELIVERIES_DAYS: Final = 30
_LOG_EVERY_S: Final = 60.0
_SHORT_PAGE: Final = 2 * MOST_EVENTS
_LONG_PAGE: Final = 1000
"""How many events are filtered at once: as many as fill a batch, within these bounds."""
_STEPS: Final = 20
"""After so many pages without an event to send, other webhooks have their turn."""
_CLAIM: Final = f"""
WITH due AS (
    SELECT w.id FROM webhooks AS w, event_position AS p
    WHERE w.leased_until < now() AND w.paused_at IS NULL
          AND (w.attempts > 0) = $4 AND (w.retry_at IS NULL OR w.retry_at <= now())
          AND (w.quiet_until IS NULL OR w.quiet_until <= now())
          AND (w.batch_id IS NOT NULL OR w.filtered_to < p.removed
               OR p.last - w.filtered_to > {_SKIPPED}
               OR EXISTS (SELECT FROM device_events AS e WHERE e.position > w.filtered_to
                          AND e.position <= p.last AND {MATCHES})
               OR EXISTS (SELECT FROM webhook_devices AS d
                          WHERE d.webhook_id = w.id AND d.look_at <= now())
               OR EXISTS (SELECT FROM webhook_groups AS g
                          WHERE g.webhook_id = w.id AND g.look_at <= now()))
    ORDER BY w.leased_until LIMIT $3 FOR UPDATE OF w SKIP LOCKED
)
UPDATE webhooks AS w SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
FROM due WHERE w.id = due.id
RETURNING w.id
"""  # noqa: S608 - of constants
_RENEW: Final = """
UPDATE webhooks SET leased_until = now() + make_interval(secs => $2)
WHERE leased_by = $1 AND id = ANY ($3::bigint[]) AND paused_at IS NULL RETURNING id
"""
_RELEASE: Final = """
UPDATE webhooks SET leased_by = NULL, leased_until = now()
WHERE leased_by = $1 AND id = ANY ($2::bigint[])
"""
_END: Final = """
WITH batch AS (
    SELECT id, batch_id, batch_started_at, attempts FROM webhooks
    WHERE id = $1 AND leased_by = $2 AND batch_id IS NOT NULL FOR UPDATE
), ended AS (
    UPDATE webhooks AS w SET batch_id = NULL, batch_body = NULL, batch_events = 0,
           batch_started_at = NULL, attempts = 0, retry_at = NULL, last_error = $6
    FROM batch WHERE w.id = batch.id
)
INSERT INTO webhook_deliveries
    (webhook_id, message_id, outcome, events, attempts, status, error, started_at)
SELECT id, batch_id, $3, $4, attempts + 1, $5, $6, batch_started_at FROM batch
RETURNING attempts
"""
_EXPIRE: Final = """
WITH behind AS (
    SELECT id FROM webhooks WHERE id = $1 AND leased_by = $2 FOR UPDATE
), moved AS (
    UPDATE webhooks AS w SET filtered_to = $3, last_error = $5 FROM behind WHERE w.id = behind.id
), forgotten_devices AS (  -- their state meanwhile is not known
    DELETE FROM webhook_devices AS d USING behind WHERE d.webhook_id = behind.id
), forgotten_groups AS (
    DELETE FROM webhook_groups AS g USING behind WHERE g.webhook_id = behind.id
)
INSERT INTO webhook_deliveries (webhook_id, message_id, outcome, events, attempts, error)
SELECT id, '', 'expired', $4, 0, $5 FROM behind
RETURNING attempts
"""
_RETRY: Final = """
UPDATE webhooks SET attempts = attempts + 1, retry_at = now() + make_interval(secs => $3),
       last_error = $4, paused_at = CASE WHEN $5 THEN now() ELSE paused_at END
WHERE id = $1 AND leased_by = $2 RETURNING id
"""
_REST: Final = """
UPDATE webhooks SET quiet_until = $3 WHERE id = $1 AND leased_by = $2 RETURNING id
"""
_AGE: Final = """
SELECT extract(epoch FROM now() - batch_started_at)::float8 FROM webhooks
WHERE id = $1 AND leased_by = $2
"""
_FORGET: Final = f"""
DELETE FROM webhook_deliveries WHERE id IN (
    SELECT id FROM (SELECT id, ended_at FROM webhook_deliveries ORDER BY id LIMIT 1000) AS oldest
    WHERE ended_at < now() - interval '{_KEEP_DELIVERIES_DAYS} days'
)
"""  # noqa: S608 - of constants


_SUMMARY: Final = """
SELECT count(*) FILTER (WHERE paused_at IS NULL AND attempts = 0),
       count(*) FILTER (WHERE paused_at IS NULL AND attempts > 0),
       count(*) FILTER (WHERE paused_at IS NOT NULL),
       coalesce(max(extract(epoch FROM now() - batch_started_at))
                FILTER (WHERE paused_at IS NULL AND attempts > 0
                        AND (quiet_until IS NULL OR quiet_until <= now())), 0)::float8
FROM webhooks
"""


class Summary(NamedTuple):
    """How all webhooks do, whichever process delivers them."""

    active: int = 0
    failing: int = 0
    paused: int = 0
    failing_s: float = 0.0
    """For how long the batch has been tried that has failed for the longest time, in seconds."""


class DeliveryStore:
    """Leases, batches and outcomes of the deliveries of one process.

    Args:
        database: where they are.
        process: names this process, as no other.
        lease_s: how long a lease lasts, in seconds.
        settle_s: how long a touch may wait until it is written, in seconds.
    """

    def __init__(
        self, database: Database, process: UUID, *, lease_s: float, settle_s: float
    ) -> None:
        self._database = database
        self._process = process
        self._lease_s = lease_s
        self._settle_s = settle_s
        self._no_zone = LogThrottle(_LOG_EVERY_S)
        self._sizes = GroupSizes(database)
        self._limits: dict[int, int] = {}  # how many events are filtered at once for each webhook
        self.dropped = 0
        """How many events this process has filtered and will not send."""

    async def claim(self, most: int, *, failing: bool) -> list[int]:
        """Lease webhooks for which there is something to do; return their ids.

        Args:
            most: how many at most.
            failing: those whose last try failed, or the others.
        """
        rows = await self._database.fetch(_CLAIM, self._process, self._lease_s, most, failing)
        return [row[0] for row in rows]

    async def renew(self, webhook_ids: Collection[int]) -> set[int]:
        """Renew leases; return those that this process still has."""
        ids = list(webhook_ids)
        rows = await self._database.fetch(_RENEW, self._process, self._lease_s, ids)
        return {row[0] for row in rows}

    async def release(self, webhook_ids: Collection[int]) -> None:
        """End leases, so that others need not wait for their end."""
        await self._database.fetch(_RELEASE, self._process, list(webhook_ids))

    async def next_batch(self, webhook_id: int) -> Batch | Expired | None:
        """Return what is to be sent next; the same batch until it has ended. None: nothing now.

        Raises:
            LeaseLost: this process must not deliver this webhook any more.
        """
        for _ in range(_STEPS):
            limit = self._limits.get(webhook_id, _SHORT_PAGE)
            rows = await self._database.fetch(READ, webhook_id, self._process, limit)
            if not rows:
                raise LeaseLost
            first = rows[0]
            if first["quiet"] and (end := self._quiet_until(webhook_id, first)):
                await self._write(_REST, webhook_id, end)
                return None
            if first["batch_id"]:
                stored = NewBatch(first["batch_id"], first["batch_body"])
                return new_batch(
                    webhook_id, first, stored, first["batch_events"], attempts=first["attempts"]
                )
            if first["removed"] > first["filtered_to"]:
                return Expired(first["removed"] - first["filtered_to"], first["removed"])
            taken = await take_in(
                *(self._database, self._sizes, self._process),
                webhook_id,
                rows,
                limit=limit,
                settle_s=self._settle_s,
            )
            if taken is None:
                continue
            self.dropped += taken.dropped
            self._limits[webhook_id] = _next_limit(limit, taken)
            if taken.events:
                return new_batch(
                    *(webhook_id, first, taken.batch, taken.events), is_last=taken.is_end
                )
            if taken.is_end:
                return None
        return None

    async def delivered(self, batch: Batch, outcome: Outcome) -> None:
        """Note that a batch was delivered; the next one follows."""
        await self._write(_END, batch.webhook_id, "delivered", batch.events, outcome.status, None)

    async def given_up(self, batch: Batch, outcome: Outcome) -> None:
        """Note that a batch will not be tried again; the next one follows."""
        ended = ("failed", batch.events, outcome.status, outcome.error)
        await self._write(_END, batch.webhook_id, *ended)

    async def expired(self, webhook_id: int, expired: Expired) -> None:
        """Note that events were removed before they were sent."""
        error = "the events were removed before they were sent"
        events = min(expired.positions, 2**31 - 1)
        await self._write(_EXPIRE, webhook_id, expired.end, events, error)

    async def retry(self, batch: Batch, outcome: Outcome, delay_s: float, *, pause: bool) -> None:
        """Note that a try failed.

        Args:
            batch: what was tried.
            outcome: of the try.
            delay_s: the next try is after so many seconds.
            pause: there is none until the webhook is resumed.
        """
        await self._write(_RETRY, batch.webhook_id, delay_s, outcome.error, pause)

    async def age_s(self, batch: Batch) -> float:
        """Return the seconds since the first try of a batch."""
        ((age_s,),) = await self._write(_AGE, batch.webhook_id)
        return age_s or 0.0

    async def summary(self) -> Summary:
        """Return how all webhooks do."""
        (row,) = await self._database.fetch(_SUMMARY)
        return Summary(*row)

    async def forget(self) -> None:
        """Remove some old deliveries."""
        await self._database.fetch(_FORGET)

    def _quiet_until(self, webhook_id: int, row: "asyncpg.Record") -> datetime | None:
        """Return when the quiet hours end that a webhook is in; None if it is in none."""
        try:
            hours = quiet_hours(row["quiet"], row["timezone"])
        except ValueError as error:  # an alarm at night is better than none
            if times := self._no_zone.due():
                log.error(  # noqa: TRY400 - the message says it all
                    "webhooks.quiet_hours_unknown",
                    webhook=webhook_id,
                    timezone=row["timezone"],
                    error=str(error),
                    times=times,
                )
            return None
        return hours.end_at(datetime.fromtimestamp(row["now"], UTC))

    async def _write(self, statement: str, webhook_id: int, *values: object) -> Records:
        rows = await self._database.fetch(statement, webhook_id, self._process, *values)
        if not rows:
            raise LeaseLost
        return rows


def _next_limit(limit: int, taken: Taken) -> int:
    """Return how many events are filtered next, if so many were filtered just now.

    If a page has more events to send than a batch, the others are read again; if it has few of
    them, the receiver gets many small requests.
    """
    if taken.events > MOST_EVENTS // 2:
        return max(_SHORT_PAGE, limit // 2)
    return limit if taken.is_end else min(_LONG_PAGE, 2 * limit)
