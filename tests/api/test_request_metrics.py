"""What operators see: request ids, health, readiness, metrics, logs."""

import asyncio
import io
import json
import logging
import uuid
from importlib.metadata import version
from platform import python_version

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMethod

from api.config import LogSettings
from api.logs import REQUEST_ID, configure_logs
from api.postgres.database import Database
from benchmarks.harness.metrics import Metrics
from tests.support.promtool import needs_promtool, promtool
from tests.support.sample_table import locking
from tests.support.service import REPORT, Service, running
from tracker import FlushError, StoreUnavailable

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
    "limits_held": "gauge",
    "limits_capacity": "gauge",
    "limits_waiting_requests": "gauge",
    "limits_denied_requests_total": "counter",
}
"""Each metric that dashboards and alerts may rely on, with its type."""
ODD_METHODS = ("PROPFIND", "MKCOL", "LOCK", "PURGE")
READY = {"status": "ready", "problems": [], "degraded": [], "warnings": []}


async def test_every_answer_carries_a_request_id(service):
    """Good answers, errors, unknown routes, health and metrics."""
    ids = []
    for method, path, key in (
        ("GET", "/api/v1/devices?group_id=family", None),
        ("GET", "/api/v1/devices", None),
        ("GET", "/api/v1/devices", ""),
        ("GET", "/nowhere", None),
        ("PUT", "/api/v1/devices", None),
        ("GET", "/api/health", ""),
        ("GET", "/metrics", ""),
    ):
        answer = await service.call(method, path, key=key)
        ids.append(answer.headers["X-Request-ID"])
    assert len(set(ids)) == len(ids)


async def test_a_clients_request_id_is_kept_if_it_is_a_decent_one(service):
    """A caller may name its request; nothing odd gets into headers and logs."""
    for given, kept in (("abc-123", True), ("a" * 64, True), ("a" * 65, False), ("a b", False)):
        answer = await service.call("GET", "/api/health", headers={"X-Request-ID": given})
        assert (answer.headers["X-Request-ID"] == given) is kept


