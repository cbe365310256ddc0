"""Groups over HTTP: which there are, how many active devices each has, when one was last seen."""

from typing import Any

import pytest

from tests.support.service import Service, seconds


async def groups(service: Service, **options: Any) -> list[dict[str, Any]]:
    response = await service.call("GET", "/api/v1/groups", **options)
    assert response.status == 200, await response.text()
    return (await response.json())["groups"]


async def test_groups_are_listed_by_id_with_their_active_devices(service):
    """A device that was deactivated counts no more, nor does a group that only it was in."""
    for group in ("zz", "aa", "aa", "left"):
        device_id = await service.register(group)
    assert (await service.call("DELETE", f"/api/v1/devices/{device_id}")).status == 204
    assert [(one["group_id"], one["devices"]) for one in await groups(service)] == [
        ("aa", 2),
        ("zz", 1),
    ]


async def test_the_time_of_a_group_is_that_of_its_newest_active_device(service, db):
    """In whole seconds; infinity is no time, and deactivated devices do not count."""
    for name, seen, active in (
        ("older", "2020-01-01 00:00:00+00", True),
        ("newer", "2021-01-01 00:00:00.75+00", True),
        ("gone", "2022-01-01 00:00:00+00", False),
        ("for ever", "infinity", True),
    ):
        await db.execute(
            "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at, "
            f"is_active) VALUES (gen_random_uuid(), $1, 'family', 'android', '{seen}', $2)",
            name,
            active,
        )
    (group,) = await groups(service)
    assert (group["devices"], seconds(group["last_seen_at"])) == (3, 1_609_459_200)
    assert group["last_seen_at"] == "2021-01-01T00:00:00Z"


async def test_the_time_of_a_group_without_activity_is_null(service, db):
    """It is not the epoch."""
    await service.register()
    await db.execute("UPDATE devices SET last_seen_at = NULL")
    states = {"online": 0, "idle": 0, "offline": 0, "never": 1}
    assert await groups(service) == [
        {"group_id": "family", "devices": 1, "last_seen_at": None, "presence": states}
    ]


async def test_groups_are_listed_page_by_page(service, db):
    """All of them in the end, by id; a key of one group gets its own alone."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), 'Phone', 'g' || lpad(n::text, 4, '0'), 'android' "
        "FROM generate_series(1, 1001) n"
    )
    found, sizes, query = [], [], "?limit=400"
    while True:
        response = await (await service.call("GET", f"/api/v1/groups{query}")).json()
        found += [one["group_id"] for one in response["groups"]]
        sizes.append(len(response["groups"]))
        if response["next_cursor"] is None:
            break
        query = f"?limit=400&cursor={response['next_cursor']}"
    assert sizes == [400, 400, 201]
    assert found == [f"g{n:04}" for n in range(1, 1002)]
    assert len(await groups(service)) == 1000
    (last,) = await groups(service, key=await service.make_key("g1001"))
    assert (last["group_id"], last["devices"]) == ("g1001", 1)


async def test_a_page_that_is_exactly_full_is_the_last(service):
    """No client asks for one more that is empty."""
    for group in ("aa", "bb"):
        await service.register(group)
    response = await service.call("GET", "/api/v1/groups?limit=2")
    assert (await response.json())["next_cursor"] is None


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=10001", "limit=x", "cursor=", "cursor=x", "cursor=WzFd", "limit=1&limit=2"],
)
async def test_a_bad_query_of_groups_is_400(service, query):
    """As in the listing of devices."""
    response = await service.call("GET", f"/api/v1/groups?{query}")
    assert (response.status, (await response.json())["error"]) == (400, "invalid_query")
