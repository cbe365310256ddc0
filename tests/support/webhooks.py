"""A receiver of webhooks that does what a test says, and deliverers to send to it."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiohttp import web
from aiohttp.test_utils import TestServer

from api.background import background
from api.config import DatabaseSettings, WebhookSettings
from api.postgres.database import Database, open_database
from api.webhooks import deliverer
from api.webhooks.deliverer import Deliverer
from api.webhooks.delivery_store import DeliveryStore
from api.webhooks.registry import NewWebhook, create_webhook
from api.webhooks.sender import open_sender

NOW = 1_800_000_000
LOOPBACK = {"allow_private": True, "allow_http": True, "timeout_s": 0.5}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Request:
    """What was received."""

    id: str
    timestamp: int
    signatures: list[str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        return json.loads(self.body)["events"]


@dataclass
class Receiver:
    """Answers with each answer in turn, then with 204."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    delivered: list[dict[str, Any]] = field(default_factory=list)
    """Events of the requests that were answered with 2xx."""
    url: str = ""
    active: int = 0
    most_active: int = 0

    async def receive(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        received = Request(
            headers["webhook-id"],
            int(headers["webhook-timestamp"]),
            headers["webhook-signature"].split(" "),
            await request.read(),
        )
        self.requests.append(received)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            answer = self.answers.pop(0) if self.answers else status(204)
            response = await answer(request)
        finally:
            self.active -= 1
        if response.status in range(200, 300):
            self.delivered += received.events
        return response


def status(code: int, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=code, headers=headers)

    return answer


@asynccontextmanager
async def receiving(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(answers))
    app = web.Application()
    app.router.add_post("/hook", receiver.receive)
    server = TestServer(app)
    await server.start_server(ssl=tls)
    try:
        receiver.url = str(server.make_url("/hook"))
        yield receiver
    finally:
        await server.close()


@asynccontextmanager
async def a_database(dsn: str) -> AsyncIterator[Database]:
    async with open_database(dsn, DatabaseSettings(), connections=2) as database:
        yield database


def a_store(database: Database) -> DeliveryStore:
    """Return what a process of its own uses; touches are written at once."""
    return DeliveryStore(database, uuid.uuid4(), lease_s=deliverer.LEASE_S, settle_s=0)


@asynccontextmanager
async def delivering(
    dsn: str, *, now: Callable[[], float] = lambda: NOW, **settings: Any
) -> AsyncIterator[Deliverer]:
    """Run a deliverer with connections of its own, as another process would."""
    chosen = WebhookSettings(**{**LOOPBACK, **settings})
    async with (
        a_database(dsn) as database,
        open_sender(chosen, now) as sender,
    ):
        store = a_store(database)
        running = Deliverer(store, sender, chosen)
        async with background(running.run(), "deliverer"):
            yield running


async def make(dsn: str, url: str, group=None, types=None, **rules: Any) -> tuple[int, str]:
    async with a_database(dsn) as database:
        return await create_webhook(database, NewWebhook(url, group, types, **rules))


async def emit(
    db: asyncpg.Connection,
    count: int,
    *,
    group="vans",
    kind="device.offline",
    devices=1_000_000,
    ago_s=0,
) -> None:
    """Store events of some devices in turn, numbered for each device and in all."""
    async with db.transaction():
        last = await db.fetchval(
            "UPDATE event_position SET last = last + $1 RETURNING last - $1", count
        )
        await db.execute(
            """
            INSERT INTO device_events (position, device_id, seq, type, group_id, at, data)
            SELECT $5 + n, lpad(to_hex(($5 + n) % $4), 32, '0')::uuid, ($5 + n) / $4 + 1, $3, $2,
                   now() - make_interval(secs => $6), '{}'
            FROM generate_series(1, $1::bigint) n
            """,
            *(count, group, kind, devices, last, float(ago_s)),
        )


async def until(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    """Return when something holds that happens elsewhere."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.01)


async def column(db: asyncpg.Connection, name: str) -> Any:
    return await db.fetchval(f"SELECT {name} FROM webhooks ORDER BY id LIMIT 1")


async def until_column(db: asyncpg.Connection, condition: str, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not await column(db, condition):
            await asyncio.sleep(0.02)


def expected_signature(secret: str, request: Request) -> str:
    """Compute a signature as the specification says, and not as the service does."""
    kind, key = secret.split("_", 1)
    assert kind == "whsec"
    content = b".".join((request.id.encode(), str(request.timestamp).encode(), request.body))
    digest = hmac.new(base64.b64decode(key, validate=True), content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
