"""Many writers and other transactions on the same rows: nothing is lost or moved backwards."""

import asyncio
import json
import random
import uuid

import asyncpg
import pytest

from tests.support.sample_table import AT, THINGS, chunk, partitions, when
from tracker import Target
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker.postgres import open_pool
from tracker.postgres._statements import arguments, statements
from tracker.postgres._store import PostgresStore

WRITERS = 4
HASH_PLAN = """
SET LOCAL enable_nestloop = off; SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on
"""


class Writers:
    """Several flushers of one table, each with connections of its own, and their results."""

    def __init__(self, pools, target: Target, chunk_keys: int, *, plan: str = "") -> None:
        self.expected: dict[object, int] = {}
        self.flushers = []
        for pool in pools:
            store = PostgresStore(pool, target, statement_timeout_s=60, lock_timeout_s=0.2)
            store._begin += f";{plan}" if plan else ""
            self.flushers.append(Flusher(Buffer(target), store, chunk_keys=chunk_keys))

    def touch(self, flusher: Flusher, key: object, at: int) -> None:
        flusher.buffer.touch(key, at=at)
        self.expected[key] = max(at, self.expected.get(key, 0))

    async def flush_until_nothing_is_pending(self, flusher: Flusher) -> None:
        while len(flusher.buffer):
            await flusher.flush()


async def run_writers(dsn: str, keys: list[int], chunk_keys: int, rounds: int, plan: str = ""):
    """Let four writers flush random touches of overlapping keys at the same time."""
    pools = [open_pool(dsn, connections=1, deadline_s=5) for _ in range(WRITERS)]
    opened = [await pool.__aenter__() for pool in pools]
    writers = Writers(opened, THINGS, chunk_keys, plan=plan)
    rng = random.Random(7)

    async def write(flusher: Flusher) -> None:
        for _ in range(rounds):
            for key in rng.sample(keys, k=max(1, len(keys) * 2 // 3)):
                writers.touch(flusher, key, AT + rng.randrange(1000))
            await writers.flush_until_nothing_is_pending(flusher)

    try:
        await asyncio.gather(*(write(flusher) for flusher in writers.flushers))
    finally:
        for pool in pools:
            await pool.__aexit__(None, None, None)
    return writers


async def make_things(db: asyncpg.Connection, count: int, *, parts: int = 0) -> list[int]:
    kind = "PARTITION BY HASH (id)" if parts else ""
    await db.execute(
        f"CREATE TABLE things (id bigint PRIMARY KEY, label text, seen_at timestamptz) {kind};"
        f"{partitions('things', parts)}"
    )
    # In random order, so that a scan of the table meets the rows in an order of its own.
    await db.execute(
        "INSERT INTO things SELECT n, 'thing' FROM generate_series(1, $1::int) n ORDER BY random()",
        count,
    )
    await db.execute("ANALYZE things")
    return list(range(1, count + 1))


async def assert_stored(db: asyncpg.Connection, writers: Writers) -> None:
    rows = await db.fetch("SELECT id, seen_at FROM things WHERE seen_at IS NOT NULL")
    assert {row[0]: row[1] for row in rows} == {
        key: when(at) for key, at in writers.expected.items()
    }
    for flusher in writers.flushers:
        counts = flusher.counts
        assert flusher.buffer.touches == (
            flusher.buffer.coalesced + counts.written + counts.unchanged
        )


@pytest.mark.parametrize(
    ("keys", "chunk_keys"), [(40, 1), (500, 37), (3000, 500), (20_000, 20_000)]
)
async def test_four_writers_with_overlapping_keys(dsn, db, keys, chunk_keys):
    """Chunks of any size: the latest touch of every key is stored, and no flush fails."""
    things = await make_things(db, keys)
    writers = await run_writers(dsn, things, chunk_keys, rounds=3)
    await assert_stored(db, writers)
    assert await deadlocks(db) == 0


async def join_of(connection: asyncpg.Connection, store: PostgresStore, keys: list[int]):
    """Return the plan of the join below the fast path's UPDATE."""
    await connection.execute(store._begin)
    (row,) = await connection.fetch(
        f"EXPLAIN (FORMAT JSON) {store._statements.fast}",
        *arguments(THINGS, chunk((key, AT) for key in keys)),
    )
    await connection.execute("ROLLBACK")
    update = json.loads(row[0])[0]["Plan"]
    assert update["Node Type"] == "ModifyTable"
    (join,) = (part for part in update["Plans"] if part["Parent Relationship"] == "Outer")
    return join


@pytest.mark.parametrize("setting", ["enable_nestloop", "enable_indexscan", "enable_hashjoin", ""])
@pytest.mark.parametrize(("rows", "analyzed_at"), [(1, 1), (50, 1), (50, 50), (20_000, 20_000)])
async def test_rows_are_locked_in_key_order_with_any_planner_settings(
    dsn, db, setting, rows, analyzed_at
):
    """For tables of any size, with fresh or stale statistics: ordered, not hashed or merged."""
    if setting:
        name = await db.fetchval("SELECT current_database()")
        await db.execute(f"ALTER DATABASE {name} SET {setting} = off")
    await make_things(db, analyzed_at)
    await db.execute(
        "INSERT INTO things SELECT generate_series($1::int + 1, $2)", analyzed_at, rows
    )
    connection = await asyncpg.connect(dsn)
    store = PostgresStore(None, THINGS, statement_timeout_s=5, lock_timeout_s=0.2)
    for keys in (1, 50, 2000):
        join = await join_of(connection, store, list(range(keys)))
        assert join["Node Type"] == "Nested Loop"
        outer = join["Plans"][0]
        # The sorted input, or the table by way of its index on the key: the order is the same.
        assert outer["Node Type"] in ("CTE Scan", "Index Scan"), outer
        assert outer.get("CTE Name", "pending") == "pending"
        assert outer.get("Index Name", "things_pkey") == "things_pkey"
    await connection.close()


@pytest.mark.parametrize(("keys", "chunk_keys"), [(40, 10), (3000, 500), (20_000, 20_000)])
async def test_four_writers_of_a_hash_partitioned_table(dsn, db, keys, chunk_keys):
    """The order of locks is that of the keys across all partitions, not that of partitions."""
    things = await make_things(db, keys, parts=8)
    writers = await run_writers(dsn, things, chunk_keys, rounds=3)
    await assert_stored(db, writers)
    assert await deadlocks(db) == 0


@pytest.mark.parametrize("rows", [1, 50, 20_000])
async def test_rows_of_partitions_are_locked_in_key_order(dsn, db, rows):
    """For each key, in order, only the partition that may have it is searched."""
    await make_things(db, rows, parts=8)
    connection = await asyncpg.connect(dsn)
    store = PostgresStore(None, THINGS, statement_timeout_s=5, lock_timeout_s=0.2)
    for keys in (1, 50, 2000):
        join = await join_of(connection, store, list(range(keys)))
        assert (join["Node Type"], join["Plans"][0].get("CTE Name")) == ("Nested Loop", "pending")
    await connection.close()


@pytest.mark.parametrize("setting", ["enable_nestloop", "enable_indexscan", "enable_hashjoin"])
async def test_the_order_of_locks_does_not_depend_on_the_servers_planner_settings(dsn, db, setting):
    """A database whose settings prefer hash joins gets the ordered nested loop all the same."""
    things = await make_things(db, 2000)
    name = await db.fetchval("SELECT current_database()")
    await db.execute(f"ALTER DATABASE {name} SET {setting} = off")
    writers = await run_writers(dsn, things, 1000, rounds=3)
    await assert_stored(db, writers)
    assert await deadlocks(db) == 0


@pytest.mark.parametrize(
    ("key_type", "sort_key"),
    [("bigint", "given.key"), ("uuid", "given.key"), ("text", 'given.key COLLATE "C"')],
)
async def test_a_chunk_is_sorted_before_its_rows_are_locked(db, key_type, sort_key):
    """Whatever order it arrives in, and alike for all writers, whatever the column's collation."""
    await db.execute(f"CREATE TABLE things (id {key_type} PRIMARY KEY, seen_at timestamptz)")
    target = Target(name="t", table="things", key_column="id", column="seen_at", key_type=key_type)
    keys = {"bigint": [2, 1], "uuid": [str(uuid.UUID(int=n)) for n in (2, 1)], "text": ["b", "a"]}
    written = statements(target)
    given = arguments(target, chunk((key, AT) for key in keys[key_type]))
    for statement in (written.fast, written.skip_locked):
        (row,) = await db.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *given)
        assert sorts_of_pending(json.loads(row[0])[0]["Plan"]) == [[sort_key]]


def sorts_of_pending(plan) -> list[list[str]]:
    """Return the sort keys of the CTE that holds what is to be written."""
    if plan.get("Subplan Name") == "CTE pending":
        return [plan["Sort Key"]] if plan["Node Type"] == "Sort" else [[]]
    return [found for part in plan.get("Plans", ()) for found in sorts_of_pending(part)]


async def test_a_plan_that_locks_in_another_order_loses_nothing(dsn, db):
    """Even if Postgres found a way to lock out of order, chunks that collide are written."""
    things = await make_things(db, 2000)
    writers = await run_writers(dsn, things, 1000, rounds=3, plan=HASH_PLAN)
    await assert_stored(db, writers)


async def deadlocks(db: asyncpg.Connection) -> int:
    await db.execute("SELECT pg_stat_force_next_flush()")
    return await db.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )


