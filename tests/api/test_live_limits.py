"""What live streams cost: limits, memory, crashes, and large groups in pieces."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from api.live import group, hub, queries, snapshot
from api.live.snapshot import GroupSnapshot
from tests.support.live_groups import no_streams_left, stored
from tests.support.service import running
from tests.support.sse import PATIENCE_S, live


@pytest.fixture(autouse=True)
def fast_ticks(monkeypatch):
    """Ticks come ten times a second."""
    monkeypatch.setattr(group, "TICK_S", 0.1)
    monkeypatch.setattr(group, "_REFRESH_EVERY_S", 0.2)


async def test_a_stream_beyond_the_limit_gets_503_until_another_has_ended(dsn):
    """The service counts a stream until it notices that the client has disconnected."""
    async with running(dsn, live={"max_streams": 2}) as service:
        other, third = await service.make_key(), await service.make_key()
        async with live(service.client, service.key), live(service.client, other, "others"):
            # A key without streams: the limit per API key does not apply to it.
            response = await service.call("GET", "/api/v1/live?group_id=family", key=third)
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            body = await response.json()
            assert body["error"] == "too_many_streams"
            assert "live.max_streams" in body["message"]
        await no_streams_left(service)
        async with live(service.client, service.key) as seen:
            await seen.until(lambda _: seen.ticks)


async def test_denied_streams_of_many_groups_leave_nothing_in_memory(dsn):
    """A request without a stream, such as HEAD, takes no place of a stream."""
    async with (
        running(dsn, live={"max_streams": 4}) as service,
        live(service.client, service.key) as seen,
    ):
        for number in range(20):
            response = await service.call("HEAD", f"/api/v1/live?group_id=group-{number}")
            assert response.status == 200
        ticks = seen.ticks
        await seen.until(lambda _: seen.ticks > ticks + 2)


async def test_streams_that_end_leave_nothing_in_memory(service, db):
    """Neither tasks nor counts nor groups, nor a connection that is in use."""
    await stored(db, "A")
    before = set(map(asyncio.Task.get_name, asyncio.all_tasks()))
    for batch in range(20):
        async with AsyncExitStack() as stack:
            for number in range(20):
                watching = live(service.client, service.key, f"group-{(batch + number) % 5}")
                await stack.enter_async_context(watching)
    await no_streams_left(service)
    async with asyncio.timeout(PATIENCE_S):
        while any(
            name not in before and not name.startswith("Task-")
            for name in map(asyncio.Task.get_name, asyncio.all_tasks())
        ):
            await asyncio.sleep(0.05)
    assert (await service.metrics()).total("database_in_use_connections", pool="live") == 0


async def test_a_stream_beyond_the_limit_of_watched_devices_gets_503(service, db, monkeypatch):
    """Open streams continue, and others may watch the same group."""
    monkeypatch.setattr(hub, "_MAX_DEVICES", 3)
    await stored(db, "A", "B")
    await stored(db, "C", "D", group_id="others")
    async with live(service.client, service.key) as seen:
        response = await service.call("GET", "/api/v1/live?group_id=others")
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["error"] == "too_many_streams"
        async with live(service.client, service.key) as other:
            await other.until(lambda _: other.ticks > 1)
        ticks = seen.ticks
        await seen.until(lambda _: seen.ticks > ticks + 2)
    await no_streams_left(service)
    async with asyncio.timeout(PATIENCE_S):
        while any(task.get_name() == "live-family" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.05)
    async with live(service.client, service.key, "others") as seen:
        assert len(seen.devices) == 2


async def test_a_crash_of_the_snapshot_ends_streams_and_is_logged_once(service, monkeypatch):
    """So that clients retry as after a denied stream, not in a fast loop."""
    monkeypatch.setattr(GroupSnapshot, "changes", None)
    with capture_logs() as logs:
        for _ in range(2):
            response = await service.call("GET", "/api/v1/live?group_id=family")
            assert response.status == 503
    monkeypatch.undo()
    monkeypatch.setattr(group, "TICK_S", 0.1)
    with capture_logs() as later:
        async with live(service.client, service.key) as seen:
            monkeypatch.setattr(GroupSnapshot, "changes", None)
            assert await seen.ends() == "unavailable"
            assert seen.hellos == 1
    crashes = [entry for entry in logs + later if entry["event"] == "live.crashed"]
    assert [(entry["group_id"], entry["times"]) for entry in crashes] == [("family", 1)]


async def test_a_group_with_too_many_numbers_starts_a_new_snapshot(service, db, monkeypatch):
    """Watchers get a new snapshot, and see what all others see."""
    monkeypatch.setattr(snapshot, "_MAX_NUMBERS", 2)
    (first,) = await stored(db, "A")
    async with live(service.client, service.key) as seen:
        (second, third) = await stored(db, "B", "C")
        await seen.until(lambda _: seen.hellos == 2 and seen.ready)
        assert {one["device_id"] for one in seen.devices.values()} == {first, second, third}


async def test_the_number_of_devices_beyond_the_limit_is_sent(service, db, monkeypatch):
    """For a group that fitted when the stream began, and for one that grows at its end."""
    monkeypatch.setattr(group, "_REFRESHES_PER_COUNT", 1)
    monkeypatch.setattr(group, "MAX_DEVICES", 2)
    monkeypatch.setattr(queries, "_SUMMARY", queries._SUMMARY.replace("LIMIT 10000", "LIMIT 2"))
    await stored(db, "A")
    async with live(service.client, service.key) as seen:
        assert seen.hello["of"] == 1
        await stored(db, "B")
        await seen.until(lambda _: seen.hello["of"] == 2)
        await stored(db, "C", "D")
        await seen.until(lambda _: seen.hello["of"] == 4)
        assert len(seen.devices) == 2


async def test_ten_thousand_devices_are_sent_in_pieces_without_a_stall(service, db):
    """The first of them by name, with their positions, and all is right to the last."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
        "SELECT gen_random_uuid(), to_char(i, 'FM00000'), 'family', 'p', to_timestamp(1000 + i) "
        "FROM generate_series(1, 10010) i"
    )
    await db.execute(
        "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
        "SELECT device_id, to_timestamp(display_name::int), 1, 2, 3 FROM devices"
    )
    async with live(service.client, service.key) as seen:
        assert (seen.hello["devices"], seen.hello["of"]) == (10_000, 10_010)
        shown = {one["display_name"]: one for one in seen.devices.values()}
        assert len(shown) == 10_000
        for i in range(1, 10_001):
            one = shown[f"{i:05}"]
            assert (one["seen"], one["location"]) == (1000 + i, [1, 2, 3, 1000 * i])
        last = shown["10000"]["device_id"]
        for one in shown.values():
            service.tracker.touch("devices", one["device_id"])
        await seen.until(lambda _: seen.named(last)["seen"] > 20_000)
        assert min(one["seen"] for one in seen.devices.values()) > 20_000
