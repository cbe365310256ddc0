"""The part of the composition root that wires presence and events."""

from contextlib import AsyncExitStack

from prometheus_client.registry import Collector

from api.background import background
from api.config import Settings
from api.events.feed import EventFeed
from api.events.sequencer import Sequencer
from api.fleet.pending import Pending
from api.fleet.presence import presence_rule
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from api.presence.counts import DeviceCounts
from api.presence.listening import Listening
from api.presence.watcher import Watcher


async def start_presence(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    pending: Pending,
    clock: DatabaseClock,
) -> tuple[EventFeed, Watcher, list[Collector]]:
    """Start what finds silent devices, what counts devices, and what numbers events.

    Args:
        stack: stops it.
        settings: all settings.
        database: a pool that requests do not use.
        pending: touches that are not in the table yet.
        clock: of the database.

    Returns:
        The feed of new events, the watcher of devices, and collectors of metrics.
    """
    offline_after_s = settings.presence.offline_after_s
    listening = Listening(database, offline_after_s=offline_after_s)
    watcher = Watcher(*(database, pending, clock, listening), offline_after_s=offline_after_s)
    sequencer = Sequencer(database, ahead_s=settings.ingest.max_capture_ahead_s)
    feed = EventFeed(
        database, sequencer, on_online=watcher.watch, keep_days=settings.events.keep_days
    )
    stack.callback(feed.stop)
    await stack.enter_async_context(background(feed.run(), "events"))
    counts = DeviceCounts(database, presence_rule(settings))
    await stack.enter_async_context(background(counts.run(), "device-counts"))
    if settings.presence.enabled:
        await stack.enter_async_context(background(_watch(watcher, feed), "presence"))
    return feed, watcher, [feed, watcher, counts]


async def _watch(watcher: Watcher, feed: EventFeed) -> None:
    """Watch for silent devices, but not before no device that comes online is missed.

    The watcher reads all devices once, and learns from events which ones are online later.
    """
    await feed.is_following.wait()
    await watcher.run()
