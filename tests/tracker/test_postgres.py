"""The write, against a real Postgres: what it stores, what it leaves alone, how it fails."""

import asyncio
import time
import uuid
from datetime import timedelta

import asyncpg
import pytest

from tests.support.postgres_store import store_for
from tests.support.sample_table import AT, THINGS, chunk, locking, partitions, seen, when
from tracker import (
    Target,
)
from tracker.postgres import open_pool
from tracker.postgres._store import PostgresStore


async def test_keys_are_written_found_newer_or_found_missing(dsn, things):
    """Every key of a chunk is accounted for, and nothing moves backwards."""
    await things.execute("UPDATE things SET seen_at = $1 WHERE id = 2", when(AT + 5))
    await things.execute("UPDATE things SET seen_at = $1 WHERE id = 3", when(AT - 5))
    async with store_for(dsn) as store:
        written = await store.write(chunk([(1, AT), (2, AT), (3, AT), (99, AT)]))
    assert (written.unchanged, list(written.missing), list(written.locked)) == (1, [99], [])
    assert await seen(things) == {1: when(AT), 2: when(AT + 5), 3: when(AT)}


async def test_writing_again_changes_nothing(dsn, things):
    """The merge is idempotent: a repeated chunk writes no row."""
    async with store_for(dsn) as store:
        await store.write(chunk([(1, AT), (2, AT)]))
        version = await things.fetch("SELECT xmin FROM things ORDER BY id")
        assert (await store.write(chunk([(1, AT), (2, AT)]))).unchanged == 2
    assert await things.fetch("SELECT xmin FROM things ORDER BY id") == version


async def test_a_clock_that_runs_ahead_cannot_store_the_future(dsn, things):
    """Values end at the server's own clock, in whole seconds, however absurd they are."""
    async with store_for(dsn) as store:
        await store.write(chunk([(1, int(time.time()) + 3600), (2, 1 << 40)]))
    now = await things.fetchval("SELECT now()")
    for at in (await seen(things)).values():
        assert now - timedelta(minutes=1) < at <= now
        assert at.microsecond == 0


@pytest.mark.parametrize(
    ("key_type", "column_type", "keys", "absent"),
    [
        ("uuid", "uuid", [str(uuid.UUID(int=n)) for n in (1, 2)], str(uuid.UUID(int=3))),
        ("bigint", "bigint", [-(2**63), 2**63 - 1], 0),
        ("integer", "integer", [-(2**31), 2**31 - 1], 0),
        ("bigint", "integer", [1, 2], 2**40),
        ("text", "text", ["", "Größe ' \" \\ 🛰"], "none"),
        ("text", "varchar(20)", ["a", "b"], "c"),
    ],
)
async def test_every_key_type(dsn, db, key_type, column_type, keys, absent):
    """Keys of each type find their row, and come back as they were buffered when they do not."""
    await db.execute(f"CREATE TABLE things (id {column_type} PRIMARY KEY, seen_at timestamptz)")
    await db.executemany("INSERT INTO things VALUES ($1)", [(key,) for key in keys])
    target = Target(name="t", table="things", key_column="id", column="seen_at", key_type=key_type)
    async with store_for(dsn, target) as store:
        written = await store.write(chunk([(key, AT) for key in (*keys, absent)]))
    assert list(written.missing) == [absent]
    assert await db.fetchval("SELECT count(*) FROM things WHERE seen_at = $1", when(AT)) == 2


async def test_names_are_quoted(dsn, db):
    """Schemas, capitals, spaces, SQL and reserved words are names like any other."""
    await db.execute(
        'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."select" '
        '("{0} = 0 OR 1=1) /* $1 %s --" bigint PRIMARY KEY, "when" timestamptz);'
        'INSERT INTO "My Schema"."select" VALUES (1), (2)'
    )
    target = Target(
        name="t",
        table="My Schema.select",
        key_column="{0} = 0 OR 1=1) /* $1 %s --",
        column="when",
        key_type="bigint",
    )
    async with store_for(dsn, target) as store:
        await store.write(chunk([(1, AT)]))
    rows = await db.fetch('SELECT "when" FROM "My Schema"."select" ORDER BY 1')
    assert [row[0] for row in rows] == [when(AT), None]


async def test_hash_partitioned_table(dsn, db):
    """Partitions are no obstacle: keys end as they do in one table, by either statement."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, seen_at timestamptz) PARTITION BY HASH (id)"
    )
    await db.execute(partitions("things", 8))
    await db.execute("INSERT INTO things SELECT generate_series(1, 100)")
    keys = range(1, 101)
    async with store_for(dsn) as store:
        await store.write(chunk([(key, AT) for key in keys]))
        assert await seen(db) == {key: when(AT) for key in keys}
        await db.execute("UPDATE things SET seen_at = $1 WHERE id <= 10", when(AT + 5))
        both = [*((key, AT + 1) for key in keys), *((key, AT + 1) for key in range(101, 111))]
        async with locking(dsn, "SELECT FROM things WHERE id IN (50, 60) FOR UPDATE"):
            skipping = await store.write(chunk(both))
        assert (skipping.unchanged, sorted(skipping.locked)) == (10, [50, 60])
        fast = await store.write(chunk(both))
        assert (fast.unchanged, list(fast.locked)) == (98, [])
    for written in (skipping, fast):
        assert sorted(written.missing) == list(range(101, 111))
    stored = await seen(db)
    assert stored == {key: when(AT + 5 if key <= 10 else AT + 1) for key in keys}


async def test_a_row_that_a_partitions_trigger_skips_is_rejected(dsn, db):
    """The system columns that show this are those of the partition."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, seen_at timestamptz) PARTITION BY HASH (id)"
    )
    await db.execute(partitions("things", 8))
    await db.execute(
        "INSERT INTO things SELECT generate_series(1, 9);"
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER skip BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION skip()"
    )
    async with store_for(dsn) as store:
        written = await store.write(chunk([(key, AT) for key in range(1, 11)]))
    assert (list(written.rejected), list(written.missing)) == ([2], [10])
    assert (await seen(db)).keys() == set(range(1, 10)) - {2}


