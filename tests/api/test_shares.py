"""One API key that takes all it can: memory stays bounded, and other API keys are served."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import asyncpg
import psutil
import pytest
from structlog.testing import capture_logs

from api.access.keys import create_key
from api.config import PREFIX, DatabaseSettings
from api.http import pieces, shares
from api.http.limits import BODY_BYTES
from api.http.pieces import PIECE_BYTES
from api.http.responses import ApiError
from api.http.shares import Shares
from api.postgres.database import open_database
from benchmarks.harness.service import running_service
from tests.support.raw_client import PATIENCE_S, ListeningService, free_port, listening
from tests.support.service import T0_MS, Service, running
from tests.support.sse import live
from tracker.instrumentation import LogThrottle

DEVICES = 3000
LISTING = "/api/v1/devices?group_id=many&limit=10000"
SMALL_BUFFER_BYTES = 4096
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


@asynccontextmanager
async def asked(port: int, path: str, key: str) -> AsyncIterator[socket.socket]:
    """Send a request over a connection that takes little, and read nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        client.settimeout(0)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(
            client, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
        )
        yield client


async def status(client: socket.socket) -> int:
    """Return the status of the response, of which no more is read."""
    async with asyncio.timeout(PATIENCE_S):
        line = await asyncio.get_running_loop().sock_recv(client, len("HTTP/1.1 200"))
    return int(line.split()[1])


@asynccontextmanager
async def slow_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose buffers hold little, so that it is sent what it reads and not much more."""

    def small(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(address[0], address[1])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        return made

    connector = aiohttp.TCPConnector(socket_factory=small)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=1024) as session:
        yield session


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
                answer = await service.call("GET", f"/api/v1/devices?group_id={query}")
                page = await answer.json()
                assert len(page["devices"]) <= limit
                found += [device["device_id"] for device in page["devices"]]
                cursor = page["next_cursor"]
                if limit == 199:
                    break
            assert found == expected[: len(found)]
            assert len(found) == (199 if limit == 199 else DEVICES)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_listing_that_cannot_be_completed_is_never_taken_for_complete(
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


async def test_what_is_wrong_before_the_first_byte_is_an_error_with_a_status(service, many):
    """JSON as always, and nothing is held afterwards."""
    await many.execute("ALTER TABLE devices RENAME TO moved")
    answer = await service.call("GET", LISTING)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert (await answer.json())["error"] == "unavailable"
    await many.execute("ALTER TABLE moved RENAME TO devices")
    assert await held(service) == 0


async def test_a_response_that_is_not_sent_holds_nothing(dsn, many):
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
    """Its rows are decoded and encoded a few at a time, counted in CPU time, whoever else runs."""
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
            answer = await service.call("GET", "/api/v1/groups", key=other)
        assert answer.status == 200
        metrics = await service.metrics()
        assert metrics.total("database_in_use_connections", pool="requests") == 1
        await transaction.rollback()
        answers = await asyncio.gather(*listing)
        assert {answer.status for answer in answers} == {200}


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


async def test_streams_of_one_api_key_leave_room_for_others(dsn):
    """It gets its share, then 503; another API key still gets streams."""
    async with running(dsn, live={"max_streams": 8}, limits={"streams_per_key": 3}) as service:
        other = await service.make_key()
        async with AsyncExitStack() as stack:
            for key in (service.key, other):
                for _ in range(3):
                    await stack.enter_async_context(live(service.client, key))
                answer = await service.call("GET", "/api/v1/live?group_id=family", key=key)
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                error = await answer.json()
                assert error["error"] == "too_many_streams"
                assert "limits.streams_per_key" in error["message"]
        metrics = await service.metrics()
        assert metrics.total("live_denied_streams_total", limit="streams_per_key") == 2
        assert metrics.total("live_denied_streams_total", limit="max_streams") == 0


async def test_one_api_key_gets_half_of_all_streams_at_most(dsn):
    """Whatever its share is set to."""
    async with running(dsn, live={"max_streams": 4}) as service, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(live(service.client, service.key))
        answer = await service.call("GET", "/api/v1/live?group_id=family")
        assert answer.status == 503
        other = await service.make_key()
        await stack.enter_async_context(live(service.client, other))


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


async def granted(tasks: list[asyncio.Task]) -> list[int]:
    """Return which of some tasks are done, after all that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [number for number, task in enumerate(tasks) if task.done()]


async def test_api_keys_take_turns():
    """What is given back goes to the keys in turns, however many requests of one of them wait."""
    one = Shares("x", capacity=1, per_key=1, amount=1, wait_s=PATIENCE_S)
    share = await one.take("a")
    waiting = [asyncio.create_task(one.take(key)) for key in "aaabbc"]
    assert await granted(waiting) == []
    assert (one.held, one.waiting) == (1, 6)
    order: list[int] = []
    while len(order) < len(waiting):
        share.give_back()
        (following,) = set(await granted(waiting)) - set(order)
        order.append(following)
        share = waiting[following].result()
    assert ["aaabbc"[number] for number in order] == ["a", "b", "c", "a", "b", "a"]
    share.give_back()
    assert (one.held, one.waiting, one.denied) == (0, 0, 0)


async def test_an_api_key_that_holds_its_part_waits_although_there_is_more():
    """Another one gets it at once, though it came later."""
    one = Shares("x", capacity=3, per_key=2, amount=1, wait_s=PATIENCE_S)
    held = [await one.take("a"), await one.take("a")]
    waiting = [asyncio.create_task(one.take("a"))]
    assert await granted(waiting) == []
    held.append(await one.take("b"))
    held[0].give_back()
    assert await granted(waiting) == [0]
    assert one.held == 3
    for share in (*held, waiting[0].result()):
        share.give_back()
    assert one.held == 0


async def test_a_request_waits_for_its_share_for_a_bounded_time(monkeypatch):
    """Then it gets 503, and so does one that finds too many waiting; nothing is left of either."""
    monkeypatch.setattr(shares, "_MAX_WAITING_PER_KEY", 2)
    one = Shares("reads", capacity=1, per_key=1, amount=1, wait_s=0.05)
    share = await one.take(7)
    with capture_logs() as logs:
        waiting = [asyncio.create_task(one.take(7)) for _ in range(5)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, ApiError) for result in results)
    assert {(result.status, result.code) for result in results} == {(503, "too_busy")}
    assert all(int(result.headers["Retry-After"]) > 0 for result in results)
    assert (one.denied, one.waiting, one.held) == (5, 0, 1)
    (entry,) = logs
    assert entry == {
        "event": "limits.denied",
        "log_level": "warning",
        "limit": "reads",
        "key_id": 7,
        "times": 1,
    }
    begun = asyncio.create_task(one.take(7, begun=True))
    abandoned = asyncio.create_task(one.take(7))
    await granted([begun])
    abandoned.cancel()
    await asyncio.wait([abandoned])
    share.give_back()
    (await begun).give_back()
    assert (one.denied, one.waiting, one.held) == (5, 0, 0)


async def test_a_share_that_is_too_large_for_its_limit_is_given_alone():
    """So that a limit that is set too low lets requests through one at a time."""
    one = Shares("x", capacity=10, per_key=5, amount=100, wait_s=PATIENCE_S)
    share = await one.take("a")
    waiting = [asyncio.create_task(one.take("b"))]
    assert await granted(waiting) == []
    share.resize(200)
    assert one.held == 200
    del share  # what is forgotten gives itself back
    assert await granted(waiting) == [0]
    waiting[0].result().give_back()
    assert one.held == 0
