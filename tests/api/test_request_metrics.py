"""The metrics that are scraped: promised names, caches, pools, and a bounded number of series."""

import asyncio
import uuid
from importlib.metadata import version
from platform import python_version

import structlog

from benchmarks.harness.metrics import Metrics
from tests.support.promtool import needs_promtool, promtool
from tests.support.sample_table import locking
from tests.support.service import REPORT, running

PROMISED = {
    "activity_build_info": "gauge",
    "activity_touches_total": "counter",
    "activity_touches_coalesced_total": "counter",
    "activity_touches_dropped_total": "counter",
    "activity_buffer_keys": "gauge",
    "activity_buffer_capacity_keys": "gauge",
    "activity_lag_seconds": "gauge",
    "activity_flushes_total": "counter",
    "activity_flush_duration_seconds": "histogram",
    "activity_flush_chunk_rows": "histogram",
    "activity_flush_keys_total": "counter",
    "activity_flush_consecutive_failures": "gauge",
    "activity_flush_corrected_keys_total": "counter",
    "activity_flush_hidden_keys": "gauge",
    "activity_flush_permanent_error": "gauge",
    "activity_last_flush_success_timestamp_seconds": "gauge",
    "activity_journal_degraded": "gauge",
    "activity_journal_missed_touches_total": "counter",
    "activity_journal_bytes": "gauge",
    "activity_journal_capacity_bytes": "gauge",
    "activity_journal_recovered_touches_total": "counter",
    "activity_journal_foreign_segments": "gauge",
    "auth_cache_hits_total": "counter",
    "auth_cache_misses_total": "counter",
    "auth_revocation_lag_seconds": "gauge",
    "auth_known_devices": "gauge",
    "auth_known_devices_capacity": "gauge",
    "database_clock_offset_seconds": "gauge",
    "database_table_dead_rows": "gauge",
    "database_table_hot_updates_total": "counter",
    "database_table_rows": "gauge",
    "database_table_updates_total": "counter",
    "database_in_use_connections": "gauge",
    "database_open_connections": "gauge",
    "database_max_open_connections": "gauge",
    "ingest_uploads_total": "counter",
    "ingest_waiting_rows": "gauge",
    "ingest_waiting_bytes": "gauge",
    "ingest_capacity_rows": "gauge",
    "ingest_capacity_bytes": "gauge",
    "ingest_batch_rows": "histogram",
    "ingest_write_duration_seconds": "histogram",
    "http_request_duration_seconds": "histogram",
    "http_requests_in_flight": "gauge",
    "http_connections": "gauge",
    "http_connections_closed_total": "counter",
    "event_loop_lag_seconds": "gauge",
    "live_streams": "gauge",
    "live_capacity_streams": "gauge",
    "live_denied_streams_total": "counter",
    "live_sent_bytes_total": "counter",
    "activity_devices": "gauge",
    "presence_recent_gap_seconds": "gauge",
    "presence_timers": "gauge",
    "presence_silenced_devices_total": "counter",
    "presence_offline_delay_seconds": "histogram",
    "presence_listening_gaps_total": "counter",
    "presence_listening_gap_seconds_total": "counter",
    "events_position": "gauge",
    "events_delay_seconds": "gauge",
    "events_followed_total": "counter",
    "webhooks_events_total": "counter",
    "webhooks_by_state": "gauge",
    "webhooks_failing_seconds": "gauge",
    "limits_held": "gauge",
    "limits_capacity": "gauge",
    "limits_waiting_requests": "gauge",
    "limits_denied_requests_total": "counter",
}
"""Each metric that dashboards and alerts may rely on, with its type."""
ODD_METHODS = ("PROPFIND", "MKCOL", "LOCK", "PURGE")

PROMISED_OF_WORKERS = {
    "activity_workers": "gauge",
    "activity_workers_wanted": "gauge",
    "activity_worker_restarts_total": "counter",
    "activity_worker_cpu_seconds_total": "counter",
    "activity_worker_requests_total": "counter",
    "activity_worker_memory_bytes": "gauge",
    "activity_worker_event_loop_lag_seconds": "gauge",
    "activity_worker_connections": "gauge",
    "activity_worker_unanswered_questions_total": "counter",
}
"""Further ones of a service with several workers."""


async def test_every_promised_metric_is_scraped(service):
    """Names, types and labels are what dashboards and alerts rely on."""
    device_id = await service.register()
    await service.heartbeat(device_id)
    await service.heartbeat(device_id, key="wrong")
    await service.tracker.flush()
    text = await (await service.call("GET", "/metrics", key="")).text()
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    assert {name: types.get(name) for name in PROMISED} == PROMISED
    metrics = await service.metrics()
    route = "/api/v1/devices/{device_id}/heartbeat"
    for status in ("204", "401"):
        labels = {"method": "POST", "route": route, "status": status}
        assert metrics.total("http_request_duration_seconds_count", **labels) == 1
    assert metrics.total("http_requests_in_flight") == 1  # the scrape itself
    build = {"version": version("activity-tracker"), "python": python_version()}
    assert metrics.total("activity_build_info", **build) == 1
    assert metrics.total("ingest_capacity_rows") == service.settings.ingest.waiting_rows
    assert metrics.total("ingest_capacity_bytes") == service.settings.ingest.waiting_bytes
    journal_bytes = service.settings.journal.max_bytes
    for target in ("devices", "api_keys"):
        assert metrics.total("activity_journal_capacity_bytes", target=target) == journal_bytes
        assert metrics.balance(target) == 0
    assert device_id not in text


