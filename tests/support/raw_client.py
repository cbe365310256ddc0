"""The service on its own listeners, and clients that send bytes instead of requests."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, web

from api.access.keys import create_key
from api.app import LISTENER, TRACKER, create_app
from api.config import Settings
from api.http.listener import Listener
from api.postgres.database import open_database
from api.serving import open_listeners
from benchmarks.harness.metrics import Metrics, scrape
from tests.support.service import NEVER_S
from tracker import Tracker

PATIENCE_S = 30
"""How long a test waits for what should be there at once, on a busy machine."""


def free_port() -> int:
    """Return a port that is free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Answer:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The code of an error, which must be in our form and have an id."""
        assert self.headers["content-type"].startswith("application/json"), self
        assert self.headers["x-request-id"], self
        error = json.loads(self.body)
        assert error.keys() == {"error", "message"}, self
        return error["error"]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes; what the other side no longer takes is dropped."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self) -> Answer | None:
        """Return the next answer; None when the connection was closed instead."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await self._reader.readuntil(b"\r\n\r\n")
                line, *lines = head.decode().strip().split("\r\n")
                headers = {
                    name.lower(): value for name, value in (each.split(": ", 1) for each in lines)
                }
                body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Answer(int(line.split()[1]), headers, body)

    async def answers(self) -> list[Answer]:
        """Return all answers until the connection is closed, which it must be in the end."""
        found = []
        while (answer := await self.answer()) is not None:
            found.append(answer)
        return found


@dataclass
class ListeningService:
    """A running service with one key and one registered device."""

    app: web.Application
    port: int
    key: str = ""
    device_id: str = ""
    victim_id: str = ""
    """Another device, which only some tests send a request about."""

    @property
    def tracker(self) -> Tracker:
        return self.app[TRACKER]

    @property
    def listener(self) -> Listener:
        return self.app[LISTENER]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Open a connection for as long as the block runs."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()

    def heartbeat(self, *headers: str, device_id: str = "") -> bytes:
        """Return a heartbeat with some more header lines."""
        lines = (
            f"POST /api/v1/devices/{device_id or self.device_id}/heartbeat HTTP/1.1",
            "Host: here",
            f"X-API-Key: {self.key}",
            *headers,
        )
        return "\r\n".join((*lines, "", "")).encode()

    def upload(self, *headers: str) -> bytes:
        """Return the head of an upload."""
        lines = (
            "POST /api/v1/locations HTTP/1.1",
            "Host: here",
            f"X-API-Key: {self.key}",
            "Content-Type: application/json",
            *headers,
        )
        return "\r\n".join((*lines, "", "")).encode()

    async def assert_serves(self) -> None:
        """The next one to come is served."""
        async with self.client() as client:
            await client.send(self.heartbeat())
            answer = await client.answer()
            assert answer is not None
            assert answer.status == 204

    def touches(self) -> dict[str, int]:
        """Return how many touches each target has had so far."""
        return {name: buffer.touches for name, buffer in self.tracker.buffers.items()}

    def was_touched(self, device_id: str) -> bool:
        """Whether a device was active."""
        return self.tracker.pending("devices").get(device_id) is not None

    async def metrics(self) -> Metrics:
        async with ClientSession() as session:
            return await scrape(session, f"http://127.0.0.1:{self.port}")


@asynccontextmanager
async def listening(
    dsn: str, sections: Mapping[str, Any] | None = None, **server: Any
) -> AsyncIterator[ListeningService]:
    """Run the service on its listeners; nothing is flushed unless the test says so.

    Args:
        dsn: the database.
        sections: other sections of settings that differ from the defaults.
        server: settings of the server that differ from the defaults.
    """
    settings = Settings(
        server={"port": free_port(), "shutdown_timeout_s": 1.0, "metrics_max_age_s": 0, **server},
        tracker={"flush_interval_s": NEVER_S},
        **(sections or {}),
    )
    app = await create_app(settings, dsn)
    service = ListeningService(app, settings.server.port)
    async with open_listeners(app, settings.server):
        async with open_database(dsn, settings.database, connections=1) as database:
            service.key = await create_key(database, "test", None)
            rows = await database.fetch(
                "INSERT INTO devices (device_id, display_name, platform, group_id) "
                "SELECT gen_random_uuid(), 'Phone', 'android', 'family' FROM generate_series(1, 2) "
                "RETURNING device_id::text"
            )
            service.device_id, service.victim_id = (row[0] for row in rows)
        yield service