async def test_errors_are_json_with_a_code_and_a_message(service):
    """Unknown routes and methods too; a method that is not allowed says which are."""
    answer = await service.call("GET", "/nowhere")
    assert (answer.status, (await answer.json())["error"]) == (404, "not_found")
    answer = await service.call("PUT", "/api/v1/locations")
    assert (answer.status, (await answer.json())["error"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET,HEAD,POST"


async def test_a_crash_is_500_without_a_trace_for_the_client(service, monkeypatch):
    """The logs have the trace and the request id, the client has the id."""
    device_id = await service.register()

    async def explode(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("api.fleet.batch_commit.BatchCommit.store", explode)
    with structlog.testing.capture_logs() as logs:
        answer = await service.upload(device_id)
    assert answer.status == 500
    assert "secret detail" not in await answer.text()
    (entry,) = logs
    assert entry["event"] == "request.crashed"
    assert entry["route"] == "/api/v1/locations"


async def test_liveness_depends_on_the_event_loop_alone(service, db, monkeypatch):
    """Whatever is wrong, a restart would mend nothing; readiness tells all of it at once."""
    await service.heartbeat(await service.register())
    await db.execute("ALTER TABLE devices RENAME TO elsewhere")
    with structlog.testing.capture_logs():
        with pytest.raises(FlushError):
            await service.tracker.flush()
        service.tracker.buffers["devices"].journal.append(None, 0)  # no key: it can't be appended

    async def away(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(Database, "fetch", away)
    answer = await service.call("GET", "/api/health/ready", key="")
    assert (answer.status, await answer.json()) == (
        200,
        {
            "status": "ready",
            "problems": [],
            "degraded": ["database"],
            "warnings": ["flush.devices", "journal.devices"],
        },
    )
    for path in ("/api/health", "/api/health/live"):
        answer = await service.call("GET", path, key="")
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")


async def test_readiness_tells_what_is_wrong(service, db):
    """A missing table is said with the words of the database, until it is back."""
    device_id = await service.register()

    async def permanent_error() -> float:
        return (await service.metrics()).total("activity_flush_permanent_error", target="devices")

    await db.execute("ALTER TABLE devices RENAME TO elsewhere")
    await service.heartbeat(device_id)
    with pytest.raises(FlushError, match="does not exist"):
        await service.tracker.flush()
    answer = await service.call("GET", "/api/health/ready")
    body = await answer.json()
    assert (answer.status, body["status"]) == (200, "ready")
    assert body["warnings"] == ["flush.devices"]
    assert 'relation "devices" does not exist' in body["details"]["flush.devices"]
    assert await permanent_error() == 1
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")
    await service.tracker.flush()
    answer = await service.call("GET", "/api/health/ready", key="")
    assert (answer.status, await answer.json()) == (200, READY)
    assert await permanent_error() == 0


async def test_a_journal_with_a_gap_is_a_warning_but_the_service_stays_ready(service):
    """It works from memory, and a disk that is full for all processes must not end them all."""
    device_id = await service.register()
    with structlog.testing.capture_logs():
        service.tracker.buffers["devices"].journal.append(None, 0)  # no key: it can't be appended
    answer = await service.call("GET", "/api/health/ready")
    body = await answer.json()
    assert (answer.status, body["status"], body["problems"]) == (200, "ready", [])
    assert body["warnings"] == ["journal.devices"]
    assert "a crash would lose touches" in body["details"]["journal.devices"]
    await service.heartbeat(device_id)
    await service.tracker.flush()
    answer = await service.call("GET", "/api/health/ready", key="")
    assert (answer.status, await answer.json()) == (200, READY)


async def readiness_warns(service: Service, warnings: list[str]) -> None:
    """Return when readiness has these warnings; the process is ready all the time."""
    async with asyncio.timeout(10):
        while True:
            answer = await service.call("GET", "/api/health/ready", key="")
            assert answer.status == 200
            if (await answer.json())["warnings"] == warnings:
                return
            await asyncio.sleep(0.01)


async def test_readiness_tells_that_revocations_cannot_be_seen(service, db):
    """Without the table that counts changes, keys are looked up anew, and the fault is shown."""
    device_id = await service.register()

    async def lag_s() -> float:
        return (await service.metrics()).total("auth_revocation_lag_seconds")

    with structlog.testing.capture_logs() as logs:
        await db.execute("ALTER TABLE key_revision RENAME TO elsewhere")
        await readiness_warns(service, ["revocations"])
        blind = await lag_s()
        await db.execute("ALTER TABLE api_keys DISABLE TRIGGER ALL")
        await db.execute("UPDATE api_keys SET revoked_at = now()")
        async with asyncio.timeout(10):
            while (await service.heartbeat(device_id)).status != 401:
                await asyncio.sleep(0.01)
        longer_blind = await lag_s()
        assert longer_blind > blind
        await db.execute("ALTER TABLE elsewhere RENAME TO key_revision")
        await readiness_warns(service, [])
        async with asyncio.timeout(10):
            while await lag_s() >= longer_blind:
                await asyncio.sleep(0.01)
    assert [entry["event"] for entry in logs] == ["revocations.failed", "revocations.healthy"]


async def test_readiness_asks_the_database_once_however_many_ask(service, monkeypatch):
    """Anybody may ask, so asking costs the database little."""
    asked = []
    fetch = Database.fetch

    async def counting(self, statement, *arguments, **options):
        if "schema_version" in statement:
            asked.append(statement)
        return await fetch(self, statement, *arguments, **options)

    monkeypatch.setattr(Database, "fetch", counting)
    ready = (service.call("GET", "/api/health/ready", key="") for _ in range(50))
    assert {answer.status for answer in await asyncio.gather(*ready)} == {200}
    assert 1 <= len(asked) <= 5


async def test_readiness_knows_an_old_schema(service, db):
    """A service that runs ahead of its migrations says so."""
    await db.execute("UPDATE activity_schema_version SET version_num = '0001'")
    answer = await service.call("GET", "/api/health/ready")
    assert answer.status == 503
    assert "0001" in (await answer.json())["details"]["migrations"]


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
async def test_prometheus_finds_no_fault_with_the_metrics(service):
    """Names, units and help are as its conventions have them."""
    await service.heartbeat(await service.register())
    text = await (await service.call("GET", "/metrics", key="")).text()
    assert promtool("check", "metrics", given=text) == ""
    assert "activity_typo" in promtool("check", "metrics", given="activity_typo 1\n")


async def test_what_the_caches_spare_the_database_is_counted(service):
    """A device that is known is a hit, one that nobody knows a miss; a key is either."""
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
    # Making it was a change of keys, so it may be asked for anew.
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
        assert metrics.total("database_max_open_connections", pool="access") == 7


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


async def test_no_client_makes_new_time_series(service):
    """A thousand requests with other paths, methods, devices, groups and keys: the same series."""

    async def make_a_stir(n: int) -> None:
        device_id = await service.register(group_id=f"group-{n}", name=f"Phone {n}")
        named = {"X-Device-ID": str(uuid.uuid4()), "X-Request-ID": f"mine-{n}"}
        for answer in (
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
            await answer.read()

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


async def test_an_upload_that_the_database_cannot_take_is_503_and_may_be_tried_again(dsn, db):
    """A slow database makes uploads fail within their deadline, with a hint when to return."""
    async with running(dsn, database={"statement_timeout_s": 0.2}) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            with structlog.testing.capture_logs() as logs:
                answers = await asyncio.gather(*(service.upload(device_id) for _ in range(5)))
        for answer in answers:
            assert (answer.status, (await answer.json())["error"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert [entry["event"] for entry in logs] == ["requests.unavailable"]
        assert (await service.upload(device_id)).status == 200


@pytest.fixture
def log_lines():
    """Configure logs as the service does, onto a stream that is no terminal."""
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    configure_logs(LogSettings(), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().handlers, logging.getLogger().level = handlers, level
    structlog.reset_defaults()


def test_logs_are_json_lines_when_stdout_is_no_terminal(log_lines):
    """Our own events and the standard library's look the same, traces included."""
    token = REQUEST_ID.set("abc-1")
    structlog.get_logger("own").error("flush.failed", target="devices", attempt=3)
    logging.getLogger("somebody").warning("spoke of %s", "something")
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("own").exception("flush.crashed")
    REQUEST_ID.reset(token)
    own, other, trace = log_lines()
    assert (own["event"], own["target"], own["attempt"]) == ("flush.failed", "devices", 3)
    assert (own["level"], own["request_id"]) == ("error", "abc-1")
    assert own["timestamp"].endswith("Z")
    assert (other["event"], other["level"]) == ("spoke of something", "warning")
    assert trace["exception"][0]["exc_value"] == "bad"


def test_a_trace_in_the_logs_shows_no_values(log_lines):
    """There are keys and passwords among local variables."""

    def fail(password: str) -> None:
        raise ValueError("no " + password[:0])

    try:
        fail("hunter2")
    except ValueError:
        structlog.get_logger("own").exception("request.crashed")
    (line,) = log_lines()
    assert "hunter2" not in json.dumps(line)
    assert line["exception"][0]["frames"]


def test_debug_is_silent_unless_asked_for(log_lines):
    """The level is info by default."""
    structlog.get_logger("own").debug("nothing.here")
    assert log_lines() == []


def test_a_client_that_speaks_no_http_is_not_worth_an_error(log_lines):
    """Port scanners do not fill the disk."""
    try:
        raise BadHttpMethod("BREW")
    except BadHttpMethod:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    assert log_lines() == []


async def test_a_request_logs_nothing_at_info(service):
    """A fleet of devices does not fill the disk."""
    with structlog.testing.capture_logs() as logs:
        device_id = await service.register()
        await service.heartbeat(device_id)
        await service.upload(device_id)
        await service.upload(device_id, latitude=91)
        await service.call("GET", "/nowhere")
        await service.listing()
    assert logs == []
