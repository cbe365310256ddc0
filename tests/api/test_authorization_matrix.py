"""Every route, by every key and every way to name a device: the response, and what is touched.

The routes are the application's own: one that has no entry here fails the test.
"""

import pytest

from tests.support.authorization import (
    DEVICES,
    GROUPS,
    KEYS,
    LIST,
    MINE,
    OF_GROUPS,
    ROUTES,
    THEIRS,
    World,
    expected,
    ways,
)


@pytest.fixture
async def world(service, db):
    world = World(service, db)
    await world.make_keys()
    return world


async def test_every_route_is_in_the_matrix(service):
    """A route that is added later is to be thought of here, or this fails."""
    routes = {
        (route.method, route.resource.canonical) for route in service.client.app.router.routes()
    }
    assert routes == ROUTES.keys() | OF_GROUPS


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_an_api_key_reads_and_touches_only_what_it_may(world, db, method, path):
    """Status, touches, rows and reports; what is out of reach looks as if it were not there."""
    route = ROUTES[method, path]
    for key, reach in KEYS.items():
        for way in ways(path, route):
            responses = {}
            for device in DEVICES:
                await world.make_devices(key)
                before, keys_before = await world.rows(), world.service.touches()["api_keys"]
                status, responses[device] = await world.ask(method, path, route, key, way, device)
                wanted = expected(method, path, route, key, way, device)
                case = (key, way, device)
                assert (case, status) == (case, wanted.status)
                touched = world.service.touches()["api_keys"] - keys_before
                assert (case, touched) == (
                    case,
                    reach is not None and status != 403 and not route.public,
                )
                assert (case, world.active()) == (case, wanted.devices)
                after = await world.rows()
                changed = {kind for kind in before if before[kind] != after[kind]}
                assert (case, changed) == (case, set(wanted.written))
                world.never_seen += [world.ids[kind] for kind in world.ids.keys() - wanted.devices]
            for device in DEVICES:
                if responses[device][0] == responses["unknown"][0] >= 400:
                    assert responses[device] == responses["unknown"]
    await world.service.tracker.flush()
    seen = "SELECT count(*) FROM devices WHERE last_seen_at IS NOT NULL AND device_id = ANY($1)"
    assert await db.fetchval(seen, world.never_seen) == 0
    used = await db.fetch("SELECT name FROM api_keys WHERE last_used_at IS NOT NULL AND id > 1")
    valid = {key for key, reach in KEYS.items() if reach is not None and not route.public}
    assert {row[0] for row in used} == valid


async def test_a_bound_key_lists_its_own_group_and_sees_no_other(world):
    """Another group is an empty list."""
    await world.make_devices("of the own group")
    for key, reach in KEYS.items():
        for group in (MINE, THEIRS, "nobodys"):
            path = f"{LIST}?group_id={group}"
            response = await world.service.call("GET", path, key=world.keys[key])
            assert response.status == (401 if reach is None else 200)
            if reach is not None:
                listed = {device["device_id"] for device in (await response.json())["devices"]}
                there = {MINE: {world.ids["own"], world.ids["base"]}, THEIRS: {world.ids["other"]}}
                assert listed == (there.get(group, set()) if reach in (group, "all") else set())


async def test_a_bound_key_sees_its_own_group_alone_even_if_it_is_empty(world):
    """That there are other groups, and how large, is not for it to know."""
    await world.make_devices("of the own group")
    for key, reach in KEYS.items():
        response = await world.service.call("GET", GROUPS, key=world.keys[key])
        assert response.status == (401 if reach is None else 200)
        if reach is not None:
            listed = {one["group_id"]: one["devices"] for one in (await response.json())["groups"]}
            there = {MINE: 2, THEIRS: 1}
            assert listed == (there if reach == "all" else {reach: there[reach]})
    alone = await world.service.make_key("nobodys")
    response = await world.service.call("GET", GROUPS, key=alone)
    states = dict.fromkeys(("online", "idle", "offline", "never"), 0)
    assert await response.json() == {
        "groups": [{"group_id": "nobodys", "devices": 0, "last_seen_at": None, "presence": states}],
        "next_cursor": None,
    }
