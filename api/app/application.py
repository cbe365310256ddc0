"""Makes and starts all parts of the service, in the order in which they need each other."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
)

from api.access.authentication import Access, active_keys
from api.access.quotas import quotas_of
from api.app.access import start_access
from api.app.databases import open_databases
from api.app.live import add_events, add_live
from api.app.metrics import new_registry, scrapes_of
from api.app.presence import start_presence
from api.app.webhooks import start_webhooks
from api.background import background
from api.config import JournalSettings, ServerSettings, Settings, TrackerSettings
from api.fleet.batch_commit import BatchCommit
from api.fleet.batch_metrics import BatchMetrics
from api.fleet.devices import Devices
from api.fleet.listing import Listings
from api.fleet.locations import Locations
from api.fleet.pending import Pending
from api.fleet.presence import presence_rule
from api.handlers.devices import DeviceHandlers
from api.handlers.events import EventHandlers
from api.handlers.gateways import GatewayHandlers
from api.handlers.groups import GroupHandlers
from api.handlers.health import HealthHandlers
from api.handlers.locations import LocationHandlers, Uploads
from api.handlers.openapi import DocumentHandler
from api.handlers.readiness_checks import ReadinessChecks
from api.http.addressing import allowed_names
from api.http.application import Application
from api.http.limits import Limits
from api.http.listener import Listener, ListenerMetrics
from api.http.middleware import RequestMiddleware
from api.http.request_metrics import RequestMetrics
from api.live.queries import GroupQueries
from api.live.tracker_stats import TrackerStats
from api.loop_lag import LoopLag
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from api.postgres.pool_metrics import Owner, PoolMetrics
from api.postgres.table_stats import TableStats
from api.siblings import Alone, Poll, Siblings
from api.targets import DEVICES, labels, tables, targets
from tracker import (
    Tracker,
    TrackerCollector,
    no_touches,
)
from tracker.aiohttp import ActivityRecorder

TRACKER: Final = web.AppKey("tracker", Tracker)
"""The application's tracker, for shutdown hooks and tests; absent when tracking is off."""
LISTENER: Final = web.AppKey("listener", Listener)
"""The address on which `api.serving` serves an application."""
REQUESTS: Final = web.AppKey("requests", RequestMiddleware)
"""The outermost middleware, which also responds to requests that cannot be parsed."""
REGISTRY: Final = web.AppKey("registry", CollectorRegistry)
"""The metrics of this process."""
POLLS: Final = web.AppKey("polls", dict[str, Poll])
"""What this process has just polled, for other workers: see `api.workers.answers`."""
READINESS: Final = web.AppKey("readiness", ReadinessChecks)
"""The checks of readiness."""
MONITOR: Final = web.AppKey("monitor", web.Application)
"""The application for health and metrics; absent unless `server.monitor_port` is set."""

_MONITOR_CONNECTIONS: Final = 100
"""A limit of its own, so that clients of the API cannot keep monitoring out."""


def create_tracker(
    settings: TrackerSettings,
    journal: JournalSettings,
    dsn: str,
    *,
    clock: Callable[[], float] = time.time,
) -> Tracker | None:
    """Return the tracker of all targets; None when tracking is off."""
    if not settings.enabled:
        return None
    return Tracker(
        targets(settings),
        dsn=dsn,
        flush_interval_s=settings.flush_interval_s,
        chunk_keys=settings.chunk_keys,
        statement_timeout_s=settings.statement_timeout_s,
        lock_timeout_s=settings.lock_timeout_s,
        backoff_initial_s=settings.backoff_initial_s,
        backoff_max_s=settings.backoff_max_s,
        shutdown_deadline_s=settings.shutdown_deadline_s,
        journal_dir=journal.dir if journal.enabled else None,
        journal_max_bytes=journal.max_bytes,
        log_keys=settings.log_keys,
        clock=clock,
    )


