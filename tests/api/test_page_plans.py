"""Tables are read in pages by an index: a page costs the same, whatever is behind it."""

import pytest

from api.access import device_feed
from api.live import queries
from api.presence import statements

NIL = "'00000000-0000-0000-0000-000000000000'"


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (device_feed._PAGE, NIL),
        (queries._PAGE, f"'family', '', {NIL}"),
        (statements.LOAD, f"900, {NIL}"),
        (statements.LOAD_GROUP, f"900, {NIL}, 'family'"),
    ],
)
async def test_a_page_is_read_in_the_order_of_an_index(db, statement, arguments):
    """A cast column in the list of a SELECT has its name, and ORDER BY would mean the cast."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), 'Phone', 'family', 'android' FROM generate_series(1, 20000)"
    )
    await db.execute("ANALYZE devices")
    await db.execute(f"PREPARE page AS {statement}")
    rows = await db.fetch(f"EXPLAIN EXECUTE page ({arguments})")
    plan = "\n".join(row[0] for row in rows)
    assert "Index" in plan
    assert "Sort" not in plan, plan
