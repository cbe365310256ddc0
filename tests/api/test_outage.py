"""The database is unavailable, hangs, or is locked: heartbeats are served, nothing is lost."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from api.access.keys import hash_key
from api.access.revocations import Revocations
from api.siblings import Revision
from benchmarks.harness.server import BreakableServer
from tests.support.outage import GENEROUS_S, new_database, stoppable_server
from tests.support.sample_table import locking
from tests.support.service import T0_MS, Service, running
from tests.support.sse import live
from tracker import FlushError
from tracker.postgres._driver import _releasing

HEARTBEATS = 300


@pytest.fixture(scope="module")
def server() -> Iterator[BreakableServer]:
    with stoppable_server() as server:
        yield server


@pytest.fixture
async def service(server: BreakableServer) -> AsyncIterator[Service]:
    """The service on a server that may be broken, with short timeouts."""
    async with running(
        await new_database(server),
        database={"statement_timeout_s": 1.0},
        auth={"lookup_timeout_s": 1.0},
        tracker={"statement_timeout_s": 0.5, "lock_timeout_s": 0.1, "shutdown_deadline_s": 2.0},
    ) as service:
        yield service


async def beat(service: Service, device_id: str) -> int:
    """Send many heartbeats; return the second in which the first was sent."""
    first = int(time.time())
    async with asyncio.timeout(GENEROUS_S):
        for _ in range(HEARTBEATS):
            assert (await service.heartbeat(device_id)).status == 204
    return first


async def flush_fails(service: Service) -> None:
    with pytest.raises(FlushError):
        await service.tracker.flush()


async def everything_arrives(service: Service, device_id: str, since: int) -> None:
    """Flush until it succeeds, then compare the table with what was answered."""
    async with asyncio.timeout(60):
        while True:
            try:
                await service.tracker.flush()
                break
            except FlushError:
                await asyncio.sleep(0.05)
    connection = await asyncpg.connect(service.dsn)
    seen = await connection.fetchval(
        "SELECT last_seen_at FROM devices WHERE device_id = $1", device_id
    )
    used = await connection.fetchval("SELECT max(last_used_at) FROM api_keys")
    await connection.close()
    assert since <= seen.timestamp() <= time.time()
    assert since <= used.timestamp() <= time.time()
    metrics = await service.metrics()
    for target in ("devices", "api_keys"):
        assert metrics.balance(target) == 0
        assert metrics.total("activity_touches_dropped_total", target=target) == 0


async def test_with_the_server_stopped_heartbeats_are_served_and_nothing_is_lost(server, service):
    """An outage of the store does not block check-ins (Fleet's did)."""
    device_id = await service.register()
    server.stop()
    try:
        since = await beat(service, device_id)
        await flush_fails(service)
        response = await service.upload(device_id)
        assert (response.status, (await response.json())["error"]) == (503, "unavailable")
        assert (await service.heartbeat(str(uuid.uuid4()))).status == 503  # not known: cannot tell
        ready = await service.call("GET", "/api/health/ready")
        assert (ready.status, (await ready.json())["degraded"]) == (200, ["database"])
        assert (await ready.json())["details"]["database"] == (
            "no server listens at its address: No such file or directory"
        )
        assert (await service.call("GET", "/api/health/live", key="")).status == 200
    finally:
        server.start()
    await everything_arrives(service, device_id, since)
    assert (await service.upload(device_id)).status == 200


async def test_with_the_server_killed_heartbeats_are_served_and_nothing_is_lost(server, service):
    """Neither does a crash of it."""
    device_id = await service.register()
    server.kill()
    try:
        since = await beat(service, device_id)
        await flush_fails(service)
    finally:
        server.start()
    await everything_arrives(service, device_id, since)


async def test_no_upload_that_was_answered_200_is_missing_after_a_crash(server, service):
    """Clients post on through a crash of the server: each 200 is a row, all else is a 503."""
    device_id = await service.register()
    answered: dict[int, int] = {}
    numbers = iter(range(100_000))
    went_on = asyncio.Event()

    async def client() -> None:
        for number in numbers:
            answered[number] = (await service.upload(device_id, timestamp=T0_MS + number)).status
            if went_on.is_set() and answered[number] == 200:
                return

    async with asyncio.timeout(GENEROUS_S + 40), asyncio.TaskGroup() as clients:
        for _ in range(16):
            clients.create_task(client())
        while len(answered) < 200:
            await asyncio.sleep(0.01)
        server.kill()
        while 503 not in answered.values():
            await asyncio.sleep(0.01)
        server.start()
        went_on.set()
    assert set(answered.values()) == {200, 503}
    connection = await asyncpg.connect(service.dsn)
    rows = await connection.fetch("SELECT extract(epoch FROM captured_at) * 1000 FROM locations")
    await connection.close()
    assert {number for number, status in answered.items() if status == 200} <= {
        int(row[0]) - T0_MS for row in rows
    }


async def test_with_the_server_paused_heartbeats_are_served_and_nothing_is_lost(server, service):
    """A server that takes connections and never answers is the hardest to notice."""
    device_id = await service.register()
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    with server.paused():
        since = await beat(service, device_id)
        await flush_fails(service)
        assert (await service.upload(device_id)).status == 503
        await beat(service, device_id)
        while _releasing:  # the connections that were given up
            await asyncio.wait(set(_releasing))
    assert noise == []
    await everything_arrives(service, device_id, since)


async def test_a_new_key_right_before_an_outage_denies_no_device(server, service, monkeypatch):
    """Changed keys are doubted, but not when the database cannot be asked."""
    polled: asyncio.Queue[int] = asyncio.Queue()
    look = Revocations._query

    async def noting(self: Revocations, patience_s: float) -> Revision:
        revision = await look(self, patience_s)
        polled.put_nowait(revision.number)
        return revision

    device_id = await service.register()
    await service.make_key()
    connection = await asyncpg.connect(service.dsn)
    revision = await connection.fetchval("SELECT revision FROM key_revision")
    await connection.close()
    monkeypatch.setattr(Revocations, "_query", noting)
    async with asyncio.timeout(30):
        while await polled.get() != revision:
            pass
    with server.paused():
        since = await beat(service, device_id)
    await everything_arrives(service, device_id, since)


async def test_a_key_expires_while_the_database_is_away(server, service):
    """Known keys are authorized during an outage until they expire."""
    device_id = await service.register()
    short = await service.make_key(valid_s=4)
    for key in (service.key, short):
        while hash_key(key) not in service.access._keys._entries:  # or keys changed meanwhile
            assert (await service.heartbeat(device_id, key=key)).status == 204
    with server.paused():
        async with asyncio.timeout(60):
            while (await service.heartbeat(device_id, key=short)).status != 401:
                assert (await service.heartbeat(device_id)).status == 204
        await beat(service, device_id)
        assert (await service.heartbeat(device_id, key=short)).status == 401


async def test_with_the_table_locked_heartbeats_are_served_and_nothing_is_lost(service):
    """A migration that locks the tables makes flushes fail, not requests."""
    device_id = await service.register()
    async with locking(service.dsn, "LOCK TABLE devices, api_keys IN ACCESS EXCLUSIVE MODE"):
        since = await beat(service, device_id)
        await flush_fails(service)
    await everything_arrives(service, device_id, since)


async def test_shutdown_with_the_server_paused_keeps_its_deadline(server, service):
    """A server that never responds does not prevent the stop; the next process writes."""
    device_id = await service.register()
    since = int(time.time())
    with server.paused():
        await service.heartbeat(device_id)
        async with asyncio.timeout(60):
            await service.client.close()
    assert service.tracker.buffers["devices"].dropped["shutdown"] == 0
    async with running(service.dsn) as successor:
        assert successor.tracker.recovered == {"devices": 1, "api_keys": 1}
        await everything_arrives(successor, device_id, since)


async def test_without_a_journal_a_stop_counts_what_it_loses(dsn):
    """With the table locked there is nowhere to put it."""
    async with running(
        dsn, journal={"enabled": False}, tracker={"shutdown_deadline_s": 0.5}
    ) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE devices IN EXCLUSIVE MODE"):
            await service.heartbeat(device_id)
            async with asyncio.timeout(60):
                await service.client.close()
        assert service.tracker.buffers["devices"].dropped["shutdown"] == 1


async def test_a_device_that_is_deleted_while_pending_is_counted_as_missing(service):
    """A deleted row does not make later flushes fail (animego's did)."""
    device_id = await service.register()
    await service.heartbeat(device_id)
    connection = await asyncpg.connect(service.dsn)
    await connection.execute("DELETE FROM devices")
    await connection.close()
    await service.tracker.flush()
    metrics = await service.metrics()
    labels = {"target": "devices", "outcome": "missing"}
    assert metrics.total("activity_flush_keys_total", **labels) == 1
    assert metrics.total("activity_buffer_keys") == 0


async def test_live_streams_continue_while_the_database_is_unavailable(service, server):
    """Ticks go on with what memory knows; when it is back, so is what others write."""
    mine, others = await service.register(name="Mine"), await service.register(name="Others")
    dsn = service.dsn
    async with live(service.client, service.key) as seen:
        server.kill()
        try:
            at = seen.named(mine)["seen"]
            async with asyncio.timeout(GENEROUS_S):
                while seen.named(mine)["seen"] == at:
                    await service.heartbeat(mine)
                    await seen.take()
            await seen.until(lambda _: seen.stale)
            assert (await service.call("GET", "/api/v1/live?group_id=other")).status == 503
        finally:
            server.start()
        async with asyncio.timeout(GENEROUS_S):
            while True:
                try:
                    connection = await asyncpg.connect(dsn)
                    break
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.1)
        await connection.execute(
            "UPDATE devices SET display_name = 'Renamed' WHERE device_id = $1", others
        )
        await connection.close()
        await seen.until(lambda _: seen.named(others)["display_name"] == "Renamed")
        await seen.until(lambda _: not seen.stale)
        assert (seen.hellos, seen.bye) == (1, "")
