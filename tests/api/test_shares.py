"""One API key that takes all it can: memory stays bounded, and other API keys are served."""

import asyncio
import json
import socket
import time
import uuid
from contextlib import AsyncExitStack

import aiohttp
import asyncpg
import psutil
import pytest
from structlog.testing import capture_logs

from api.access.keys import create_key
from api.config import PREFIX, DatabaseSettings
from api.http import pieces
from api.http.limits import BODY_BYTES
from api.http.pieces import PIECE_BYTES
from api.postgres.database import open_database
from benchmarks.harness.service import running_service
from tests.support.raw_client import PATIENCE_S, ListeningService, free_port, listening
from tests.support.service import T0_MS, Service, running
from tests.support.slow_clients import SMALL_BUFFER_BYTES, asked, slow_session, status
from tracker.instrumentation import LogThrottle

DEVICES = 3000
LISTING = "/api/v1/devices?group_id=many&limit=10000"
DEAF_CLIENTS = 60
MOST_GROWTH_BYTES = 30 << 20


@pytest.fixture
async def many(db: asyncpg.Connection) -> asyncpg.Connection:
    """A group whose listing is larger than a megabyte."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), rpad(n::text, 50, E'\\U0001F69A'), 'many', 'android' "
        "FROM generate_series(1, $1) n",
        DEVICES,
    )
    await db.execute("ANALYZE devices")
    return db


async def ids(db: asyncpg.Connection) -> list[str]:
    """Return the devices of the group in the order of its listing."""
    rows = await db.fetch(
        "SELECT device_id::text FROM devices WHERE group_id = 'many' "
        "ORDER BY display_name, device_id"
    )
    return [row[0] for row in rows]


async def held(service: Service | ListeningService) -> float:
    """Return what requests hold of the limits, without what the scrape holds that says so."""
    return (await service.metrics()).total("limits_held") - BODY_BYTES


async def test_clients_that_read_nothing_cost_little_memory(dsn, many, tmp_path):
    """However many large listings one API key asks for; those beyond its share get 503."""
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "reads nothing", None)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        f"{PREFIX}DATABASE__URL": dsn,
        f"{PREFIX}SERVER__PORT": str(port),
        f"{PREFIX}LIMITS__WAIT_S": "0.5",
        f"{PREFIX}LOG__LEVEL": "error",
    }
    async with (
        running_service(url, settings, tmp_path / "service.log") as process,
        aiohttp.ClientSession() as session,
        AsyncExitStack() as stack,
    ):
        async with session.get(f"{url}{LISTING}", headers={"X-API-Key": key}) as response:
            assert len((await response.json())["devices"]) == DEVICES
        memory = psutil.Process(process.pid).memory_info
        before = memory().rss
        clients = [
            await stack.enter_async_context(asked(port, LISTING, key)) for _ in range(DEAF_CLIENTS)
        ]
        statuses = [await status(client) for client in clients]
        assert set(statuses) == {200, 503}
        assert memory().rss - before < MOST_GROWTH_BYTES
        async with session.get(f"{url}/api/health") as response:
            assert response.status == 200


async def test_a_slow_client_gets_the_whole_listing(dsn, many):
    """In chunks, as fast as it reads, and the same devices in the same order as any client."""
    expected = await ids(many)
    async with listening(dsn) as service, slow_session() as session:
        parts = []
        async with session.get(
            f"http://127.0.0.1:{service.port}{LISTING}", headers={"X-API-Key": service.key}
        ) as response:
            assert response.status == 200
            while part := await response.content.read(5000):
                parts.append(part)
                await asyncio.sleep(0)
        listed = json.loads(b"".join(parts))
        assert [device["device_id"] for device in listed["devices"]] == expected
        assert listed["next_cursor"] is None
        assert await held(service) == 0


async def test_long_pages_follow_each_other(dsn, many):
    """A page of many slices ends where the next one begins, at the end and one before it too."""
    expected = await ids(many)
    async with running(dsn) as service:
        for limit in (DEVICES + 1, DEVICES, DEVICES - 1, 199, 200, 201, 1000):
            found, cursor = [], ""
            while cursor is not None:
                query = f"many&limit={limit}{cursor and '&cursor=' + cursor}"
                response = await service.call("GET", f"/api/v1/devices?group_id={query}")
                page = await response.json()
                assert len(page["devices"]) <= limit
                found += [device["device_id"] for device in page["devices"]]
                cursor = page["next_cursor"]
                if limit == 199:
                    break
            assert found == expected[: len(found)]
            assert len(found) == (199 if limit == 199 else DEVICES)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_listing_that_cannot_be_completed_resets_the_connection(
    dsn, many, version, monkeypatch
):
    """The connection is reset, and what was sent is no JSON."""
    monkeypatch.setattr(pieces, "_broken", LogThrottle(PATIENCE_S))
    async with listening(dsn) as service:
        loop = asyncio.get_running_loop()
        with capture_logs() as logs, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
            client.settimeout(0)
            await loop.sock_connect(client, ("127.0.0.1", service.port))
            head = f"GET {LISTING} HTTP/{version}\r\nHost: x\r\nX-API-Key: {service.key}\r\n\r\n"
            await loop.sock_sendall(client, head.encode())
            assert await status(client) == 200
            await many.execute("ALTER TABLE devices RENAME TO moved")
            received = b""
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(PATIENCE_S):
                    while part := await loop.sock_recv(client, 65_536):
                        received += part
        body = received.partition(b"\r\n\r\n")[2]
        assert b'{"devices":[' in body
        assert b"next_cursor" not in body
        assert not body.endswith(b"0\r\n\r\n")
        (broken,) = (entry for entry in logs if entry["event"] == "response.broken_off")
        assert broken["times"] == 1
        await many.execute("ALTER TABLE moved RENAME TO devices")
        assert await held(service) == 0


async def test_an_error_before_the_first_byte_has_a_status(service, many):
    """JSON as always, and nothing is held afterwards."""
    await many.execute("ALTER TABLE devices RENAME TO moved")
    response = await service.call("GET", LISTING)
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    assert (await response.json())["error"] == "unavailable"
    await many.execute("ALTER TABLE moved RENAME TO devices")
    assert await held(service) == 0


async def test_a_response_that_is_not_sent_holds_no_share(dsn, many):
    """That to HEAD, and that to a client that has left."""
    async with listening(dsn) as service:
        for _ in range(40):
            async with asked(service.port, LISTING, service.key) as client:
                assert await status(client) == 200
        async with aiohttp.ClientSession() as session:
            for _ in range(40):
                async with session.head(
                    f"http://127.0.0.1:{service.port}{LISTING}",
                    headers={"X-API-Key": service.key},
                ) as response:
                    assert response.status == 200
        async with asyncio.timeout(PATIENCE_S):
            while await held(service):
                await asyncio.sleep(0.01)


async def test_no_step_of_a_large_listing_keeps_other_requests_waiting_for_long(service, many):
    """Its rows are decoded and encoded a few at a time, as the CPU time of each step shows."""
    assert (await service.call("GET", LISTING)).status == 200  # caches are filled
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0.0005)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    async with aiohttp.ClientSession() as session:
        url = service.client.make_url(LISTING)
        started = time.thread_time()
        watching = asyncio.create_task(watch())
        async with session.get(url, headers={"X-API-Key": service.key}) as response:
            async for _ in response.content.iter_any():
                pass
        took = time.thread_time() - started
        watching.cancel()
    assert longest < took / 5


async def test_large_listings_of_one_api_key_leave_connections_to_others(dsn, many):
    """Although they hang: they take one connection of the pool, and the rest wait for it."""
    async with running(dsn, database={"statement_timeout_s": PATIENCE_S}) as service:
        other = await service.make_key()
        transaction = many.transaction()
        await transaction.start()
        await many.execute("LOCK TABLE locations IN ACCESS EXCLUSIVE MODE")
        listing = [asyncio.create_task(service.call("GET", LISTING)) for _ in range(20)]
        async with asyncio.timeout(PATIENCE_S):
            while (await service.metrics()).total("limits_waiting_requests", limit="reads") < 19:
                await asyncio.sleep(0.01)
            response = await service.call("GET", "/api/v1/groups", key=other)
        assert response.status == 200
        metrics = await service.metrics()
        assert metrics.total("database_in_use_connections", pool="requests") == 1
        await transaction.rollback()
        responses = await asyncio.gather(*listing)
        assert {response.status for response in responses} == {200}


async def test_heartbeats_and_uploads_of_others_are_served_beside_loops_of_large_listings(
    dsn, many
):
    """For each listing of the loops, another API key gets more than one answer."""
    async with listening(dsn) as service, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{service.port}"
        async with open_database(dsn, DatabaseSettings(), connections=1) as database:
            other = await create_key(database, "other", None)
        listed = 0

        async def loop() -> None:
            nonlocal listed
            while True:
                async with session.get(url + LISTING, headers={"X-API-Key": service.key}) as got:
                    assert got.status == 200
                    await got.read()
                    listed += 1

        loops = [asyncio.create_task(loop()) for _ in range(16)]
        served = 0
        headers = {"X-API-Key": other}
        async with asyncio.timeout(4 * PATIENCE_S):
            while listed < 16:
                path = f"/api/v1/devices/{service.device_id}/heartbeat"
                async with session.post(url + path, headers=headers) as got:
                    assert got.status == 204
                body = {
                    "device_id": service.device_id,
                    "timestamp": T0_MS + served,
                    "latitude": 1,
                    "longitude": 1,
                    "accuracy": 1,
                }
                async with session.post(
                    f"{url}/api/v1/locations", headers=headers, json=body
                ) as got:
                    assert got.status == 200
                served += 2
        for task in loops:
            task.cancel()
        await asyncio.wait(loops)
    assert served > 3 * listed


async def test_tracks_and_documents_are_sent_in_pieces_too(dsn, db):
    """With their length, to a client that reads slowly, and with nothing held in the end."""
    async with listening(dsn) as service, slow_session() as session:
        await db.execute(
            "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
            "SELECT $1, to_timestamp(n), 1, 2, 3 FROM generate_series(1, 1000) n",
            uuid.UUID(service.device_id),
        )
        for path in (
            f"/api/v1/locations?device_id={service.device_id}&limit=1000",
            "/api/openapi.json",
        ):
            async with session.get(
                f"http://127.0.0.1:{service.port}{path}", headers={"X-API-Key": service.key}
            ) as response:
                assert response.status == 200
                assert response.content_type == "application/json"
                body = await response.read()
                assert int(response.headers["Content-Length"]) == len(body) > PIECE_BYTES
                json.loads(body)
        assert await held(service) == 0
