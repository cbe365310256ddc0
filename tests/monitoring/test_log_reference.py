"""The page of log events has all of them, and no other."""

import asyncio
import json
import re
import uuid
from pathlib import Path

import aiohttp

from api.access.keys import create_key
from api.config import PREFIX, DatabaseSettings
from api.postgres.database import open_database
from benchmarks.harness.service import running_service
from tests.support.log_events import Event, events
from tests.support.raw_client import free_port
from tests.support.stores import TARGET
from tracker._buffer.buffer import Buffer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "api" / "monitoring" / "LOGS.md").read_text()
LOGGED = events(ROOT / "api", ROOT / "tracker")


def on_the_page() -> set[Event]:
    """Return the events of the page's tables."""
    rows = re.findall(r"^\| `([\w.]+)` \| (\w+) \|([^|]*)\|", PAGE, re.MULTILINE)
    return {
        Event(name, level, frozenset(re.findall(r"`(\w+)`", fields)))
        for name, level, fields in rows
    }


def test_every_event_is_on_the_page_with_its_level_and_its_fields():
    """What operators match on does not change unnoticed; the source is read, so none is missed."""
    (dropped,) = (event for event in LOGGED if "*" in event.fields)
    reasons = Buffer(TARGET).dropped.keys()
    named = Event("touches.dropped", dropped.level, frozenset(dropped.fields - {"*"} | reasons))
    assert on_the_page() == LOGGED - {dropped} | {named}


def test_every_log_call_is_a_call_of_log():
    """The name by which calls are found in the source; the logger itself adds no event."""
    for path in [*(ROOT / "api").rglob("*.py"), *(ROOT / "tracker").rglob("*.py")]:
        source = path.read_text()
        made = re.findall(r"^.*\b(?:get_logger|Log)\(.*$", source, re.MULTILINE)
        assert not re.search(r"\blogging\.(debug|info|warning|error|exception|critical)\(", source)
        if path == ROOT / "tracker" / "instrumentation" / "_log.py":  # what `log` is made of
            continue
        assert all(re.match(r" *log: .* = [\w.]+\(__name__\)$", line) for line in made), path
        # Libraries' loggers are told how much to say; none of them is spoken through.
        of_others = re.findall(r"^.*\bgetLogger\(.*$", source, re.MULTILINE)
        assert all(
            re.search(r"getLogger\(.+\)\.setLevel\(|root = logging\.getLogger\(\)$", line)
            for line in of_others
        ), path


async def test_every_event_that_a_failing_service_logs_is_on_the_page(dsn, db, tmp_path):
    """Its lines, as they come out of the process: through errors of many kinds, and to its end."""
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "in trouble", None)
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path / "service.log"
    settings = {
        f"{PREFIX}DATABASE__URL": dsn,
        f"{PREFIX}DATABASE__POOL_SIZE": "1",
        f"{PREFIX}INGEST__BATCHES_IN_FLIGHT": "1",
        f"{PREFIX}SERVER__PORT": url.rpartition(":")[2],
        f"{PREFIX}TRACKER__FLUSH_INTERVAL_S": "0.1",
        f"{PREFIX}TRACKER__BACKOFF_INITIAL_S": "0.1",
        f"{PREFIX}TRACKER__BACKOFF_MAX_S": "0.2",
        f"{PREFIX}TRACKER__SHUTDOWN_DEADLINE_S": "0.5",
        f"{PREFIX}JOURNAL__DIR": str(tmp_path / "journal"),
        f"{PREFIX}LOG__LEVEL": "info",
    }
    device = {"device_id": str(uuid.uuid4()), "display_name": "Phone", "group_id": "family"}

    async def until_logged(event: str) -> None:
        async with asyncio.timeout(60):
            while f'"event": "{event}"' not in log.read_text():
                await session.get(f"{url}/api/v1/devices?group_id=family")
                await session.post(f"{url}/api/v1/devices/{device['device_id']}/heartbeat")
                await asyncio.sleep(0.1)

    async with running_service(url, settings, log), aiohttp.ClientSession() as session:
        session.headers["X-API-Key"] = key
        await session.post(f"{url}/api/v1/devices/register", json=device)
        await db.execute("ALTER TABLE devices RENAME TO elsewhere")
        await until_logged("flush.failed")
        await until_logged("requests.unavailable")
        await db.execute("ALTER TABLE elsewhere RENAME TO devices")
        await until_logged("flush.healthy")
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name "
            "LIKE 'activity-%' AND datname = current_database()"
        )
        await db.execute("DELETE FROM devices")
        await until_logged("flush.rows_missing")
        async with aiohttp.ClientSession() as client:
            await client.get(f"{url}/{'x' * 10_000}")
        await until_logged("requests.unparsed")
        await db.execute("ALTER TABLE key_revision RENAME TO elsewhere")
        await until_logged("revocations.failed")
    await db.execute("ALTER TABLE elsewhere RENAME TO key_revision")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    pages = {event.name: event for event in on_the_page()}
    assert len({line["event"] for line in lines}) > 6
    for line in lines:
        known = pages[line["event"]]
        assert line["level"] == known.level
        assert line.keys() - {"event", "level", "timestamp", "request_id"} <= known.fields, line


def test_names_of_events_are_dotted():
    """A part of the service, and what happened to it."""
    assert {
        event.name for event in LOGGED if not re.fullmatch(r"[a-z]+\.[a-z_]+", event.name)
    } == set()
