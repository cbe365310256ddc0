"""The programs in docs/examples/ run, record touches, and write them all when they are stopped."""

import asyncio
import importlib.util
import json
import sys
import time
import uuid
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from api.webhooks.signing import new_secret, signed_headers
from tests.support.command_line import invoke
from tests.support.examples import running_command, running_example
from tests.support.markdown import PAGES, ROOT
from tests.support.raw_client import free_port
from tests.support.webhooks import delivering, emit, make, until_column
from tracker import Target, Tracker

EXAMPLES = ROOT / "docs" / "examples"
needs_gunicorn = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None,
    reason="gunicorn is not installed: run `make install`",
)
CONSUME = PAGES["docs/howto/consumer.md"].snippets("python")[-1].text
USERS = "CREATE TABLE users (id bigint PRIMARY KEY, name text, last_seen timestamptz);"


async def test_the_embedding_application_lists_touches_before_and_after_the_write(dsn, db):
    """It also denies requests without a token, and exports metrics."""
    seven = {"Authorization": "Bearer seven"}
    async with running_example(EXAMPLES / "embed.py", dsn) as example:
        assert (await example.get("/users", {}))[0] == 401
        await example.get("/users", seven)
        status, text = await example.get("/users", seven)
        assert status == 200
        users = {user["name"]: user["last_seen"] for user in json.loads(text)}
        assert users["Seven"] is not None
        assert users["Eight"] is None
        _, metrics = await example.get("/metrics", {})
        assert 'activity_touches_total{target="users"} 2.0' in metrics
    stored = await db.fetch("SELECT id FROM users WHERE last_seen IS NOT NULL")
    assert [row["id"] for row in stored] == [7]


async def test_the_consumer_writes_its_buffer_on_sigterm(dsn, db):
    """A heartbeat that it has received is in the table when it has ended; a bad key is dropped."""
    device_id = str(uuid.uuid4())
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES ($1, 'a van', 'vans', 'android')",
        device_id,
    )
    async with running_example(EXAMPLES / "consumer.py", dsn, udp=True) as example:
        for datagram in (b"no uuid", device_id.encode()):
            assert await echoed(datagram, example.port) == datagram
        assert not await db.fetchval("SELECT last_seen_at FROM devices")
    assert await db.fetchval("SELECT last_seen_at > now() - interval '5 min' FROM devices")


async def test_the_receiver_accepts_signed_requests_alone(dsn, db):
    """Events and `webhooks test` get 204; a body that was changed or has another signature, 401."""
    secret = new_secret()
    environment = {"WEBHOOK_SECRET": secret}
    async with running_example(EXAMPLES / "webhook_receiver.py", dsn, **environment) as example:
        url = f"http://127.0.0.1:{example.port}/hook"
        await make(dsn, url)
        await db.execute("UPDATE webhooks SET secret = $1", secret)
        await emit(db, 3)
        async with delivering(dsn, now=time.time):
            await until_column(db, "filtered_to = 3 AND batch_id IS NULL")
        assert await db.fetchval("SELECT outcome FROM webhook_deliveries") == "delivered"
        allow = {f"ACTIVITY__WEBHOOKS__ALLOW_{what}": "true" for what in ("PRIVATE", "HTTP")}
        test = await asyncio.to_thread(invoke, "webhooks", "test", "1", dsn=dsn, **allow)
        assert test.returncode == 0, test.stderr
        body, now = b'{"events": []}', int(time.time())
        good = signed_headers([secret], "msg_1", now, body)
        others = (
            (good, body, 204),
            (good, body + b" ", 401),
            ({**good, "webhook-id": "msg_2"}, body, 401),
            (signed_headers([new_secret()], "msg_1", now, body), body, 401),
            (signed_headers([new_secret(), secret], "msg_1", now, body), body, 204),
            (signed_headers([secret], "msg_1", now - 3600, body), body, 401),
            ({}, body, 401),
        )
        async with aiohttp.ClientSession() as session:
            for headers, sent, expected in others:
                async with session.post(url, data=sent, headers=headers) as response:
                    assert response.status == expected


async def test_the_application_with_presence_lists_who_is_online(dsn, db):
    """By the touch that is not written yet; the last flush stores it."""
    await db.execute(USERS + "INSERT INTO users (id) VALUES (7)")
    async with running_example(EXAMPLES / "presence.py", dsn) as example:
        assert await example.get("/", {"X-User-ID": "7"}) == (200, '{"7": false}')
        assert await example.get("/", {}) == (200, '{"7": true}')
    assert await db.fetchval("SELECT is_online FROM users")


def test_the_page_shows_the_receiver_s_check():
    """Word for word."""
    (shown,) = PAGES["docs/howto/webhooks.md"].snippets("python")
    assert shown.text in (EXAMPLES / "webhook_receiver.py").read_text()


