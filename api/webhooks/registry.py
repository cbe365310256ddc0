"""What the command line does to webhooks: make, list, pause, resume, rotate, delete, look back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from api.postgres.database import Database
from api.webhooks.signing import new_secret

ROTATED_FOR_S: Final = 86_400
"""How long requests are signed with the old secret as well after a rotation, in seconds."""
_CREATE: Final = """
INSERT INTO webhooks (url, group_id, types, after_s, quiet, timezone, secret, filtered_to)
SELECT $1, $2, $3, $4, $5, $6, $7, last FROM event_position RETURNING id
"""
_LIST: Final = """
SELECT w.id, w.url, w.group_id, w.types, w.created_at, w.paused_at, w.attempts, w.retry_at,
       w.last_error,
       w.batch_events + (SELECT count(*) FROM (
           SELECT FROM device_events AS e WHERE e.position > w.filtered_to
           AND (w.group_id IS NULL OR e.group_id = w.group_id)
           AND (w.types IS NULL OR e.type = ANY (w.types)) LIMIT 100000
       ) AS waiting),
       (SELECT count(*) FROM webhook_devices AS d WHERE d.webhook_id = w.id AND d.state ? 'held'),
       w.after_s, w.quiet, w.timezone, CASE WHEN w.quiet_until > now() THEN w.quiet_until END
FROM webhooks AS w ORDER BY w.id
"""
_SECRETS: Final = """
SELECT url, secret, CASE WHEN previous_secret_until > now() THEN previous_secret END
FROM webhooks WHERE id = $1
"""
_DELETE: Final = "DELETE FROM webhooks WHERE id = $1 RETURNING id"
_PAUSE: Final = """
UPDATE webhooks SET paused_at = coalesce(paused_at, now()) WHERE id = $1 RETURNING id
"""
_RESUME: Final = """
UPDATE webhooks SET paused_at = NULL, retry_at = NULL,
       batch_started_at = CASE WHEN batch_id IS NOT NULL THEN now() END
WHERE id = $1 RETURNING id
"""
_ROTATE: Final = """
UPDATE webhooks SET previous_secret = secret,
       previous_secret_until = now() + make_interval(secs => $3), secret = $2
WHERE id = $1 RETURNING id
"""
_DELIVERIES: Final = """
SELECT message_id, outcome, events, attempts, status, error, started_at, ended_at
FROM webhook_deliveries WHERE webhook_id = $1 ORDER BY id DESC LIMIT $2
"""


class Webhook(NamedTuple):
    """A webhook as it is listed, without its secret."""

    id: int
    url: str
    group_id: str | None
    types: Sequence[str] | None
    created_at: datetime
    paused_at: datetime | None
    attempts: int
    retry_at: datetime | None
    last_error: str | None
    waiting: int
    """How many events are still to be sent, counted up to 100,000."""
    held: int
    """Of how many devices an event is held back."""
    after_s: int | None
    quiet: str | None
    timezone: str | None
    quiet_until: datetime | None
    """When the quiet hours end in which it is."""

    @property
    def state(self) -> str:
        """Return `paused`, `failing` or `active`."""
        if self.paused_at is not None:
            return "paused"
        return "failing" if self.attempts else "active"


class Delivery(NamedTuple):
    """A batch that was delivered or given up, or events that were removed before."""

    message_id: str
    outcome: str
    events: int
    attempts: int
    status: int | None
    error: str | None
    started_at: datetime | None
    ended_at: datetime


class NewWebhook(NamedTuple):
    """What a webhook is to be sent, and where."""

    url: str
    group_id: str | None = None
    """The group whose events it gets; None for all."""
    types: Sequence[str] | None = None
    """Types of events; None for all."""
    after_s: int | None = None
    """How long a device must be offline before that is sent, in seconds."""
    quiet: str | None = None
    """When it is sent nothing, as `quiet_hours` reads it."""
    timezone: str | None = None


async def create_webhook(database: Database, new: NewWebhook) -> tuple[int, str]:
    """Make a webhook for events from now on; return its id and its secret."""
    secret = new_secret()
    ((webhook_id,),) = await database.fetch(_CREATE, *new, secret)
    return webhook_id, secret


async def list_webhooks(database: Database) -> list[Webhook]:
    """Return all webhooks, the oldest first."""
    return [Webhook(*row) for row in await database.fetch(_LIST)]


async def read_secrets(database: Database, webhook_id: int) -> tuple[str, list[str]] | None:
    """Return the URL of a webhook and its valid secrets; None if there is no such webhook."""
    rows = await database.fetch(_SECRETS, webhook_id)
    if not rows:
        return None
    url, *secrets = rows[0]
    return url, [secret for secret in secrets if secret]


async def delete_webhook(database: Database, webhook_id: int) -> bool:
    """Delete a webhook with its deliveries; return whether there was one."""
    return bool(await database.fetch(_DELETE, webhook_id))


async def pause_webhook(database: Database, webhook_id: int) -> bool:
    """Send nothing until the webhook is resumed; return whether there is one."""
    return bool(await database.fetch(_PAUSE, webhook_id))


async def resume_webhook(database: Database, webhook_id: int) -> bool:
    """Go on where a webhook was paused, at once; return whether there is one."""
    return bool(await database.fetch(_RESUME, webhook_id))


async def rotate_secret(database: Database, webhook_id: int) -> str | None:
    """Return a new secret of a webhook; the old one stays valid for a day. None: no such one."""
    secret = new_secret()
    made = await database.fetch(_ROTATE, webhook_id, secret, float(ROTATED_FOR_S))
    return secret if made else None


async def list_deliveries(database: Database, webhook_id: int, limit: int) -> list[Delivery]:
    """Return the last deliveries of a webhook, the newest first."""
    return [Delivery(*row) for row in await database.fetch(_DELIVERIES, webhook_id, limit)]