async def test_more_keys_than_a_statement_has_parameters(dsn, db):
    """70,000 keys in one chunk: arrays have no limit of 65,535 (Unleash lost all in silence)."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, seen_at timestamptz);"
        "INSERT INTO things SELECT generate_series(1, 70000)"
    )
    async with store_for(dsn) as store:
        written = await store.write(chunk([(key, AT) for key in range(1, 70_001)]))
    assert (written.unchanged, len(written.missing), len(written.locked)) == (0, 0, 0)
    assert await db.fetchval("SELECT count(*) FROM things WHERE seen_at = $1", when(AT)) == 70_000


async def test_the_session_keeps_no_trace_of_a_write(dsn, things):
    """All settings are local to the transaction, as a pooler in transaction mode needs it."""
    settings = ("enable_hashjoin", "enable_seqscan", "lock_timeout", "jit", "jit_above_cost")
    async with open_pool(dsn, connections=1, deadline_s=5) as pool:
        before = [await pool.fetchval(f"SHOW {name}") for name in settings]
        store = PostgresStore(pool, THINGS, statement_timeout_s=3, lock_timeout_s=0.05)
        await store.write(chunk([(1, AT)]))
        assert [await pool.fetchval(f"SHOW {name}") for name in settings] == before


async def test_one_locked_row_does_not_delay_the_rest(dsn, things):
    """A hot row delays only itself (Unleash, Sentry: all flushes wait for it)."""
    async with store_for(dsn) as store:
        async with locking(dsn, "SELECT FROM things WHERE id = 5 FOR UPDATE"):
            written = await store.write(chunk([(key, AT) for key in range(1, 12)]))
            assert list(written.locked) == [5]
            assert list(written.missing) == [11]
            assert (await seen(things)).keys() == set(range(1, 11)) - {5}
        written = await store.write(chunk([(5, AT)]))
        assert not written.locked
    assert (await seen(things))[5] == when(AT)


async def test_a_foreign_key_check_does_not_block_a_write(dsn, things):
    """Rows that are being referenced are locked FOR KEY SHARE, which does not block a touch."""
    async with (
        store_for(dsn) as store,
        locking(dsn, "SELECT FROM things WHERE id = 5 FOR KEY SHARE"),
    ):
        assert not (await store.write(chunk([(5, AT)]))).locked
    assert await seen(things) == {5: when(AT)}


async def test_a_row_that_a_trigger_skips_is_rejected(dsn, things):
    """A BEFORE trigger that returns NULL raises no error; the key is reported all the same."""
    await things.execute(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER skip BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION skip()"
    )
    async with store_for(dsn) as store:
        written = await store.write(chunk([(1, AT), (2, AT), (3, AT)]))
    assert (list(written.rejected), list(written.locked)) == ([2], [])
    assert (await seen(things)).keys() == {1, 3}


async def test_a_row_that_is_replaced_during_the_write_gets_its_touch(dsn, things):
    """Deleted and inserted again while the UPDATE waits for it: not lost, not called unchanged."""
    other = await asyncpg.connect(dsn)
    replacing = other.transaction()
    await replacing.start()
    await other.execute("DELETE FROM things WHERE id IN (2, 3)")
    await other.execute("INSERT INTO things VALUES (2, 'new')")
    async with store_for(dsn, lock_timeout_s=20) as store:
        writing = asyncio.create_task(store.write(chunk([(1, AT), (2, AT), (3, AT)])))
        while not await things.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)
        await replacing.commit()
        written = await writing
    await other.close()
    assert (written.unchanged, list(written.missing), list(written.locked)) == (0, [3], [])
    assert await seen(things) == {1: when(AT), 2: when(AT)}


async def test_a_trigger_that_stores_another_time_counts_as_written(dsn, things):
    """What was written counts as written, and is written once, though it looks out of date."""
    await things.execute(
        "CREATE SEQUENCE fired;"
        "CREATE FUNCTION earlier() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN PERFORM nextval('fired'); NEW.seen_at := NEW.seen_at - interval '1 hour'; "
        "RETURN NEW; END $$;"
        "CREATE TRIGGER earlier BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION earlier()"
    )
    async with open_pool(dsn, connections=1) as pool:
        store = PostgresStore(pool, THINGS, statement_timeout_s=5, lock_timeout_s=0.2)
        written = await store.write(chunk([(1, AT), (2, AT), (99, AT)]))
    assert (written.unchanged, written.missing, written.rejected) == (0, [99], ())
    assert await seen(things) == {1: when(AT - 3600), 2: when(AT - 3600)}
    assert await things.fetchval("SELECT last_value FROM fired") == 2
