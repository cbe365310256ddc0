"""Rows that a flush does not find: gone, or hidden from the role."""

import pytest
from structlog.testing import capture_logs

from tests.support.sample_table import AT, THINGS, seen, when
from tests.support.stores import FlushRig
from tests.support.writer_role import flushed, writer_role
from tracker import FlushError, StoreMisconfigured, StoreUnavailable, Tracker


@pytest.fixture
async def role(dsn, things):
    async with writer_role(dsn, things) as role:
        yield role


async def test_touches_of_rows_that_the_role_cannot_see_are_kept_and_reported(things, role):
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


async def test_rows_hidden_by_another_table_of_that_name_do_not_count_as_missing(dsn, db, things):
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
    """If the server shows all rows, touches of an emptied table do not stay pending."""
    await things.execute("DELETE FROM things")
    with capture_logs() as logs:
        tracker, error = await flushed(dsn, range(1, 201))
    assert error is None
    assert tracker.flushers["things"].counts.missing == 200
    assert [entry["keys"] for entry in logs if entry["event"] == "flush.rows_missing"] == [200]


async def test_touches_are_kept_if_the_store_cannot_tell_whether_rows_are_hidden():
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
    """A flush with hidden rows rejects no row either, and the counts balance."""
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


async def test_a_few_missing_keys_among_others_are_counted_without_a_query():
    """Deleted rows are normal; they cost no further statement."""
    rig = FlushRig()
    rig.touch(*range(10))
    rig.store.known, rig.store.hidden = set(range(3)), "not asked"
    await rig.flush()
    assert rig.flusher.counts.missing == 7
