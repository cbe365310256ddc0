"""What is checked of a table when it is first there: what cannot work, and what is merely slow."""

import pytest
from structlog.testing import capture_logs

from tests.conftest import with_user
from tests.support.postgres_store import store_for
from tests.support.sample_table import AT, chunk, locking, partitions, seen, when
from tracker import StoreContended, StoreMisconfigured, Target

NAMES = {"name": "t", "table": "things", "key_column": "id", "column": "seen_at"}


@pytest.mark.parametrize(
    ("columns", "key_type", "message"),
    [
        ("id bigint PRIMARY KEY, seen_at timestamp", "bigint", "timestamp without time zone"),
        ("id bigint PRIMARY KEY, seen_at date", "bigint", "of type date, which stores no moment"),
        ("id bigint PRIMARY KEY, seen_at text", "bigint", "of type text, which stores no moment"),
        ("id bigint PRIMARY KEY, seen_at bigint", "bigint", "of type bigint"),
        ("id bigint, seen_at timestamptz", "bigint", "CREATE UNIQUE INDEX"),
        ("id bigint, seen_at timestamptz, a int, UNIQUE (id, a)", "bigint", "no unique index"),
        ("id bigint, seen_at timestamptz, a int, UNIQUE (a, id)", "bigint", "no unique index"),
        ("id char(3) PRIMARY KEY, seen_at timestamptz", "text", "type character, but key_type"),
        ("id text PRIMARY KEY, seen_at timestamptz", "bigint", "type text, but key_type is bigint"),
        ("id text PRIMARY KEY, seen_at timestamptz", "uuid", "type text, but key_type is uuid"),
    ],
)
async def test_a_table_that_cannot_work_is_a_permanent_error_that_says_what_to_do(
    dsn, db, columns, key_type, message
):
    """It is written nothing at all, instead of other times than those of the touches."""
    await db.execute(f"CREATE TABLE things ({columns})")
    async with store_for(dsn, Target(**NAMES, key_type=key_type)) as store:
        for attempt in (store.write(chunk([(1, AT)])), store.check()):
            with pytest.raises(StoreMisconfigured) as caught:
                await attempt
            assert message in str(caught.value)


@pytest.mark.parametrize(
    "index", ["(id) WHERE id > 0", "(abs(id))", "(id, seen_at)", "(id) INCLUDE (seen_at)"]
)
async def test_only_a_unique_index_on_the_key_alone_is_accepted(dsn, db, index):
    """A partial one, one of an expression or one of more columns makes no key unique."""
    await db.execute("CREATE TABLE things (id bigint, seen_at timestamptz)")
    await db.execute(f"CREATE UNIQUE INDEX ON things {index}; INSERT INTO things VALUES (1)")
    async with store_for(dsn) as store:
        if "INCLUDE" in index:
            await store.write(chunk([(1, AT)]))
        else:
            with pytest.raises(StoreMisconfigured, match="no unique index"):
                await store.write(chunk([(1, AT)]))


@pytest.mark.parametrize(
    "columns",
    [
        "id numeric PRIMARY KEY, seen_at timestamptz",
        "id smallint PRIMARY KEY, seen_at timestamptz(0)",
        "id key_number PRIMARY KEY, seen_at moment",
    ],
)
async def test_domains_and_other_integers_are_accepted(dsn, db, columns):
    """Values that the index finds are accepted."""
    await db.execute("CREATE DOMAIN key_number AS bigint; CREATE DOMAIN moment AS timestamptz")
    await db.execute(f"CREATE TABLE things ({columns}); INSERT INTO things VALUES (1)")
    async with store_for(dsn) as store:
        assert not (await store.write(chunk([(1, AT)]))).missing
    assert await db.fetchval("SELECT seen_at FROM things") == when(AT)


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
async def test_a_view_is_rejected(dsn, things, kind):
    """It may hide rows, and has no unique index."""
    await things.execute(f"ALTER TABLE things RENAME TO t; CREATE {kind} things AS TABLE t")
    async with store_for(dsn) as store:
        with pytest.raises(StoreMisconfigured, match="name the table behind it"):
            await store.write(chunk([(1, AT)]))


