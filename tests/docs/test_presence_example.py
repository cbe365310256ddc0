"""The example of presence in a table of one's own: events in the flush's transaction, no false one.

Times are moved in the tables, so no test waits.
"""

import importlib.util
from collections.abc import AsyncIterator
from datetime import timedelta
from types import ModuleType

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.support.markdown import PAGES, ROOT
from tracker import FlushError

PAGE = PAGES["docs/howto/own-presence.md"]
PROGRAM = ROOT / "docs" / "examples" / "presence.py"
LONG_AGO = "UPDATE users SET last_seen = date_trunc('second', now()) - interval '1 h'"
LISTENING = "UPDATE presence_watch SET listening_since = now() - interval '2 h'"
FAIL = """
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$
"""


@pytest.fixture
async def example(dsn, db, monkeypatch) -> AsyncIterator[ModuleType]:
    """Load the program, create its tables with the user 7, and let its tracker run."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    spec = importlib.util.spec_from_file_location("presence_example", PROGRAM)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    await db.execute(example.SCHEMA + example.TRIGGER + LISTENING)
    await db.execute("INSERT INTO users (id, name) VALUES (7, 'Seven')")
    async with example.tracker.running():
        yield example


@pytest.fixture
async def online(example, db) -> ModuleType:
    """Let the user be seen, an hour ago; no process has set it offline yet."""
    example.tracker.touch("users", 7)
    await example.tracker.flush()
    await db.execute("DELETE FROM presence_events")
    await db.execute(LONG_AGO)
    return example


@pytest.fixture
async def pool(dsn) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        yield pool


async def events(db) -> list[tuple[bool, timedelta]]:
    """Return each event: whether it is of coming online, and how long after `last_seen` it is."""
    rows = await db.fetch(
        "SELECT e.is_online, e.at - u.last_seen FROM presence_events AS e "
        "JOIN users AS u ON u.id = e.user_id ORDER BY e.id"
    )
    return [tuple(row) for row in rows]


async def is_online(db) -> bool:
    return await db.fetchval("SELECT is_online FROM users WHERE id = 7")


async def test_a_user_who_returns_is_one_event(example, db):
    """Of the second of the touch; further touches neither write an event nor call the function."""
    example.tracker.touch("users", 7)
    await example.tracker.flush()
    assert (await is_online(db), await events(db)) == (True, [(True, timedelta(0))])
    await db.execute(FAIL.format(name="user_returns"))
    await db.execute("UPDATE users SET last_seen = now() - interval '1 min'")
    example.tracker.touch("users", 7)
    await example.tracker.flush()
    assert len(await events(db)) == 1


async def test_the_event_and_the_touch_are_written_together_or_not_at_all(example, db):
    """If the event cannot be written, the row still has its state and its time from before."""
    await db.execute(FAIL.format(name="fail"))
    await db.execute("CREATE TRIGGER fail BEFORE INSERT ON presence_events EXECUTE FUNCTION fail()")
    example.tracker.touch("users", 7)
    with pytest.raises(FlushError):
        await example.tracker.flush()
    assert await db.fetchval("SELECT NOT is_online AND last_seen IS NULL FROM users")
    await db.execute("DROP TRIGGER fail ON presence_events")
    await example.tracker.flush()
    assert (await is_online(db), await events(db)) == (True, [(True, timedelta(0))])


async def test_a_touch_from_before_the_timeout_does_not_end_offline_state(example, db):
    """It comes from the journal of a process that was killed an hour ago."""
    now = await db.fetchval("SELECT extract(epoch FROM now())::bigint")
    example.tracker.touch("users", 7, now - 3600)
    await example.tracker.flush()
    assert (await is_online(db), await events(db)) == (False, [])


async def test_a_user_who_goes_offline_is_one_event(online, db, pool):
    """Of the second at which the silence was too long, not of the look."""
    await online.look(pool, online.tracker)
    await online.look(pool, online.tracker)
    assert (await is_online(db), await events(db)) == (False, [(False, timedelta(minutes=5))])


async def test_a_pending_touch_keeps_a_user_online(online, db, pool):
    """And it is no event when it is written, as the user was online all the time."""
    online.tracker.touch("users", 7)
    await online.look(pool, online.tracker)
    await online.tracker.flush()
    assert (await is_online(db), await events(db)) == (True, [])


async def test_the_row_is_read_again_before_a_user_is_set_offline(online, db, pool):
    """While a touch of it is being committed it is left alone, and afterwards it is not silent."""
    async with db.transaction():
        await db.execute("UPDATE users SET last_seen = now()")
        assert [row["id"] for row in await pool.fetch(online.DUE)] == [7]
        await pool.execute(online.SILENCE, [7])
    await pool.execute(online.SILENCE, [7])
    assert (await is_online(db), await events(db)) == (True, [])


@pytest.mark.parametrize("shift", ["- interval '15 min'", "+ interval '15 min'"])
async def test_downtime_of_the_watcher_sets_no_user_offline(online, db, pool, shift):
    """Every process was dead, or the clock has jumped: silence counts from now on."""
    await db.execute(f"UPDATE presence_watch SET listening_until = now() {shift}")
    await online.look(pool, online.tracker)
    await online.look(pool, online.tracker)
    await pool.execute(online.SILENCE, [7])  # by another process, which had found it to be due
    assert (await is_online(db), await events(db)) == (True, [])
    await db.execute(LISTENING)
    await online.look(pool, online.tracker)
    assert not await is_online(db)


async def test_a_process_that_was_suspended_sets_no_user_offline(online, db, pool):
    """It goes on in the middle of a look, before it has found out that it was suspended."""
    await online.look(pool, online.tracker)
    await db.execute("UPDATE users SET is_online = true")
    await db.execute("UPDATE presence_watch SET listening_until = now() - interval '15 min'")
    await pool.execute(online.SILENCE, [7])
    assert await is_online(db)


async def test_events_are_handled_in_order_and_once(online, db, pool, capsys):
    """What is handled is deleted; if handling fails, all of it is there the next time."""
    await online.look(pool, online.tracker)
    online.tracker.touch("users", 7)
    await online.tracker.flush()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="no output"):
        patch.setattr("builtins.print", raises)
        await online.handle_events(pool)
    assert [is_online for is_online, _ in await events(db)] == [False, True]
    await online.handle_events(pool)
    await online.handle_events(pool)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" since ")[0] for line in lines] == [
        "user 7 is offline",
        "user 7 is online",
    ]


def raises(*_: object, **__: object) -> None:
    raise OSError("no output")


async def test_the_library_has_no_advice_against_the_trigger(example):
    """Its condition is checked by the executor: a trigger without one is called for each touch."""
    with capture_logs() as logged:
        example.tracker.touch("users", 7)
        await example.tracker.flush()
    assert [line for line in logged if line["event"] == "table.advice"] == []


def test_snippets_of_the_page_are_parts_of_the_program():
    """So they run; but for the statement that prepares a table that has users already."""
    text = PROGRAM.read_text()
    shown = [snippet.text for snippet in PAGE.snippets("python", "sql")]
    assert len(shown) > 3
    assert [one for one in shown if one.strip() not in text] == []
