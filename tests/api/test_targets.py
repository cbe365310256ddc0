"""A target is added in one place: the list in api/targets.py."""

from api import targets
from api.targets import TrackedColumn
from tests.support.service import running
from tests.support.sse import live

GROUPS = TrackedColumn(
    name="groups",
    label="Groups",
    table="groups",
    key_column="group_id",
    column="last_active_at",
    key_type="text",
    touched_by="group_id",
)


async def test_a_third_target_takes_one_entry_of_one_list(dsn, db, monkeypatch):
    """It is touched, written, measured, recovered and shown like the other two."""
    await db.execute(
        "CREATE TABLE groups (group_id text PRIMARY KEY, last_active_at timestamptz);"
        "INSERT INTO groups VALUES ('work'), ('family')"
    )
    monkeypatch.setattr(targets, "TRACKED", [*targets.TRACKED, GROUPS])
    async with running(dsn) as service:
        key = await service.make_key("work")
        device_id = await service.register("work")
        assert (await service.heartbeat(device_id, key=key)).status == 204
        metrics = await service.metrics()
        assert metrics.total("activity_touches_total", target="groups") == 1
        assert metrics.total("activity_journal_capacity_bytes", target="groups") > 0
        async with live(service.client, service.key, "work") as stream:
            await stream.until(lambda seen: seen.service)
            shown = stream.service
        assert list(shown) == ["devices", "api_keys", "groups"]
        assert (shown["groups"]["label"], shown["groups"]["pending"]) == ("Groups", 1)
        await service.tracker.flush()
    rows = await db.fetch("SELECT group_id FROM groups WHERE last_active_at IS NOT NULL")
    assert [row[0] for row in rows] == ["work"]