async def echoed(datagram: bytes, port: int) -> bytes:
    """Send a datagram, and return the one that comes back."""
    loop = asyncio.get_running_loop()
    received = loop.create_future()

    class Client(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            transport.sendto(datagram)

        def datagram_received(self, data, _addr):
            received.set_result(data)

    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", port))
    try:
        async with asyncio.timeout(30):
            return await received
    finally:
        transport.close()


async def test_the_websocket_application_touches_while_a_socket_is_open_and_stops_in_time(dsn, db):
    """It closes the socket on SIGTERM and writes the touches; the client need not do anything."""
    await db.execute(USERS + "INSERT INTO users (id) VALUES (7)")
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        async with running_example(EXAMPLES / "websocket.py", dsn) as example:
            url = f"http://127.0.0.1:{example.port}/"
            socket = await session.ws_connect(url, headers={"X-User-ID": "7"}, heartbeat=None)
            await socket.send_str("hello")
            assert (await socket.receive()).data == "hello"
            receiving = asyncio.create_task(socket.receive())
            stopped_at = loop.time()
        assert loop.time() - stopped_at < 20  # shutdown_timeout and shutdown_deadline_s, and some
        assert (await receiving).data == aiohttp.WSCloseCode.GOING_AWAY
    assert await db.fetchval("SELECT last_seen > now() - interval '5 min' FROM users")


@needs_gunicorn
async def test_workers_of_gunicorn_write_what_is_pending_when_they_are_stopped(dsn, db, tmp_path):
    """With the command of the page, two workers, and one directory for their journals."""
    await db.execute(USERS + "INSERT INTO users (id) VALUES (7), (8), (9)")
    (command,) = (
        line
        for snippet in PAGES["docs/howto/gunicorn.md"].snippets("sh")
        for line in snippet.text.splitlines()
        if line.startswith("gunicorn")
    )
    port = free_port()
    words = command.replace("--workers 4", f"--workers 2 --bind 127.0.0.1:{port}").split()
    async with running_command(
        [sys.executable, "-m", *words], dsn, port, JOURNAL_DIR=str(tmp_path / "journal")
    ) as example:
        workers = {await example.get("/", {"X-User-ID": str(n)}) for n in (7, 8) for _ in range(9)}
        assert all(status == 200 for status, _ in workers)
    seen = await db.fetch("SELECT id FROM users WHERE last_seen IS NOT NULL ORDER BY id")
    assert [row["id"] for row in seen] == [7, 8]


@pytest.mark.parametrize(
    ("page", "program"), [("consumer.md", "consumer.py"), ("gunicorn.md", "gunicorn_app.py")]
)
def test_snippets_of_a_page_are_parts_of_its_program(page, program):
    """So they run. The loop over an async iterator has a test of its own."""
    text = (EXAMPLES / program).read_text()
    snippets = PAGES[f"docs/howto/{page}"].snippets("python")
    assert snippets
    assert [one.text for one in snippets if one.text not in text and one.text != CONSUME] == []


async def test_a_consumer_of_an_iterator_writes_what_is_left_when_it_ends(dsn, db):
    """Two targets; a time that is given is stored, and one a little ahead of the clock as now."""
    await db.execute(USERS + "INSERT INTO users (id) VALUES (7), (8)")
    await db.execute("CREATE TABLE cards (number text PRIMARY KEY, last_used_at timestamptz)")
    await db.execute("INSERT INTO cards VALUES ('5105'), ('4111')")
    now = await db.fetchval("SELECT extract(epoch FROM now())::float")

    async def payments():
        yield SimpleNamespace(card="4111", user_id=8, at=now - 60)
        yield SimpleNamespace(card="4111", user_id=7, at=now + 50)

    users = {"name": "users", "table": "users", "key_column": "id", "key_type": "bigint"}
    cards = {"name": "cards", "table": "cards", "key_column": "number", "key_type": "text"}
    targets = [Target(column="last_seen", **users), Target(column="last_used_at", **cards)]
    names: dict[str, Any] = {}
    exec(CONSUME, names)  # noqa: S102 - it is our own
    await names["consume"](Tracker(targets, dsn=dsn), payments())
    seen = await db.fetch("SELECT id, extract(epoch FROM last_seen)::bigint FROM users ORDER BY id")
    (seven, eight) = (row[1] for row in seen)
    assert eight == int(now - 60)
    assert now - 1 <= seven <= await db.fetchval("SELECT extract(epoch FROM now())::float") + 1
    used = await db.fetch("SELECT number FROM cards WHERE last_used_at IS NOT NULL")
    assert [row["number"] for row in used] == ["4111"]


def test_every_program_is_run_and_linked():
    """By a test of this file, and from the index."""
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == {
        "embed.py",
        "consumer.py",
        "gunicorn_app.py",
        "presence.py",
        "webhook_receiver.py",
        "websocket.py",
    }
    linked = {link for link in PAGES["docs/index.md"].links() if link.endswith(".py")}
    assert linked == {f"examples/{name}" for name in programs}
