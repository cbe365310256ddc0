"""The listing by when devices were last seen, page by page, with the overlay of pending touches."""

import base64
import uuid
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.fleet.cursors import Position, from_cursor, to_cursor
from api.fleet.listing import Ages, Listings, slice_statements
from api.fleet.pending import Pending
from api.postgres.database import open_database
from tests.support.service import Service
from tests.support.untimed import UNTIMED


async def names(service: Service, query: str) -> list[str]:
    return [device["display_name"] for device in await service.listing(f"family&{query}")]


async def page(service: Service, query: str = "") -> dict[str, Any]:
    response = await service.call("GET", f"/api/v1/devices?group_id=family{query}")
    assert response.status == 200, await response.text()
    return await response.json()


async def seen_ago(db: asyncpg.Connection, device_id: str, ago: str | None) -> None:
    await db.execute(
        "UPDATE devices SET last_seen_at = date_trunc('second', now()) - $2::text::interval "
        "WHERE device_id = $1",
        device_id,
        ago,
    )


async def test_devices_are_listed_by_when_they_were_seen(service, db):
    """Silent for so long or never, seen within so long, or both."""
    ages = {"now": "0 s", "day": "1 day 1 min", "month": "30 days", "never": None}
    for name, ago in ages.items():
        await seen_ago(db, await service.register(name=name), ago)
    service.tracker.buffers["devices"].drain()
    service.tracker.buffers["devices"].settle({})
    assert await names(service, "silent_for=1d") == ["day", "month", "never"]
    assert await names(service, "silent_for=2w") == ["month", "never"]
    assert await names(service, "silent_for=100w") == ["never"]
    assert await names(service, "seen_within=25h") == ["day", "now"]
    assert await names(service, "seen_within=1h") == ["now"]
    assert await names(service, "silent_for=1d&seen_within=4w") == ["day"]
    assert await names(service, "silent_for=4w&seen_within=1d") == []


async def test_a_stored_time_in_the_future_is_shown_as_now_and_corrected_by_a_touch(service, db):
    """An old bug or a restored dump must not show a device as online for ever."""
    device_id = await service.register()
    await service.tracker.flush()
    await seen_ago(db, device_id, "-1 year")
    now = await db.fetchval("SELECT now()")
    (device,) = await service.listing("family")
    assert abs(datetime.fromisoformat(device["last_seen_at"]) - now) < timedelta(minutes=1)
    groups = await (await service.call("GET", "/api/v1/groups")).json()
    shown = datetime.fromisoformat(groups["groups"][0]["last_seen_at"])
    assert abs(shown - now) < timedelta(minutes=1)
    await service.heartbeat(device_id)
    await service.tracker.flush()
    assert service.tracker.flushers["devices"].counts.corrected == 1
    stored = await db.fetchval("SELECT last_seen_at FROM devices")
    assert abs(stored - now) < timedelta(minutes=1)


async def test_a_device_that_was_touched_a_moment_ago_is_not_silent(service, db):
    """Although its row says so: the touch is not flushed yet."""
    device_id = await service.register()
    await service.tracker.flush()
    await seen_ago(db, device_id, "30 days")
    assert await names(service, "silent_for=7d") == ["Phone"]
    assert await names(service, "seen_within=1h") == []
    await service.heartbeat(device_id)
    assert await names(service, "silent_for=7d") == []
    assert await names(service, "seen_within=1h") == ["Phone"]
    await service.tracker.flush()
    assert await names(service, "silent_for=7d") == []
    assert await names(service, "seen_within=1h") == ["Phone"]


async def test_pages_follow_each_other_by_cursor(service):
    """Equal names are ordered by id, and the last page has no cursor."""
    for name in ("cc", "aa", "bb", "aa", "aa"):
        await service.register(name=name)
    everything = await page(service)
    assert everything["next_cursor"] is None
    found: list[dict[str, Any]] = []
    cursor, sizes = "", []
    while cursor is not None:
        part = await page(service, f"&limit=2{cursor and '&cursor=' + cursor}")
        found += part["devices"]
        sizes.append(len(part["devices"]))
        cursor = part["next_cursor"]
    assert (found, sizes) == (everything["devices"], [2, 2, 1])
    assert (await page(service, "&limit=5"))["next_cursor"] is None


async def test_a_cursor_works_after_its_device_was_renamed_or_deactivated(service):
    """If it was renamed or deactivated, no other device is skipped or repeated."""
    ids = {name: await service.register(name=name) for name in ("aa", "bb", "cc", "dd")}
    first = await page(service, "&limit=2")
    assert [device["display_name"] for device in first["devices"]] == ["aa", "bb"]
    await service.call("DELETE", f"/api/v1/devices/{ids['bb']}")
    renamed = {"device_id": ids["aa"], "display_name": "zz", "group_id": "family"}
    await service.call("POST", "/api/v1/devices/register", json=renamed)
    await service.register(name="ab")
    rest = await page(service, f"&limit=9&cursor={first['next_cursor']}")
    assert [device["display_name"] for device in rest["devices"]] == ["cc", "dd", "zz"]


