"""The examples for embedding run in an application that is made up, and their touches arrive."""

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import asyncpg
import prometheus_client
import pytest
from aiohttp import web

from tests.support.markdown import PAGES, Page

PAGE = PAGES["docs/library.md"]
TABLES, REQUEST_METRICS, LISTING, ELSEWHERE, POOL, CRASH, METRICS, TESTS = EXAMPLES = (
    "A column to write to",
    "Who was active in a request",
    "Show it",
    "More targets, and touches from elsewhere",
    "Your own pool",
    "Survive a crash",
    "Metrics and logs",
    "Your tests",
)
SEVEN = {"Authorization": "Bearer seven"}
Follow = Callable[..., Awaitable[SimpleNamespace]]


@dataclass
class Payment:
    """What comes out of somebody's queue."""

    card: str
    user_id: int
    at: float


@pytest.fixture
def pool_key() -> web.AppKey:
    """Where the made-up application keeps its pool."""
    return web.AppKey("pool", asyncpg.Pool)


@pytest.fixture
def yourapp(dsn, pool_key, monkeypatch):
    """An application with authentication of its own, in which nothing is left behind."""
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
    """Run the snippets of some pages or sections, one after the other; return what they define."""

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
    """Return who was active, says the table."""
    rows = await db.fetch("SELECT id FROM users WHERE last_active_at > now() - interval '5 min'")
    return [row[0] for row in rows]


def test_every_example_is_followed_below():
    """One that is new has to be."""
    headings = [part.split("\n")[0] for part in PAGE.text.split("\n## ")[1:]]
    assert [name for name in headings if PAGE.section(name).snippets("python", "sql")] == [
        name for name in headings if name in EXAMPLES
    ]


async def test_the_example_of_the_readme_runs(aiohttp_client, follow, db):
    """Fewer than fifteen lines, on their own table, behind their own authentication."""
    readme = PAGES["README.md"]
    (code,) = readme.snippets("python")
    assert len([line for line in code.text.splitlines() if line.strip()]) < 15
    theirs = await follow(PAGE.section(TABLES), readme)

    async def hello(_request):
        return web.Response(text="hello")

    theirs.app.router.add_get("/", hello)
    client = await aiohttp_client(theirs.app)
    assert (await client.get("/")).status == 401
    assert theirs.tracker.buffers["users"].touches == 0
    assert (await client.get("/", headers=SEVEN)).status == 200
    assert theirs.tracker.pending("users").get(7) is not None
    await theirs.tracker.flush()
    assert await active(db) == [7]


async def test_a_request_is_shown_before_and_after_it_is_written(
    aiohttp_client, follow, dsn, db, pool_key
):
    """To those who read by the page's own handler, and tested by its own test."""
    theirs = await follow(*sections(TABLES, REQUEST_METRICS, LISTING, TESTS))
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as theirs.app[pool_key]:
        client = await aiohttp_client(theirs.app)
        since = int(time.time())
        await client.get("/users", headers=SEVEN)
        for _ in range(2):
            async with client.get("/users", headers=SEVEN) as answer:
                seven, eight = await answer.json()
            assert (seven["name"], eight) == ("Seven", {"name": "Eight", "last_active_at": None})
            assert seven["last_active_at"] >= since
            await theirs.tracker.flush()
        await db.execute("UPDATE users SET last_active_at = NULL")
        await theirs.test_who_says_hello_was_active(client, theirs.tracker, db)
        await client.close()
    assert await active(db) == [7]


async def test_a_consumer_of_a_queue_writes_what_is_left_when_it_ends(follow, db):
    """Two targets, one in a schema, rounded to the minute; at most now."""
    theirs = await follow(*sections(TABLES, REQUEST_METRICS, ELSEWHERE))
    await db.execute("INSERT INTO billing.cards VALUES ('5105'), ('4111')")
    now = await db.fetchval("SELECT extract(epoch FROM now())::float")

    async def payments():
        yield Payment("4111", 8, now - 60)
        yield Payment("4111", 7, now + 3600)

    await theirs.consume(payments())
    assert sorted(await active(db)) == [7, 8]
    assert not await db.fetchval("SELECT bool_or(last_active_at > now()) FROM users")
    cards = await db.fetch(
        "SELECT number, extract(epoch FROM last_used_at) % 60 FROM billing.cards"
    )
    assert sorted(map(tuple, cards)) == [("4111", 0), ("5105", None)]


async def test_a_pool_that_is_lent_opens_before_and_closes_after_the_tracker(
    aiohttp_client, follow, monkeypatch, db
):
    """The last flush finds it open."""
    started = []
    monkeypatch.setattr(web, "run_app", started.append)
    theirs = await follow(*sections(TABLES, REQUEST_METRICS, LISTING, POOL))
    (made,) = started
    app = await made
    app.router.add_get("/users", theirs.list_users)
    client = await aiohttp_client(app)
    assert (await client.get("/users", headers=SEVEN)).status == 200
    await client.close()
    assert await active(db) == [7]


async def test_a_journal_is_kept_and_the_metrics_are_exported(follow, tmp_path):
    """What the page says of a crash needs a journal that is there."""
    theirs = await follow(*sections(TABLES, REQUEST_METRICS, CRASH, METRICS))
    async with theirs.tracker.running():
        assert list((tmp_path / "journal").iterdir())
        theirs.tracker.touch("users", 7)
        registry = theirs.REGISTRY
        assert registry.get_sample_value("activity_touches_total", {"target": "users"}) == 1
        assert registry.get_sample_value("activity_journal_degraded", {"target": "users"}) == 0
