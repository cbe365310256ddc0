"""The README and its pages tell the truth: the code runs, and the tables miss nothing."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from api.app import create_app
from api.config import Settings
from tests.test_observe import PROMISED

ROOT = Path(__file__).parent.parent


def page(name: str) -> str:
    """Return a page by its path."""
    return (ROOT / name).read_text()


def section_of(name: str, heading: str) -> str:
    """Return what a page says under a heading."""
    return page(name).split(f"\n{heading}\n", 1)[1].split("\n## ")[0]


@pytest.mark.parametrize("name", ["README.md", "docs/library.md"])
async def test_the_library_example_runs_in_somebody_elses_application(
    name, aiohttp_client, dsn, db, monkeypatch
):
    """Fewer than fifteen lines, on their own table, behind their own authentication."""
    (code,) = re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    await db.execute("CREATE TABLE users (id bigint PRIMARY KEY, last_active_at timestamptz)")
    await db.execute("INSERT INTO users VALUES (7), (8)")
    monkeypatch.setenv("DATABASE_URL", dsn)

    user_id = web.RequestKey("user_id", int)

    @web.middleware
    async def authenticate(request, handler):
        if request.headers.get("Authorization") != "Bearer seven":
            raise web.HTTPUnauthorized
        request[user_id] = 7
        return await handler(request)

    async def hello(_request):
        return web.Response(text="hello")

    module = ModuleType("yourapp.auth")
    module.USER_ID, module.authenticate = user_id, authenticate
    monkeypatch.setitem(sys.modules, "yourapp", ModuleType("yourapp"))
    monkeypatch.setitem(sys.modules, "yourapp.auth", module)
    theirs = {}
    exec(compile(code, name, "exec"), theirs)  # noqa: S102 - it is our own
    theirs["app"].router.add_get("/", hello)
    client = await aiohttp_client(theirs["app"])
    assert (await client.get("/")).status == 401
    assert theirs["tracker"].buffers["users"].touches == 0
    assert (await client.get("/", headers={"Authorization": "Bearer seven"})).status == 200
    assert theirs["tracker"].pending("users").get(7) is not None
    await theirs["tracker"].flush()
    rows = await db.fetch("SELECT id FROM users WHERE last_active_at IS NOT NULL")
    assert [row[0] for row in rows] == [7]


def test_every_setting_is_on_the_page_of_settings():
    """Section by section."""
    table = page("docs/settings.md")
    for section, settings in Settings().model_dump().items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{section}` |"))
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(settings)


def test_every_metric_is_on_the_page_of_monitoring():
    """With its labels."""
    table = section_of("docs/monitor.md", "## Metrics")
    assert set(re.findall(r"`((?:activity|auth|database|http|event|ingest)_\w+)", table)) == set(
        PROMISED
    )


async def test_every_route_is_on_the_page_of_the_service(dsn):
    """No route is undocumented."""
    app = await create_app(Settings(), dsn)
    table = section_of("docs/service.md", "## HTTP")
    for resource in app.router.resources():
        assert resource.canonical in table
    await app.cleanup()


def test_the_tests_that_the_guarantees_name_exist():
    """Each guarantee points to what shows it."""
    named = set(re.findall(r"`(tests/\w+\.py)`", page("docs/guarantees.md")))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists()
