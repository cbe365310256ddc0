"""A write that fails: whether a row or the table is the cause.

A row is rejected only in a flush that writes other rows, and only after it was written alone.
"""

import asyncpg
import pytest

from tests.support.sample_table import AT, THINGS, seen
from tests.support.stores import FlushRig
from tests.support.writer_role import flushed, writer_role
from tracker import FlushError, StoreMisconfigured, StoreTimeout, StoreUnavailable, Tracker

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF {condition} THEN RAISE 'refused' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.fixture
async def role(dsn, things):
    async with writer_role(dsn, things) as role:
        yield role


@pytest.mark.parametrize("state", ["42501", "0A000", "42P01", "55000", "26000", "54000", "P0001"])
async def test_a_row_that_a_trigger_rejects_affects_no_other_row(things, role, state):
    """199 of 200 are written, and the row is rejected, although its SQLSTATE is that of a table."""
    await things.execute(REFUSE.format(condition="OLD.id = 77", state=state))
    tracker, error = await flushed(role[1], range(1, 201))
    assert error is None
    counts = tracker.flushers["things"].counts
    assert (counts.written, counts.rejected, counts.missing) == (199, 1, 0)
    assert (await seen(things)).keys() == set(range(1, 201)) - {77}


async def test_a_row_that_a_policy_rejects_affects_no_other_row(things, role):
    """A policy's WITH CHECK raises 42501, which else means a missing permission."""
    await things.execute(
        "ALTER TABLE things ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY reads ON things FOR SELECT USING (true);"
        "CREATE POLICY writes ON things FOR UPDATE USING (true) WITH CHECK (id <> 77)"
    )
    tracker, error = await flushed(role[1], range(1, 201))
    assert error is None
    counts = tracker.flushers["things"].counts
    assert (counts.written, counts.rejected) == (199, 1)


@pytest.mark.parametrize("state", ["42501", "55000"])
async def test_a_trigger_that_rejects_all_rows_is_a_permanent_error(things, role, state):
    """Nothing is dropped, and the error is that of the table."""
    await things.execute(REFUSE.format(condition="true", state=state))
    tracker, error = await flushed(role[1], range(1, 201))
    assert isinstance(error.__cause__, StoreMisconfigured)
    assert tracker.flush_loops["things"].permanent_error is not None
    assert tracker.pending_at_flush == 200
    assert tracker.flushers["things"].counts.rejected == 0


async def test_to_find_the_table_at_fault_takes_a_bounded_number_of_writes():
    """However many keys there are; none is dropped."""
    rig = FlushRig(chunk_keys=5000)
    rig.touch(*range(20_000))
    rig.store.refused = dict.fromkeys(range(20_000), StoreMisconfigured("denied"))
    writes = 0

    def count() -> None:
        nonlocal writes
        writes += 1

    rig.store.before = count
    with pytest.raises(StoreMisconfigured, match="more than 100 rows are rejected"):
        await rig.flush()
    assert writes < 500
    assert len(rig.buffer) == 20_000
    rig.assert_books_balance()


@pytest.mark.parametrize("state", ["53100", "40001", "57P01", "25006", "XX000"])
async def test_one_row_that_fails_with_a_temporary_error_keeps_no_other_from_being_written(
    things, role, state
):
    """Not at once, as it may be over soon; and the row is never rejected: the disk may be full."""
    await things.execute(REFUSE.format(condition="OLD.id = 77", state=state))
    tracker = Tracker([THINGS], dsn=role[1], flush_interval_s=1000, shutdown_deadline_s=0.001)
    async with tracker.running():
        for key in range(1, 201):
            tracker.touch("things", key, AT)
        for _ in range(3):
            with pytest.raises(FlushError, match=f"SQLSTATE {state}"):
                await tracker.flush()
        counts = tracker.flushers["things"].counts
        assert (counts.written, counts.rejected, counts.failed) == (199, 0, 3)
        assert tracker.pending("things").get(77) == AT
        await things.execute("DROP TRIGGER refuse ON things")
        await tracker.flush()
        assert counts.written == 200


async def test_a_temporary_error_of_all_rows_costs_a_bounded_number_of_writes():
    """However many keys there are, and at every flush."""
    rig = FlushRig(chunk_keys=5000)
    rig.touch(*range(20_000))
    rig.store.refused = dict.fromkeys(range(20_000), StoreUnavailable("full"))
    for at_most in (1, 100, 100):
        writes = len(rig.store.tried)
        with pytest.raises(StoreUnavailable, match="full"):
            await rig.flush()
        assert len(rig.store.tried) - writes <= at_most
    assert len(rig.buffer) == 20_000
    rig.assert_books_balance()


