"""Many events at once are moved to the log as fast as few, whatever plan Postgres has made."""

import json
from collections.abc import Iterator
from typing import Any

from api.events.sequencer import _statement

EVENTS = 2000
EMIT = """
INSERT INTO event_outbox (device_id, seq, type, group_id, at)
SELECT gen_random_uuid(), 1, 'device.offline', 'vans', now() FROM generate_series(1, $1::integer)
"""


async def test_a_plan_for_an_empty_outbox_reads_no_event_many_times(db):
    """The plan is kept; it is made when there is nothing to move, as almost always."""
    await db.execute("VACUUM ANALYZE event_outbox")
    await db.execute(f"PREPARE move AS {_statement(60)}")
    await db.execute("EXECUTE move")
    await db.execute(EMIT, EVENTS)
    ((plan,),) = await db.fetch("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE move")
    read = sum(
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Join Filter", 0))
        for node in nodes(json.loads(plan)[0]["Plan"])
        if node["Node Type"] in {"Nested Loop", "Seq Scan"}
    )
    assert await db.fetchval("SELECT count(*) FROM device_events") == 500
    assert read < 5 * EVENTS


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return all nodes of a plan."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)