@pytest.mark.parametrize("granted", ["", "SELECT", "UPDATE", "SELECT (id), UPDATE (seen_at)"])
async def test_a_missing_permission_names_the_grant(dsn, things, granted):
    """The message can be pasted."""
    await things.execute("DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN PASSWORD 'x'")
    try:
        if granted:
            await things.execute(f"GRANT {granted} ON things TO poor")
        async with store_for(with_user(dsn, "poor", "x")) as store:
            with pytest.raises(StoreMisconfigured) as caught:
                await store.write(chunk([(1, AT)]))
            statement = str(caught.value).partition(": ")[2]
            assert statement == 'GRANT SELECT, UPDATE ON "things" TO "poor"'
            await things.execute(statement)
            await store.write(chunk([(1, AT)]))
    finally:
        await things.execute("DROP OWNED BY poor; DROP ROLE poor")
    assert (await seen(things)).keys() == {1}


async def test_what_makes_a_table_slow_is_logged_once(dsn, db):
    """Triggers, indexes on the column and a full fillfactor, each with what to do."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, name text, seen_at timestamptz);"
        "INSERT INTO things VALUES (1);"
        "CREATE INDEX by_time ON things (seen_at); CREATE INDEX by_name ON things (name);"
        "CREATE INDEX online ON things (id) WHERE seen_at IS NOT NULL;"
        "CREATE INDEX fine ON things USING brin (seen_at);"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER every BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION f();"
        "CREATE TRIGGER named BEFORE UPDATE OF name ON things FOR EACH ROW EXECUTE FUNCTION f();"
        "CREATE TRIGGER added BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION f()"
    )
    with capture_logs() as logs:
        async with store_for(dsn) as store:
            for second in (AT, AT + 1):
                await store.write(chunk([(1, second)]))
    (entry,) = [entry for entry in logs if entry["event"] == "table.advice"]
    assert (entry["log_level"], entry["target"], entry["table"]) == ("warning", "things", "things")
    assert [advice.partition(":")[0] for advice in entry["advice"]] == [
        "trigger every fires for each touch",
        "index by_time contains seen_at, so every touch writes all indexes",
        "index online contains seen_at, so every touch writes all indexes",
        "fillfactor is 100, so most touches write all indexes",
    ]


@pytest.mark.parametrize(("options", "advised"), [("WITH (fillfactor = 50)", 0), ("", 1)])
async def test_the_fillfactor_of_partitions_is_checked(dsn, db, options, advised):
    """The partitioned table itself has none."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, seen_at timestamptz) PARTITION BY HASH (id)"
    )
    await db.execute(partitions("things", 2, options))
    with capture_logs() as logs:
        async with store_for(dsn) as store:
            await store.write(chunk([(1, AT)]))
    assert len([entry for entry in logs if entry["event"] == "table.advice"]) == advised


@pytest.mark.parametrize("path", ["fast", "skip locked"])
async def test_a_stored_time_in_the_future_is_corrected_by_a_touch_and_counted(dsn, things, path):
    """An old bug or a restored dump must not keep a device online for ever."""
    await things.execute(
        "UPDATE things SET seen_at = now() + interval '1 year' WHERE id IN (1, 2, 4);"
        "UPDATE things SET seen_at = now() + interval '30 seconds' WHERE id = 3"
    )
    async with store_for(dsn) as store:
        entries = [(1, AT), (2, AT), (3, AT), (5, AT), (99, AT)]

        async def contended(*_: object) -> None:
            raise StoreContended("another writer")

        if path == "skip locked":
            store._write_fast = contended
        result = await store.write(chunk(entries))
    assert sorted(result.corrected) == [1, 2]
    assert (result.unchanged, list(result.missing), list(result.locked)) == (1, [99], [])
    stored = await seen(things)
    assert (stored[1], stored[2], stored[5]) == (when(AT), when(AT), when(AT))
    assert stored[3] > when(AT)  # small skew ends by itself
    assert stored[4] > when(AT)  # not touched


async def test_a_time_in_the_future_in_a_locked_row_is_corrected_by_the_next_flush(dsn, things):
    """It stays pending until then, and delays no other key."""
    await things.execute("UPDATE things SET seen_at = now() + interval '1 year' WHERE id <= 2")
    async with store_for(dsn) as store:
        async with locking(dsn, "SELECT FROM things WHERE id = 2 FOR UPDATE"):
            result = await store.write(chunk([(1, AT), (2, AT)]))
            assert (list(result.corrected), list(result.locked)) == ([1], [2])
        result = await store.write(chunk([(2, AT)]))
        assert (list(result.corrected), list(result.locked)) == ([2], [])
    assert await seen(things) == {1: when(AT), 2: when(AT)}
