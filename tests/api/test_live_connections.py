"""Live streams over real connections: slow readers, connection limits, and shutdown."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from api.live import group
from tests.support.raw_client import PATIENCE_S, ListeningService, listening
from tests.support.sse import Live, live

DEVICES = 2000
SMALL_BYTES = 4096
RENAME = "UPDATE devices SET display_name = $1 || left(device_id::text, 40) WHERE group_id = 'many'"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Ticks are fast, as no test here depends on their interval."""
    monkeypatch.setattr(group, "TICK_S", 0.05)
    monkeypatch.setattr(group, "_REFRESH_EVERY_S", 0.1)


@pytest.fixture
async def many(db):
    """A group whose snapshot is larger than what small buffers hold."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), 'a phone', 'many', 'android' FROM generate_series(1, $1)",
        DEVICES,
    )
    return db


@asynccontextmanager
async def watching(service: ListeningService, group_id: str = "family") -> AsyncIterator[Live]:
    """Watch over a connection of one's own, whose buffers are small at both ends."""

    def small(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(address[0], address[1])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        return made

    before = set(service.listener.open)
    connector = aiohttp.TCPConnector(socket_factory=small)
    async with (
        aiohttp.ClientSession(connector=connector, read_bufsize=SMALL_BYTES) as session,
        live(session, service.key, group_id, f"http://127.0.0.1:{service.port}") as seen,
    ):
        (seen.guest,) = set(service.listener.open) - before
        wire = seen.guest._wire.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        yield seen


async def stuffed(service: ListeningService, seen: Live, db) -> None:
    """Send so much that the buffers of a subscriber that does not read are full.

    On a busy machine it may have been disconnected for that before it is noticed here.
    """
    async with asyncio.timeout(PATIENCE_S):
        name = 0
        while seen.guest in service.listener.open - service.listener.waiting.keys():
            name += 1
            await db.execute(RENAME, str(name))
            await asyncio.sleep(0.1)


async def test_a_stream_that_is_not_read_has_no_queue_and_restarts(dsn, many, monkeypatch):
    """What is kept for it is bounded, and in the end it sees what all others see."""
    monkeypatch.setattr(group, "_KEPT_TICKS", 5)
    async with (
        listening(dsn) as service,
        watching(service, "many") as slow,
        watching(service, "many") as other,
    ):
        await stuffed(service, slow, many)
        ticks = other.ticks
        await other.until(lambda _: other.ticks > ticks + 20)
        assert slow.guest._wire.get_write_buffer_size() < 1 << 20
        assert slow.hellos == 1
        await many.execute(RENAME, "the end ")
        for seen in (slow, other):
            await seen.until(
                lambda seen: (
                    seen.ready
                    and all(one["display_name"][:7] == "the end" for one in seen.devices.values())
                )
            )
            assert len(seen.devices) == DEVICES
        assert slow.hellos > 1


async def test_a_stream_that_is_never_read_is_closed(dsn, many):
    """As with any other answer, after so long."""
    async with (
        listening(dsn, response_timeout_s=0.3) as service,
        watching(service, "many") as unread,
    ):
        await stuffed(service, unread, many)
        async with asyncio.timeout(PATIENCE_S):
            while not service.listener.closed["slow_response"]:
                await asyncio.sleep(0.05)
            while (await service.metrics()).total("live_streams"):
                await asyncio.sleep(0.05)


async def test_connections_at_the_limit_close_no_stream_that_is_read(dsn, many):
    """Not though it once was slow; a connection that waits for a request makes room instead."""
    async with listening(dsn, max_connections=4) as service, watching(service, "many") as seen:
        await stuffed(service, seen, many)
        caught_up_at = time.time() + 0.5
        await seen.until(lambda _: seen.now > caught_up_at)
        reading = asyncio.create_task(
            seen.until(lambda _: service.listener.closed["connection_limit"] >= 8)
        )
        async with AsyncExitStack() as stack:
            for _ in range(12):
                client = await stack.enter_async_context(service.client())
                await client.send(service.heartbeat())
                answer = await client.answer()
                assert answer is not None
                assert answer.status == 204
            await reading
        assert seen.guest in service.listener.open
        assert seen.guest not in service.listener.waiting


async def test_streams_take_half_of_the_places_at_most(dsn):
    """Whatever the settings say: the others have to come in, too."""
    async with (
        listening(dsn, max_connections=2) as service,
        watching(service),
        service.client() as client,
    ):
        request = f"GET /api/v1/live?group_id=xx HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.key}"
        await client.send(f"{request}\r\n\r\n".encode())
        answer = await client.answer()
        assert (answer.status, answer.error) == (503, "too_many_streams")


async def test_a_stream_that_has_ended_leaves_the_connection_to_the_next_request(dsn, db):
    """It is an answer like others, in chunks, with an end."""
    async with listening(dsn) as service, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{service.port}"
        async with live(session, service.key, url=url) as seen:
            (guest,) = service.listener.open
            assert guest not in service.listener.waiting
            await db.execute("UPDATE api_keys SET revoked_at = now()")
            assert await seen.ends() == "unauthorized"
        async with asyncio.timeout(PATIENCE_S):
            while guest not in service.listener.waiting:
                await asyncio.sleep(0.01)
        async with session.get(f"{url}/api/health") as response:
            assert response.status == 200
        assert set(service.listener.open) == set(service.listener.waiting) == {guest}


async def test_a_shutdown_ends_streams_at_once(dsn, many):
    """Neither a subscriber that reads nor one that does not delays it."""
    async with asyncio.timeout(PATIENCE_S), listening(dsn, shutdown_timeout_s=600) as service:
        reading = watching(service, "many")
        unread = watching(service, "many")
        seen, stuck = await reading.__aenter__(), await unread.__aenter__()
        await stuffed(service, stuck, many)
        ending = asyncio.create_task(seen.ends())
    assert await ending == "stopping"
    await reading.__aexit__(None, None, None)
    await unread.__aexit__(None, None, None)