async def test_other_transactions_in_reverse_lock_order_see_no_deadlock(dsn, db):
    """Another application's transactions over the same rows see no deadlock and no error."""
    things = await make_things(db, 300)
    done = asyncio.Event()

    async def other_application() -> int:
        connection = await asyncpg.connect(dsn)
        transactions = 0
        while not done.is_set():
            async with connection.transaction():
                for key in reversed(things[::10]):
                    await connection.execute(
                        "UPDATE things SET label = $2 WHERE id = $1", key, uuid.uuid4().hex
                    )
            transactions += 1
        await connection.close()
        return transactions

    async def write() -> Writers:
        try:
            return await run_writers(dsn, things, 300, rounds=5)
        finally:
            done.set()

    writers, transactions = await asyncio.gather(write(), other_application())
    assert transactions > 0
    await assert_stored(db, writers)


async def test_flushes_are_heap_only_updates(dsn, db):
    """Touching every tenth of 50,000 devices again and again stays heap-only."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, fcm_token) "
        "SELECT gen_random_uuid(), 'Device ' || n, 'group', 'android', repeat('t', 140) "
        "FROM generate_series(1, 50000) n"
    )
    await db.execute("VACUUM ANALYZE devices")
    ids = [row[0] for row in await db.fetch("SELECT device_id::text FROM devices")]
    target = Target(
        name="devices",
        table="devices",
        key_column="device_id",
        column="last_seen_at",
        key_type="uuid",
    )
    async with open_pool(dsn, connections=1, deadline_s=5) as pool:
        (flusher,) = Writers([pool], target, 2000).flushers
        for round_ in range(10):
            for device_id in ids[::10]:
                flusher.buffer.touch(device_id, at=AT + round_)
            await flusher.flush()
    assert flusher.counts.written == 50_000
    # The writer's connection is closed, so its statistics have arrived.
    updates, hot = await db.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'devices'"
    )
    assert updates == 50_000
    assert hot >= 0.95 * updates
