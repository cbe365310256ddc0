"""How a write fails: permanent, temporary and row errors, timeouts, and closed sessions."""

import asyncio
import uuid

import asyncpg
import pytest

from tests.conftest import with_database, with_user
from tests.support.postgres_store import store_for
from tests.support.sample_table import AT, THINGS, chunk, locking, seen, when
from tracker import (
    FlushError,
    RowRejected,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    Target,
    Tracker,
)
from tracker.postgres import open_pool
from tracker.postgres._store import PostgresStore


async def test_a_locked_table_is_a_temporary_error(dsn, things):
    """A migration that holds the table makes a flush fail soon, not hang."""
    async with (
        store_for(dsn) as store,
        locking(dsn, "LOCK TABLE things IN ACCESS EXCLUSIVE MODE"),
    ):
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await store.write(chunk([(1, AT)]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("DROP TABLE things", StoreMisconfigured, 'relation "things" does not exist'),
        (
            "ALTER TABLE things RENAME seen_at TO other",
            StoreMisconfigured,
            "seen_at does not exist",
        ),
        ("ALTER ROLE {role} SET default_transaction_read_only = on", StoreUnavailable, "read-only"),
        ("ALTER TABLE things ADD CHECK (id <> 1) NOT VALID", RowRejected, "check constraint"),
        ("{trigger} RAISE 'no'; {end}", RowRejected, "raised by PL/pgSQL function refuse"),
        ("{trigger} RAISE 'full' USING ERRCODE = '53100'; {end}", StoreUnavailable, "53100"),
        ("{trigger} RAISE 'own' USING ERRCODE = 'ZZ001'; {end}", RowRejected, "ZZ001"),
        ("{trigger} PERFORM pg_sleep(60); {end}", StoreTimeout, "statement timeout"),
    ],
)
async def test_permanent_temporary_and_row_errors_are_distinguished(
    dsn, things, change, error, message
):
    """Permanent errors, temporary errors and errors of one row are three classes."""
    role = f"writer_{uuid.uuid4().hex[:8]}"
    trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    end = (
        "RETURN NEW; END $$; CREATE TRIGGER refuse BEFORE UPDATE ON things "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    await things.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON things TO {role}")
    try:
        await things.execute(change.format(role=role, trigger=trigger, end=end))
        async with store_for(with_user(dsn, role, "x"), statement_timeout_s=0.3) as store:
            with pytest.raises(error, match=message) as caught:
                await store.write(chunk([(1, AT)]))
        assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
        assert not [said for said in ("no (", "full", "own") if str(caught.value).startswith(said)]
    finally:
        await things.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_missing_database_is_a_permanent_error(dsn):
    """A wrong name does not get better by itself."""
    async with store_for(with_database(dsn, "no_such_database")) as store:
        with pytest.raises(StoreMisconfigured, match="does not exist"):
            await store.write(chunk([(1, AT)]))


async def test_an_unreachable_server_is_a_temporary_error():
    """A server that is away may come back."""
    async with store_for("postgresql://postgres@127.0.0.1:1/postgres") as store:
        with pytest.raises(
            StoreUnavailable, match="no server listens at its address: Connect call"
        ):
            await store.write(chunk([(1, AT)]))


async def test_an_error_leaves_the_connection_usable(dsn, things):
    """After a refused row the same connection goes on: splitting a chunk reconnects nothing."""
    await things.execute("ALTER TABLE things ADD CHECK (id <> 1) NOT VALID")
    async with open_pool(dsn, connections=1, deadline_s=5) as pool:
        store = PostgresStore(pool, THINGS, statement_timeout_s=3, lock_timeout_s=0.05)
        backend = await pool.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(RowRejected):
            await store.write(chunk([(1, AT)]))
        await store.write(chunk([(2, AT)]))
        assert await pool.fetchval("SELECT pg_backend_pid()") == backend
    assert await seen(things) == {2: when(AT)}


async def test_a_read_only_session_is_closed(dsn, things):
    """After a fail-over it may be a session of a standby; a new one may reach the primary."""
    role = f"writer_{uuid.uuid4().hex[:8]}"
    await things.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON things TO {role}")
    try:
        await things.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        async with store_for(with_user(dsn, role, "x")) as store:
            with pytest.raises(StoreUnavailable, match="read-only"):
                await store.write(chunk([(1, AT)]))
            await things.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
            await store.write(chunk([(1, AT)]))
    finally:
        await things.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert await seen(things) == {1: when(AT)}


async def test_a_statement_that_timed_out_is_cancelled(dsn, things):
    """Timeouts pile up no backends, which would use up the server's connections, and no noise."""
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    async with (
        store_for(dsn, statement_timeout_s=30, lock_timeout_s=20) as store,
        locking(dsn, "LOCK TABLE things IN ACCESS EXCLUSIVE MODE"),
    ):
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.write(chunk([(1, AT)]))
        async with asyncio.timeout(30):
            while await things.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database()"
            ):
                await asyncio.sleep(0.01)
    assert noise == []


async def test_a_pool_with_unsuitable_codecs_rejects_no_row(dsn, db):
    """When every key is refused on the client's side, nothing is dropped."""
    await db.execute("CREATE TABLE things (id bigint PRIMARY KEY, seen_at timestamptz)")
    target = Target(name="t", table="things", key_column="id", column="seen_at", key_type="bigint")

    async def spoil(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(
            "int8", schema="pg_catalog", encoder=lambda n: n.bytes, decoder=str, format="binary"
        )

    async with asyncpg.create_pool(dsn, min_size=1, max_size=1, init=spoil) as pool:
        tracker = Tracker([target], pool=pool, shutdown_deadline_s=0.1)
        async with tracker.running():
            for n in range(200):
                tracker.touch("t", n)
            with pytest.raises(FlushError, match="more than 100 rows are rejected"):
                await tracker.flush()
            assert len(tracker.buffers["t"]) == 200


async def test_a_pool_with_its_own_codec_for_uuids_works(dsn, db):
    """Applications may choose how uuids are decoded by their pool."""
    await db.execute("CREATE TABLE things (id uuid PRIMARY KEY, seen_at timestamptz)")
    await db.execute("INSERT INTO things VALUES ($1)", uuid.UUID(int=1))
    target = Target(name="t", table="things", key_column="id", column="seen_at", key_type="uuid")

    async def own(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(
            "uuid", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary"
        )

    async with asyncpg.create_pool(dsn, min_size=1, max_size=1, init=own) as pool:
        tracker = Tracker([target], pool=pool)
        async with tracker.running():
            for n in (1, 2):
                tracker.touch("t", uuid.UUID(int=n))
            await tracker.flush()
            counts = tracker.flushers["t"].counts
            assert (counts.written, counts.missing, len(tracker.buffers["t"])) == (1, 1, 0)
