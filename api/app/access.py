"""The part of the composition root that wires what authorizes requests: caches and feeds."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from prometheus_client.registry import Collector

from api.access.authentication import Access
from api.access.cache_metrics import CacheMetrics
from api.access.device_feed import DeviceFeed
from api.access.devices import ReachableDevices
from api.access.directory import DeviceDirectory
from api.access.keys import load_principals
from api.access.known import Known
from api.access.known_file import KnownFile
from api.access.lookup import CachedLookup
from api.access.revocations import Revocations
from api.background import background
from api.config import AuthSettings
from api.fleet.known_devices import load_devices, load_devices_of_groups
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from api.siblings import Poll, Siblings


async def start_access(
    stack: AsyncExitStack,
    settings: AuthSettings,
    dsn: str,
    database: Database,
    clock: DatabaseClock,
    *,
    siblings: Siblings,
    on_change: Callable[[str], None],
) -> tuple[Access, Revocations, dict[str, Poll], list[Collector]]:
    """Start what authenticates requests and finds devices.

    Args:
        stack: stops it.
        settings: of API keys and devices.
        dsn: of the database.
        database: a pool that requests do not use.
        clock: of the database.
        siblings: the other workers.
        on_change: called with each active device that was changed, by any process.

    Returns:
        What authorizes requests, what polls for revoked API keys, what this process has just
        polled, by the name of the question, and collectors of metrics.
    """
    keys = CachedLookup("keys", partial(load_principals, database, clock), settings)
    devices = CachedLookup(
        "devices",
        partial(load_devices, database),
        settings,
        owner_of=lambda device: device.group_id,
    )
    devices_of_group = CachedLookup(
        "devices_of_group", partial(load_devices_of_groups, database), settings
    )
    for lookup in (keys, devices, devices_of_group):
        stack.push_async_callback(lookup.close)
    directory = DeviceDirectory(settings.known_devices)
    stale_limit_s, every_s = settings.stale_limit_s, settings.revocation_poll_s
    file = KnownFile(Path(settings.known_file), dsn) if settings.known_file else None
    known = Known(database, clock, directory, keys, file=file, stale_limit_s=stale_limit_s)
    stack.push_async_callback(known.save)
    feed = DeviceFeed(
        *(database, directory, siblings),
        every_s=every_s,
        stale_limit_s=stale_limit_s,
        restore=known.restore,
        on_change=on_change,
    )
    revocations = Revocations(
        *(database, keys, clock, siblings), every_s=every_s, on_change=known.keys_changed
    )
    for task, name in (
        (revocations.poll(), "revocations"),
        (feed.run(), "known-devices"),
        (known.follow_keys(), "known-keys"),
        (known.save_regularly(), "known-file"),
    ):
        await stack.enter_async_context(background(task, name))
    access = Access(keys, ReachableDevices(devices, devices_of_group, directory), clock)
    caches = CacheMetrics([keys, devices, devices_of_group, directory])
    polls: dict[str, Poll] = {
        "revision": lambda: revocations.polled_here,
        "device_revision": lambda: feed.polled_here,
    }
    return access, revocations, polls, [caches, revocations, directory]
