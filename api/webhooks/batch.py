"""Events that are sent in one request, and what may come in place of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from api.webhooks.state_store import NewBatch

if TYPE_CHECKING:
    import asyncpg


class LeaseLost(Exception):
    """Another process delivers this webhook now, or it was paused or deleted."""


class Batch(NamedTuple):
    """Events that are sent in one request."""

    webhook_id: int
    url: str
    secrets: Sequence[str]
    message_id: str
    attempts: int
    """How many tries have failed."""
    events: int
    body: bytes
    is_last: bool
    """Whether there was nothing to send after it."""


class Expired(NamedTuple):
    """Events were removed before they were sent."""

    positions: int
    """How many events of all devices; which of them the webhook would have got is not known."""
    end: int


def new_batch(
    webhook_id: int,
    row: "asyncpg.Record",
    stored: NewBatch,
    events: int,
    *,
    attempts: int = 0,
    is_last: bool = False,
) -> Batch:
    """Return a batch that is stored.

    Args:
        webhook_id: of the webhook.
        row: of the webhook: its URL and its secrets.
        stored: the id and the body.
        events: how many are in it.
        attempts: how many tries have failed.
        is_last: whether there was nothing to send after it.
    """
    return Batch(
        webhook_id,
        row["url"],
        [one for one in (row["secret"], row["previous_secret"]) if one],
        stored.message_id,
        attempts,
        events,
        stored.body.encode(),
        is_last,
    )