@needs_promtool
async def test_metrics_pass_the_linter_of_prometheus(service):
    """Names, units and help are as its conventions have them."""
    await service.heartbeat(await service.register())
    text = await (await service.call("GET", "/metrics", key="")).text()
    assert promtool("check", "metrics", given=text) == ""
    assert "activity_typo" in promtool("check", "metrics", given="activity_typo 1\n")


async def test_cache_hits_and_misses_are_counted(service):
    """A known device is a hit, an unknown one a miss; so are API keys."""
    device_id = await service.register()
    await service.devices_are_known()
    before = await service.metrics()
    await service.heartbeat(device_id)
    await service.heartbeat(str(uuid.uuid4()))
    after = await service.metrics()

    def counted(name: str, cache: str) -> float:
        return after.total(name, cache=cache) - before.total(name, cache=cache)

    assert counted("auth_cache_hits_total", "known_devices") == 1
    assert counted("auth_cache_misses_total", "known_devices") == 1
    assert counted("auth_cache_misses_total", "devices") == 1
    # Making it was a change of keys, so it may be looked up again.
    assert sum(counted(f"auth_cache_{what}_total", "keys") for what in ("hits", "misses")) == 2


async def test_the_use_of_each_pool_is_scraped(dsn, db):
    """A request that waits for a lock has a connection in use until it is answered."""
    async with running(dsn, database={"pool_size": 7}) as service:
        device_id = await service.register()

        async def until_in_use(wanted: int) -> Metrics:
            async with asyncio.timeout(30):
                while True:
                    metrics = await service.metrics()
                    if metrics.total("database_in_use_connections", pool="requests") == wanted:
                        return metrics
                    await asyncio.sleep(0.01)

        async with locking(dsn, "LOCK TABLE locations"):
            upload = asyncio.create_task(service.upload(device_id))
            await until_in_use(1)
        assert (await upload).status == 200
        metrics = await until_in_use(0)
        assert metrics.total("database_open_connections", pool="requests") >= 1
        assert metrics.total("database_max_open_connections", pool="requests") == 7
        assert metrics.total("database_max_open_connections", pool="access") == 9


async def test_the_trackers_own_connections_are_scraped_too(dsn, db):
    """One for each target, in use while a flush waits for a lock."""
    async with running(dsn) as service:
        await service.heartbeat(await service.register())

        async def tracker_has(wanted: dict[str, int]) -> None:
            async with asyncio.timeout(30):
                while True:
                    metrics = await service.metrics()
                    found = {
                        state: metrics.total(f"database_{state}_connections", pool="tracker")
                        for state in wanted
                    }
                    if found == wanted:
                        return
                    await asyncio.sleep(0.01)

        await tracker_has({"in_use": 0, "max_open": 2})
        async with locking(dsn, "LOCK TABLE api_keys"):
            flush = asyncio.create_task(service.tracker.flush_loops["api_keys"].flush())
            await tracker_has({"in_use": 1})
        await flush
        await tracker_has({"in_use": 0})
        # One or two: at the start, both targets ask at about the same time what their tables are.
        opened = (await service.metrics()).total("database_open_connections", pool="tracker")
        assert opened in {1, 2}


async def test_requests_do_not_create_time_series(service):
    """A thousand requests with other paths, methods, devices, groups and keys: the same series."""

    async def make_a_stir(n: int) -> None:
        device_id = await service.register(group_id=f"group-{n}", name=f"Phone {n}")
        named = {"X-Device-ID": str(uuid.uuid4()), "X-Request-ID": f"mine-{n}"}
        for response in (
            await service.heartbeat(device_id),
            await service.heartbeat(str(uuid.uuid4())),
            await service.heartbeat(f"no-uuid-{n}"),
            await service.upload(device_id, timestamp=REPORT["timestamp"] + n, provider=f"p{n}"),
            await service.call("GET", f"/api/v1/devices?group_id=group-{n}&unheard_of={n}"),
            await service.call("GET", f"/api/v1/devices/{device_id}/{n}"),
            await service.call("GET", f"/nowhere/{n}?{n}={n}", headers=named),
            await service.call(ODD_METHODS[n % 4], f"/nowhere/{n}", key=f"wrong-{n}"),
            await service.call(ODD_METHODS[n % 4], "/api/v1/locations"),
            await service.call("GET", f"/api/v1/devices/{n}", headers=named),
            await service.call("GET", f"/page/{n}.js"),
            await service.call("GET", f"/api/v1/groups?{n}"),
            await service.call("GET", f"/api/v1/locations?device_id={device_id}&limit={n + 1}"),
            await service.call("HEAD", f"/api/v1/live?group_id=group-{n}"),
        ):
            await response.read()

    async def series() -> set[object]:
        return set((await service.metrics()).samples)

    await make_a_stir(0)
    await service.tracker.flush()
    await series()  # a scrape is a request as well
    before = await series()
    for first in range(1, 101, 10):  # more at once would wait for their share of reads and get 503
        await asyncio.gather(*(make_a_stir(n) for n in range(first, first + 10)))
    await service.tracker.flush()
    assert await series() == before
    labels = {label for _, labels in before for label in labels}
    assert ("method", "other") in labels
    assert ("route", "unmatched") in labels


async def test_an_upload_that_the_database_cannot_commit_is_503_with_retry_after(dsn, db):
    """A slow database makes uploads fail within their deadline, with a hint when to return."""
    async with running(dsn, database={"statement_timeout_s": 0.2}) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            with structlog.testing.capture_logs() as logs:
                responses = await asyncio.gather(*(service.upload(device_id) for _ in range(5)))
        for response in responses:
            assert (response.status, (await response.json())["error"]) == (503, "unavailable")
            assert int(response.headers["Retry-After"]) >= 1
        assert [entry["event"] for entry in logs] == ["requests.unavailable"]
        assert (await service.upload(device_id)).status == 200
