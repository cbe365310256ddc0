"""Who is to blame for a write that fails or finds no row: a row, the table, or what is shown of it.

A row can be blamed only in a flush in which others are written, and only by trying.
"""

import uuid

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import with_user
from tests.support.sample_table import AT, THINGS, seen, when
from tests.support.stores import FlushRig
from tracker import FlushError, StoreMisconfigured, StoreUnavailable, Tracker

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF {condition} THEN RAISE 'refused' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.fixture
async def role(dsn, things):
    """A login role that may write things, and its DSN."""
    name = f"writer_{uuid.uuid4().hex[:8]}"
    await things.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT SELECT, UPDATE ON things TO {name};"
        "INSERT INTO things SELECT generate_series(11, 200)"
    )
    yield name, with_user(dsn, name, "x")
    await things.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def flushed(dsn: str, keys, **options) -> tuple[Tracker, FlushError | None]:
    """Touch keys, flush once, and stop without a second try."""
    tracker = Tracker(
        [THINGS], dsn=dsn, flush_interval_s=1000, shutdown_deadline_s=0.001, **options
    )
    error = None
    async with tracker.running():
        for key in keys:
            tracker.touch("things", key, AT)
        try:
            await tracker.flush()
        except FlushError as failed:
            error = failed
        tracker.pending_at_flush = len(tracker.buffers["things"])
    return tracker, error


@pytest.mark.parametrize("state", ["42501", "0A000", "42P01", "55000", "26000", "54000", "P0001"])
async def test_one_row_that_a_trigger_refuses_with_any_state_harms_no_other(things, role, state):
    """199 of 200 are written, and the row is rejected, though the state is that of a table."""
    await things.execute(REFUSE.format(condition="OLD.id = 77", state=state))
    tracker, error = await flushed(role[1], range(1, 201))
    assert error is None
    counts = tracker.flushers["things"].counts
    assert (counts.written, counts.rejected, counts.missing) == (199, 1, 0)
    assert (await seen(things)).keys() == set(range(1, 201)) - {77}


async def test_one_row_that_a_policy_refuses_harms_no_other(things, role):
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
async def test_a_trigger_that_refuses_all_rows_is_a_permanent_fault(things, role, state):
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
    """Not at once, as it may be over soon; and it is never blamed: the disk may be full."""
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


async def test_a_table_that_is_at_fault_for_a_moment_costs_no_touch():
    """A row is tried again before it is blamed: a permission may have been away for one chunk."""
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


async def test_only_a_row_that_fails_twice_while_the_table_is_in_order_is_blamed():
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


async def test_rows_that_are_not_shown_to_the_role_are_kept_and_said(things, role):
    """Row-level security without a policy shows no row: no touch of them is discarded."""
    await things.execute("ALTER TABLE things ENABLE ROW LEVEL SECURITY")
    tracker, error = await flushed(role[1], range(1, 201))
    assert isinstance(error.__cause__, StoreMisconfigured)
    assert "200 of 200 keys have no row" in str(error)
    assert f"row-level security applies to the role {role[0]}" in str(error)
    assert tracker.pending_at_flush == 200
    counts = tracker.flushers["things"].counts
    assert (counts.missing, counts.hidden) == (0, 200)


async def test_most_rows_that_are_suddenly_not_shown_are_kept(things, role):
    """A policy that is changed while the tracker runs. A row that is gone is missing as before."""
    await things.execute(
        "ALTER TABLE things ENABLE ROW LEVEL SECURITY;CREATE POLICY all_rows ON things USING (true)"
    )
    tracker = Tracker([THINGS], dsn=role[1], flush_interval_s=1000)
    async with tracker.running():
        counts = tracker.flushers["things"].counts
        for key in range(1, 202):
            tracker.touch("things", key, AT)
        await tracker.flush()
        assert (counts.written, counts.missing) == (200, 1)
        await things.execute("ALTER POLICY all_rows ON things USING (id <= 5)")
        for key in range(1, 202):
            tracker.touch("things", key, AT + 1)
        with pytest.raises(FlushError, match="196 of 201 keys have no row"):
            await tracker.flush()
        assert len(tracker.buffers["things"]) == counts.hidden == 196
        await things.execute("ALTER POLICY all_rows ON things USING (true)")
        await tracker.flush()
        assert (counts.written, counts.missing, counts.hidden) == (400, 2, 0)
    assert set((await seen(things)).values()) == {when(AT + 1)}


async def test_rows_in_a_namesake_on_the_search_path_are_not_believed_to_be_missing(
    dsn, db, things
):
    """Another table of that name hides the real one, unless the target names its schema."""
    await db.execute(
        "CREATE SCHEMA other;"
        "CREATE TABLE other.things (id bigint PRIMARY KEY, seen_at timestamptz);"
    )
    name = await db.fetchval("SELECT current_database()")
    await db.execute(f'ALTER DATABASE "{name}" SET search_path = other, public')
    tracker, error = await flushed(dsn, [1, 2])
    assert "there is public.things, too: write the schema" in str(error)
    assert tracker.pending_at_flush == 2


async def test_rows_that_are_gone_from_a_table_that_shows_all_are_missing(dsn, things):
    """Where it can be told, it is: an emptied table keeps nothing pending."""
    await things.execute("DELETE FROM things")
    with capture_logs() as logs:
        tracker, error = await flushed(dsn, range(1, 201))
    assert error is None
    assert tracker.flushers["things"].counts.missing == 200
    assert [entry["keys"] for entry in logs if entry["event"] == "flush.rows_missing"] == [200]


async def test_a_store_that_cannot_say_whether_it_hides_rows_keeps_them():
    """The connection may be lost between the write and the question."""
    rig = FlushRig()
    rig.touch(1, 2)
    rig.store.known = set()

    async def away() -> str | None:
        raise StoreUnavailable("away")

    asked, rig.store.hides_rows = rig.store.hides_rows, away
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert len(rig.buffer) == 2
    rig.assert_books_balance()
    rig.store.hides_rows = asked
    await rig.flush()
    assert rig.flusher.counts.missing == 2
    rig.assert_books_balance()


async def test_what_is_rejected_beside_hidden_rows_stays_pending_with_them():
    """A flush that is not believed blames no row either, and the books balance."""
    rig = FlushRig(chunk_keys=500)
    rig.touch(*range(300))
    await rig.flush()
    rig.clock.now += 1
    rig.touch(*range(300))
    rig.store.known, rig.store.rejected, rig.store.hidden = set(range(5)), {3}, "a policy"
    with pytest.raises(StoreMisconfigured, match=r"295 of 300 .*: a policy"):
        await rig.flush()
    assert set(rig.buffer.view().latest(list(range(300)))) == {0, int(rig.clock.now)}
    assert rig.buffer.view().get(3)
    rig.assert_books_balance()
    rig.store.known = None
    await rig.flush()
    assert rig.flusher.counts.rejected == 1
    rig.assert_books_balance()


async def test_a_few_missing_keys_beside_others_are_believed_without_a_question():
    """Deleted rows are normal; no statement is spent on them."""
    rig = FlushRig()
    rig.touch(*range(10))
    rig.store.known, rig.store.hidden = set(range(3)), "not asked"
    await rig.flush()
    assert rig.flusher.counts.missing == 7