async def test_a_publication_without_a_replica_identity_is_permanent(dsn, db):
    """55000 for a table without a primary key in a publication of updates."""
    await db.execute(
        "CREATE TABLE things (id bigint NOT NULL, seen_at timestamptz);"
        "CREATE UNIQUE INDEX ON things (id); INSERT INTO things VALUES (1), (2);"
        "CREATE PUBLICATION p FOR TABLE things"
    )
    tracker, error = await flushed(dsn, [1, 2])
    assert isinstance(error.__cause__, StoreMisconfigured)
    assert "replica identity" in str(error)
    assert tracker.pending_at_flush == 2


async def test_a_brief_fault_of_the_table_rejects_no_row():
    """A row is tried again before it is rejected: a permission may be missing for a moment."""
    rig = FlushRig(chunk_keys=1)
    rig.touch(1, 2, 3)
    errors = iter([None, StoreMisconfigured("denied"), None])

    def fail_once() -> None:
        if error := next(errors, None):
            raise error

    rig.store.before = fail_once
    await rig.flush()
    assert rig.store.rows.keys() == {1, 2, 3}
    assert rig.flusher.counts.rejected == 0


async def test_only_a_row_that_fails_twice_is_rejected():
    """And a table that is at fault is reported as it is, after one try without rows."""
    rig = FlushRig()
    rig.touch(*range(10))
    rig.store.refused = {3: StoreMisconfigured("denied")}
    await rig.flush()
    assert (rig.flusher.counts.written, rig.flusher.counts.rejected) == (9, 1)
    rig.touch(*range(10, 20))
    rig.store.table_error = StoreMisconfigured("gone")
    with pytest.raises(StoreMisconfigured, match=r"^gone$"):
        await rig.flush()
    assert len(rig.buffer) == 10
    rig.assert_books_balance()


async def test_a_statement_that_the_pool_ends_is_divided_as_one_that_the_server_ends(dsn, things):
    """A pool's `command_timeout` of 0.4 s, and a trigger for which 200 rows take longer."""
    await things.execute(
        "INSERT INTO things SELECT generate_series(11, 200);"
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_sleep(0.004); RETURN NEW; END $$; "
        "CREATE TRIGGER slow BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2, command_timeout=0.4) as pool:
        tracker = Tracker([THINGS], pool=pool, flush_interval_s=1000)
        async with tracker.running():
            for key in range(1, 201):
                tracker.touch("things", key, AT)
            await tracker.flush()
            assert tracker.flushers["things"].counts.written == 200


async def test_one_row_that_is_always_slow_holds_up_no_other(dsn, things):
    """It stays pending, and the others of its chunk are written in the second flush."""
    await things.execute(
        "INSERT INTO things SELECT generate_series(11, 60);"
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.id = 7 THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER slow BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    tracker = Tracker(
        [THINGS], dsn=dsn, statement_timeout_s=0.1, lock_timeout_s=0.05, flush_interval_s=1000
    )
    async with tracker.running():
        for key in range(1, 61):
            tracker.touch("things", key, AT)
        for _ in range(2):
            with pytest.raises(FlushError, match="statement timeout"):
                await tracker.flush()
        assert tracker.flushers["things"].counts.written == 59
        assert tracker.pending("things").latest([6, 7]) == [0, AT]
        await things.execute("DROP TRIGGER slow ON things")
        await tracker.flush()
        assert len(tracker.buffers["things"]) == 0
    assert (await seen(things)).keys() == set(range(1, 61))


async def test_a_server_on_which_every_statement_is_slow_is_not_asked_row_by_row():
    """Few statements of a flush run into their time limit; all touches stay pending."""
    rig = FlushRig(chunk_keys=50)
    rig.touch(*range(50))
    writes = []

    def take_too_long() -> None:
        writes.append(1)
        raise StoreTimeout("slow")

    rig.store.before = take_too_long
    for at_most in (1, 13, 13):
        writes.clear()
        with pytest.raises(StoreTimeout):
            await rig.flush()
        assert len(writes) <= at_most
    assert len(rig.buffer) == 50
    rig.assert_books_balance()