async def test_a_page_is_full_although_pending_touches_exclude_rows(service, db):
    """The overlay comes before the limit."""
    ids = [await service.register(name=f"d{n:02}") for n in range(20)]
    await service.tracker.flush()
    await db.execute("UPDATE devices SET last_seen_at = '2020-01-01'")
    for device_id in ids[1:18]:
        await service.heartbeat(device_id)
    assert await names(service, "silent_for=7d&limit=2") == ["d00", "d18"]
    assert await names(service, "seen_within=7d&limit=2") == ["d01", "d02"]
    first = await page(service, "&silent_for=7d&limit=3")
    assert (len(first["devices"]), first["next_cursor"]) == (3, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("silent_for", text) for text in ("", "7", "7y", "0d", "-1d", "1.5h", "36501d", "d7")),
        ("seen_within", "soon"),
        ("seen_within", "1h&seen_within=1h"),
        *(("cursor", text) for text in ("", "x", "null", "W10", "%C3%BC", "W1tbW1tbW10", "AAAA=")),
        ("cursor", to_cursor(Position("a\0b", uuid.UUID(int=0)))),
        ("cursor", to_cursor(Position("ab", uuid.UUID(int=0))) + "A"),
        ("cursor", base64.urlsafe_b64encode(b'["ab", "no uuid"]').decode()),
    ],
)
async def test_a_bad_parameter_is_named(service, name, text):
    """For any group and any API key."""
    for key in (service.key, await service.make_key("others")):
        response = await service.call(
            "GET", f"/api/v1/devices?group_id=family&{name}={text}", key=key
        )
        assert response.status == 400
        body = await response.json()
        assert body["error"] == "invalid_query"
        assert f"`{name}`" in body["message"]


@UNTIMED
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.uuids())
def test_a_cursor_stands_for_its_position(display_name, device_id):
    """Any name that Postgres stores, in characters that need no escaping in a URL."""
    cursor = to_cursor(Position(display_name, device_id))
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert from_cursor(cursor) == (display_name, device_id)


async def test_a_huge_group_is_read_in_parts(dsn, db, service):
    """A page ends after a number of rows, even empty; the next continues without a gap."""
    ids = [await service.register(name=f"d{n:02}") for n in range(30)]
    await service.tracker.flush()
    await db.execute("UPDATE devices SET last_seen_at = '2020-01-01'")
    await seen_ago(db, ids[29], "1 min")
    async with open_database(dsn, service.settings.database, connections=1) as database:
        listings = Listings(
            database,
            Pending(service.tracker.buffers["devices"].view),
            ahead_s=300,
            most_rows=10,
        )
        found, pages, after = [], 0, None
        while pages == 0 or after is not None:
            part = await listings.page("family", limit=2, after=after, ages=Ages(at_most_s=3600))
            found += [device.device_id for device in part.devices]
            after, pages = part.next_cursor and from_cursor(part.next_cursor), pages + 1
    assert found == [ids[29]]
    assert pages > 2


async def test_names_that_a_collation_takes_for_equal_are_paged_by_id(service, db):
    """The order and the cursor compare by the column's own collation."""
    try:
        await db.execute(
            "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false);"
            "ALTER TABLE devices ALTER display_name TYPE text COLLATE caseless"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this Postgres is built without ICU; name another in TEST_DATABASE_URL")
    for name in ("bb", "AA", "aa", "Aa", "BB", "aA"):
        await service.register(name=name)
    ids, cursor = [], ""
    while cursor is not None:
        part = await page(service, f"&limit=1{cursor and '&cursor=' + cursor}")
        ids += [device["device_id"] for device in part["devices"]]
        cursor = part["next_cursor"]
    assert ids == [device["device_id"] for device in (await page(service))["devices"]]
    assert len(set(ids)) == 6


async def test_the_group_index_serves_the_listing(service, db):
    """In its order, with nothing sorted but a page, and no index on what touches write."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), md5(n::text), 'g' || n % 10, 'android' "
        "FROM generate_series(1, 20000) n; ANALYZE devices"
    )
    _, later = slice_statements(300)
    for mode in ("force_custom_plan", "force_generic_plan"):
        await db.execute(f"SET plan_cache_mode = {mode}")
        await db.execute(f"PREPARE {mode} (text, bigint, bigint, bigint, text, uuid) AS {later}")
        plan = await db.fetch(
            f"EXPLAIN EXECUTE {mode} ('g1', 101, 60, NULL, '8', gen_random_uuid())"
        )
        text = "\n".join(row[0] for row in plan)
        assert "Index Scan using devices_listing" in text
        assert "ROW(display_name, device_id) >" in text
    indexed = await db.fetchval("SELECT string_agg(indexdef, ' ') FROM pg_indexes")
    assert "last_seen_at" not in indexed
