"""Composition of what clients follow: the live stream with its page, and the feed of events."""

from aiohttp import web

from api.access.authentication import Access
from api.config import Settings
from api.events.feed import EventFeed
from api.fleet.presence import presence_rule
from api.handlers.events import EventHandlers
from api.handlers.live import LiveHandlers
from api.handlers.page import PageHandlers
from api.live.hub import Hub
from api.live.queries import GroupQueries
from api.live.tracker_stats import TrackerStats
from api.siblings import Siblings
from tracker.aiohttp import ActivityRecorder


def add_live(
    app: web.Application,
    queries: GroupQueries,
    stats: TrackerStats,
    access: Access,
    settings: Settings,
    *,
    events: EventFeed,
    recorder: ActivityRecorder | None,
    siblings: Siblings,
) -> Hub:
    """Add the live stream and the page, and return the hub that feeds the streams."""
    # Streams stay open for hours; they must not use all connections.
    most = min(settings.live.max_streams, max(1, settings.server.max_connections // 2))
    hub = Hub(
        *(queries, stats),
        rule=presence_rule(settings),
        feed=events,
        max_streams=most,
        streams_per_key=settings.limits.streams_per_key,
        siblings=siblings,
    )

    async def stop(_app: web.Application) -> None:
        await hub.stop()

    app.on_shutdown.append(stop)  # before the server waits for open requests
    app.on_cleanup.append(stop)  # for applications that run without a server
    touch_again = _touch_nothing if recorder is None else recorder.record
    app.add_routes(LiveHandlers(hub, access, touch_again).routes())
    app.add_routes(PageHandlers().routes())
    return hub


def add_events(app: web.Application, handlers: EventHandlers, events: EventFeed) -> None:
    """Add the routes of events; requests that wait for one end with the service."""

    async def stop(_app: web.Application) -> None:
        events.stop()

    app.add_routes(handlers.routes())
    app.on_shutdown.append(stop)


def _touch_nothing(_request: web.Request) -> None:
    """Do nothing: tracking is off."""
