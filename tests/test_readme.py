"""The README tells the truth: its code runs, and its tables miss nothing."""

import re
import sys
from pathlib import Path
from types import ModuleType

from aiohttp import web

from api.app import create_app
from api.config import Settings
from tests.test_observe import PROMISED

README = (Path(__file__).parent.parent / "README.md").read_text()


def table_of(heading: str) -> str:
    """Return the table that follows a heading."""
    section = README.split(heading, 1)[1]
    return section.split("\n## ")[0].split("\n### ")[0]


async def test_the_library_example_runs_in_somebody_elses_application(
    aiohttp_client, dsn, db, monkeypatch
):
    """Fewer than fifteen lines, on their own table, behind their own authentication."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
    exec(compile(code, "README.md", "exec"), theirs)  # noqa: S102 - it is our own
    theirs["app"].router.add_get("/", hello)
    client = await aiohttp_client(theirs["app"])
    assert (await client.get("/")).status == 401
    assert theirs["tracker"].buffers["users"].touches == 0
    assert (await client.get("/", headers={"Authorization": "Bearer seven"})).status == 200
    assert theirs["tracker"].pending("users").get(7) is not None
    await theirs["tracker"].flush()
    rows = await db.fetch("SELECT id FROM users WHERE last_active_at IS NOT NULL")
    assert [row[0] for row in rows] == [7]


def test_every_setting_is_in_the_readme():
    """Section by section."""
    table = table_of("### Settings")
    for section, settings in Settings().model_dump().items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{section}` |"))
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(settings)


def test_every_metric_is_in_the_readme():
    """With its labels."""
    table = table_of("### Metrics")
    assert set(re.findall(r"`((?:activity|auth|database|http|event|ingest)_\w+)", table)) == set(
        PROMISED
    )


async def test_every_route_is_in_the_readme(dsn):
    """No route is undocumented."""
    app = await create_app(Settings(), dsn)
    table = table_of("### HTTP")
    for resource in app.router.resources():
        assert resource.canonical in table
    await app.cleanup()


def test_the_tests_that_the_readme_names_exist():
    """Each guarantee points to what shows it."""
    named = set(re.findall(r"`(tests/\w+\.py)`", README))
    assert len(named) > 5
    for name in named:
        assert (Path(__file__).parent.parent / name).exists()
