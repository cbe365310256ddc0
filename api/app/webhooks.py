"""The part of the composition root that wires webhooks."""

import uuid
from contextlib import AsyncExitStack

from prometheus_client.registry import Collector

from api.background import background
from api.config import Settings
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database, open_database
from api.webhooks.deliverer import LEASE_S, Deliverer
from api.webhooks.delivery_store import DeliveryStore
from api.webhooks.metrics import WebhookMetrics
from api.webhooks.sender import open_sender

_CONNECTIONS = 2
"""Outcomes of many deliveries must not keep leases from being renewed."""
_SPREAD = 1.5
"""A large flush ends so many intervals after the first touch in it."""
_STORED_WITHIN_S = 2.0
"""How long a flush and the move of its events to the log take, in seconds."""


async def start_webhooks(
    stack: AsyncExitStack, settings: Settings, dsn: str, clock: DatabaseClock
) -> tuple[dict[str, Database], list[Collector]]:
    """Start what delivers webhooks.

    Args:
        stack: stops it.
        settings: all settings.
        dsn: of the database.
        clock: of the database.

    Returns:
        Its connections, by a name for metrics, and collectors of metrics.
    """
    if not settings.webhooks.enabled:
        return {}, []
    database = await stack.enter_async_context(
        open_database(dsn, settings.database, connections=_CONNECTIONS)
    )
    sender = await stack.enter_async_context(open_sender(settings.webhooks, clock.now_or_host))
    settle_s = settings.tracker.flush_interval_s * _SPREAD + _STORED_WITHIN_S
    store = DeliveryStore(database, uuid.uuid4(), lease_s=LEASE_S, settle_s=settle_s)
    deliverer = Deliverer(store, sender, settings.webhooks)
    await stack.enter_async_context(background(deliverer.run(), "webhooks"))
    return {"webhooks": database}, [WebhookMetrics(deliverer)]
