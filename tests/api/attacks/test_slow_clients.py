"""Clients that read or write a byte at a time: closed or served, without a delay for others."""

import asyncio
import json
import socket
import time

import asyncpg
import pytest

from api.http.connections import Connection
from tests.support.raw_client import PATIENCE_S, listening
from tests.support.service import REPORT
from tests.support.slow_clients import asked

DEVICES = 5000
PACKETS = 10_000
READ_EVERY_S = 0.02
SMALL_BYTES = 4096
SHARE_BYTES = 262_144
MOST_CPU_S = 15


@pytest.fixture
async def many(db: asyncpg.Connection) -> None:
    """A group whose listing, and whose stream, is larger than the buffers of a connection."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), rpad(n::text, 50, E'\\U0001F69A'), 'many', 'android' "
        "FROM generate_series(1, $1) n",
        DEVICES,
    )


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel keep little of what a connection sends, as on a busy machine."""
    original = Connection.connection_made

    def connection_made(self: Connection, transport: asyncio.Transport) -> None:
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        original(self, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)


async def read_slowly(client: socket.socket) -> None:
    """Read a byte at a time."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(client, 1):
        await asyncio.sleep(READ_EVERY_S)


@pytest.mark.parametrize(
    "path", ["/api/v1/live?group_id=many", "/api/v1/devices?group_id=many&limit=10000"]
)
@pytest.mark.usefixtures("many", "small_buffers")
async def test_a_client_that_reads_a_byte_at_a_time_is_closed(dsn, path):
    """Reading so slowly frees no buffer in time; meanwhile all others are served."""
    async with (
        listening(dsn, response_timeout_s=0.5) as service,
        asked(service.port, path, service.key) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        reading = asyncio.create_task(read_slowly(client))
        while not service.listener.closed["slow_response"]:
            await service.assert_serves()
        reading.cancel()  # the kernel still has some bytes for it
        # The scrape has a share of its own.
        while (await service.metrics()).total("limits_held", limit="unsent_bytes") > SHARE_BYTES:
            await asyncio.sleep(0.01)
        while (await service.metrics()).total("live_streams"):
            await asyncio.sleep(0.01)


async def test_one_request_in_ten_thousand_packets_is_served(dsn):
    """A byte each: no byte is read twice, and heartbeats of others come in between."""
    async with listening(dsn) as service, service.client() as client, asyncio.timeout(100):
        body = json.dumps({"device_id": service.device_id, **REPORT}).encode()
        head = service.upload(f"Content-Length: {PACKETS}")
        request = head + body.rjust(PACKETS)
        started_s = time.process_time()
        for start in range(len(request)):
            await client.send(request[start : start + 1])
            await asyncio.sleep(0)  # the server reads it before the next one is sent
            if start % 1000 == 0:
                await service.assert_serves()
        answer = await client.answer()
        assert answer.status == 200
        assert time.process_time() - started_s < MOST_CPU_S
