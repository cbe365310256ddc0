"""The snippets of the page on embedding run in a made-up application and record touches."""

import sys
import time
from collections.abc import Awaitable, Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import asyncpg
import prometheus_client
import pytest
from aiohttp import web

from tests.support.markdown import PAGES, ROOT, Page

PAGE = PAGES["docs/howto/embed.md"]
TABLES, REQUEST, STREAMS, LISTING, TARGETS, POOL, CRASH, METRICS, TESTS = EXAMPLES = (
    "A column to write to",
    "Who was active in a request",
    "Streams and WebSockets",
    "Show it",
    "More targets",
    "Your own pool",
    "Survive a crash",
    "Metrics and logs",
    "Your tests",
)
SEVEN = {"Authorization": "Bearer seven"}
Follow = Callable[..., Awaitable[SimpleNamespace]]


@pytest.fixture
def pool_key() -> web.AppKey:
    """Return where the made-up application keeps its pool."""
    return web.AppKey("pool", asyncpg.Pool)


@pytest.fixture
def yourapp(dsn, pool_key, monkeypatch):
    """Provide the modules of an application with its own authentication; remove them afterwards."""
    user_id = web.RequestKey("user_id", int)

    @web.middleware
    async def authenticate(request, handler):
        if request.headers.get("Authorization") != SEVEN["Authorization"]:
            raise web.HTTPUnauthorized
        request[user_id] = 7
        return await handler(request)

    modules = {
        "yourapp": {},
        "yourapp.auth": {"USER_ID": user_id, "authenticate": authenticate},
        "yourapp.database": {"POOL": pool_key},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setattr(prometheus_client, "REGISTRY", prometheus_client.CollectorRegistry())


@pytest.fixture
def follow(yourapp, db, tmp_path) -> Follow:
    """Return a function that runs the snippets of pages in order and returns what they define."""

    async def run(*pages: Page) -> SimpleNamespace:
        names: dict[str, Any] = {}
        for page in pages:
            for snippet in page.snippets("python", "sql"):
                text = snippet.text.replace("/var/lib/yourapp", str(tmp_path))
                if snippet.language == "sql":
                    await db.execute(text)
                else:
                    exec(compile(text, page.name, "exec"), names)  # noqa: S102 - it is our own
        await db.execute("INSERT INTO users (id, name) VALUES (7, 'Seven'), (8, 'Eight')")
        return SimpleNamespace(**names)

    return run


def sections(*headings: str) -> list[Page]:
    return [PAGE.section(heading) for heading in headings]


async def active(db: asyncpg.Connection) -> list[int]:
    """Return the ids of users that were active, according to the table."""
    rows = await db.fetch("SELECT id FROM users WHERE last_seen > now() - interval '5 min'")
    return [row[0] for row in rows]


def test_every_section_with_code_has_a_test():
    """A new section with code needs a test."""
    headings = [part.split("\n")[0] for part in PAGE.text.split("\n## ")[1:]]
    assert [name for name in headings if PAGE.section(name).snippets("python", "sql")] == [
        name for name in headings if name in EXAMPLES
    ]


def test_the_handler_of_a_websocket_is_that_of_the_example():
    """Which the tests run."""
    program = (ROOT / "docs" / "examples" / "websocket.py").read_text()
    assert [one.text in program for one in PAGE.section(STREAMS).snippets("python")] == [True]


async def test_a_request_is_shown_before_and_after_it_is_written(
    aiohttp_client, follow, dsn, db, pool_key
):
    """The page's own handler lists it, and the page's own test passes."""
    theirs = await follow(*sections(TABLES, REQUEST, LISTING, TESTS))
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as theirs.app[pool_key]:
        client = await aiohttp_client(theirs.app)
        since = int(time.time())
        await client.get("/users", headers=SEVEN)
        for _ in range(2):
            async with client.get("/users", headers=SEVEN) as response:
                seven, eight = await response.json()
            assert (seven["name"], eight) == ("Seven", {"name": "Eight", "last_seen": None})
            assert seven["last_seen"] >= since
            await theirs.tracker.flush()
        await db.execute("UPDATE users SET last_seen = NULL")
        await theirs.test_a_request_is_activity_of_its_user(client, theirs.tracker, db)
        await client.close()
    assert await active(db) == [7]


async def test_more_targets_are_written_with_their_own_resolution(follow, db):
    """A target in another schema, rounded to the minute."""
    theirs = await follow(*sections(TABLES, REQUEST, TARGETS))
    await db.execute("INSERT INTO billing.cards VALUES ('5105'), ('4111')")
    async with theirs.tracker.running():
        theirs.tracker.touch("cards", "4111")
        theirs.tracker.touch("users", 8)
    assert await active(db) == [8]
    cards = await db.fetch(
        "SELECT number, extract(epoch FROM last_used_at) % 60 FROM billing.cards"
    )
    assert sorted(map(tuple, cards)) == [("4111", 0), ("5105", None)]


async def test_a_pool_that_is_lent_opens_before_and_closes_after_the_tracker(
    aiohttp_client, follow, monkeypatch, db
):
    """The last flush uses it."""
    started = []
    monkeypatch.setattr(web, "run_app", started.append)
    theirs = await follow(*sections(TABLES, REQUEST, LISTING, POOL))
    (made,) = started
    app = await made
    app.router.add_get("/users", theirs.list_users)
    client = await aiohttp_client(app)
    assert (await client.get("/users", headers=SEVEN)).status == 200
    await client.close()
    assert await active(db) == [7]


async def test_a_journal_is_kept_and_the_metrics_are_exported(follow, tmp_path):
    """The journal directory exists, and the registry has the counts."""
    theirs = await follow(*sections(TABLES, REQUEST, CRASH, METRICS))
    async with theirs.tracker.running():
        assert list((tmp_path / "journal").iterdir())
        theirs.tracker.touch("users", 7)
        registry = theirs.REGISTRY
        assert registry.get_sample_value("activity_touches_total", {"target": "users"}) == 1
        assert registry.get_sample_value("activity_journal_degraded", {"target": "users"}) == 0