async def create_app(
    settings: Settings,
    dsn: str,
    *,
    uploads: Uploads | None = None,
    siblings: Siblings | None = None,
) -> Application:
    """Build and start all parts; they stop in reverse when the application is cleaned up.

    It sends nothing to the database: if the database is unavailable, the service starts and reports
    that it is not ready.

    Args:
        settings: all settings.
        dsn: of the database.
        uploads: stores location reports; by default they are committed in batches.
        siblings: the other workers of the service; by default there are none.
    """
    siblings = siblings or Alone()
    async with AsyncExitStack() as stack:
        databases = await open_databases(stack, settings, dsn)
        database, access_database = databases.requests, databases.access
        clock = DatabaseClock()
        tracker = create_tracker(settings.tracker, settings.journal, dsn, clock=clock.now_or_host)
        if tracker is not None:
            await stack.enter_async_context(tracker.running())

        pending = Pending(partial(tracker.pending, DEVICES) if tracker else no_touches, siblings)
        events, watcher, presence_metrics = await start_presence(
            stack, settings, access_database, pending, clock
        )
        access, revocations, polls, access_metrics = await start_access(
            *(stack, settings.auth, dsn, access_database, clock),
            siblings=siblings,
            on_change=watcher.look_at_soon,
        )
        loop_lag = LoopLag()
        await stack.enter_async_context(background(loop_lag.measure(), "loop-lag"))
        table_stats = TableStats(access_database, tables())
        await stack.enter_async_context(background(table_stats.read(), "table-stats"))

        batch_commit = BatchCommit(
            Locations(database), settings.ingest, deadline_s=settings.database.statement_timeout_s
        )
        stack.push_async_callback(batch_commit.close)

        requests = RequestMiddleware(RequestMetrics())
        webhook_pools, webhook_metrics = await start_webhooks(stack, settings, dsn, clock)
        pools: dict[str, Owner] = {
            **databases._asdict(),
            **webhook_pools,
        }
        if tracker is not None:
            pools["tracker"] = tracker
        limits = Limits(settings.limits)
        registry = new_registry(
            *(requests.metrics, loop_lag, BatchMetrics(batch_commit.stats)),
            *(clock, PoolMetrics(pools), limits, table_stats),
            *access_metrics,
            *presence_metrics,
            *webhook_metrics,
        )

        recorder = None if tracker is None else ActivityRecorder(tracker, active_keys)
        allowed = allowed_names(settings.server.allowed_hosts)
        app = Application(
            [requests.layer(allowed, recorder), access.layer],
            client_max_size=settings.server.max_body_bytes,
            # aiohttp would decompress any request, without a limit; `read_body` does it instead.
            handler_args={"auto_decompress": False},
        )
        if tracker is not None:
            app[TRACKER] = tracker
            registry.register(TrackerCollector(tracker))
        touch = tracker.buffers[DEVICES].touch if tracker else _no_touch
        app.add_routes(
            [
                *_device_routes(database, pending, access, settings, limits),
                *LocationHandlers(uploads or batch_commit, database, access, limits).routes(),
                *GroupHandlers(database, access, limits, presence_rule(settings)).routes(),
                *GatewayHandlers(touch, clock.now_or_host, batch_commit, access).routes(),
            ]
        )
        hub = None
        if settings.live.enabled:
            queries = GroupQueries(
                databases.live, clock, ahead_s=settings.ingest.max_capture_ahead_s
            )
            stats = TrackerStats(tracker, labels())
            hub = add_live(
                *(app, queries, stats, access, settings),
                events=events,
                recorder=recorder,
                siblings=siblings,
            )
            registry.register(hub)
        add_events(app, EventHandlers(database, events, access, limits, hub), events)
        app[REGISTRY], app[POLLS] = registry, polls
        app[READINESS] = ReadinessChecks(
            *(access_database, tracker, revocations, siblings.warnings),
            stale_limit_s=settings.auth.stale_limit_s,
        )
        scrapes = scrapes_of(registry, siblings, settings.server)
        health = HealthHandlers(app[READINESS], scrapes, access, limits)
        registry.register(ListenerMetrics(_add_listeners(app, settings.server, health, requests)))
        _add_document(app)
        started = stack.pop_all()

        async def stop(_app: web.Application) -> None:
            await started.aclose()

        app.on_cleanup.append(stop)
        return app


def _no_touch(_device_id: str, _at: float | None, _now: float) -> None:
    """Do nothing: tracking is off."""


def _device_routes(
    database: Database,
    pending: Pending,
    access: Access,
    settings: Settings,
    limits: Limits,
) -> list[web.RouteDef]:
    ahead_s = settings.ingest.max_capture_ahead_s
    release_after_s = settings.limits.release_device_id_after_s
    rule = presence_rule(settings)
    devices = Devices(
        database, pending, release_after_s=release_after_s, ahead_s=ahead_s, rule=rule
    )
    listings = Listings(database, pending, ahead_s=ahead_s, rule=rule)
    quotas = quotas_of(settings.limits, devices.count)
    return DeviceHandlers(devices, listings, access, quotas, limits).routes()


def _add_document(app: web.Application) -> None:
    """Serve a description of all routes; to be called when they are there."""
    document = DocumentHandler()
    app.add_routes(document.routes())
    document.describe(app.router.routes())


def _add_listeners(
    app: web.Application,
    listens: ServerSettings,
    health: HealthHandlers,
    requests: RequestMiddleware,
) -> list[Listener]:
    """Add the listener of clients, and a second one for monitoring if it has its own address.

    Both serve health: a load balancer should check the address that it sends requests to.
    """
    app[REQUESTS] = requests
    app[LISTENER] = Listener(
        "api", listens.host, listens.port, max_connections=listens.max_connections
    )
    app.add_routes(health.routes())
    if not listens.monitor_port:
        app.add_routes(health.metrics_routes(app[LISTENER].name))
        return [app[LISTENER]]
    monitor = app[MONITOR] = Application([requests.layer()])
    monitor[LISTENER] = Listener(
        "monitor",
        listens.monitor_host,
        listens.monitor_port,
        max_connections=_MONITOR_CONNECTIONS,
    )
    monitor.add_routes(health.monitor_routes(monitor[LISTENER].name))
    return [app[LISTENER], monitor[LISTENER]]
