"""A key of one group learns nothing of devices of others: not by content, time, or an outage."""

import uuid

import pytest

from tests.support.service import REPORT, running
from tracker import StoreUnavailable

WAYS = {
    "show": lambda d: ("GET", f"/api/v1/devices/{d}", {}),
    "deactivate": lambda d: ("DELETE", f"/api/v1/devices/{d}", {}),
    "heartbeat": lambda d: ("POST", f"/api/v1/devices/{d}/heartbeat", {}),
    "upload": lambda d: ("POST", "/api/v1/locations", {"json": {"device_id": d, **REPORT}}),
    "track": lambda d: ("GET", f"/api/v1/locations?device_id={d}", {}),
    "header": lambda d: (
        "GET",
        "/api/v1/devices?group_id=work",
        {"headers": {"X-Device-ID": d}},
    ),
}
"""Every way in which a request names a device."""


@pytest.fixture
async def service(dsn):
    """A service that remembers for no time that something does not exist."""
    async with running(dsn, auth={"negative_ttl_s": 0.001}) as service:
        yield service


async def asked(service, way: str, device_id: str, key: str) -> tuple[int, str]:
    """Return the status and the body of a response."""
    method, path, options = WAYS[way](device_id)
    response = await service.call(method, path, key=key, **options)
    return response.status, await response.text()


@pytest.mark.parametrize("way", WAYS)
async def test_a_device_of_another_group_is_looked_up_as_one_that_does_not_exist(
    service, monkeypatch, way
):
    """Whether the cache has it or not, the database is asked once for each request."""
    theirs = await service.register("family")
    await service.heartbeat(theirs)  # now it is cached
    key = await service.make_key("work")
    loads = []
    lookup = service.access.devices._devices_of_group._queries
    load = lookup._load

    async def counting(keys):
        loads.append(keys)
        return await load(keys)

    monkeypatch.setattr(lookup, "_load", counting)
    misses = service.access.devices._devices.misses
    for device_id in (theirs, str(uuid.uuid4())):
        for _ in range(2):
            loads.clear()
            status, body = await asked(service, way, device_id, key)
            assert status == 404
            assert "no such device" in body
            assert loads == [[("work", device_id)]]
    assert service.access.devices._devices.misses == misses


@pytest.mark.parametrize("way", WAYS)
async def test_an_outage_does_not_distinguish_them_either(service, monkeypatch, way):
    """Both are 503, as neither can be looked up."""
    theirs = await service.register("family")
    await service.heartbeat(theirs)
    key = await service.make_key("work")
    ours = str(
        (
            await (
                await service.call(
                    "POST",
                    "/api/v1/devices/register",
                    key=key,
                    json={
                        "device_id": str(uuid.uuid4()),
                        "display_name": "Van",
                        "group_id": "work",
                    },
                )
            ).json()
        )["device_id"]
    )

    async def away(*_arguments, **_options):
        raise StoreUnavailable("it is away")

    monkeypatch.setattr("api.postgres.database.Database.fetch", away)
    for device_id in (theirs, str(uuid.uuid4())):
        status, body = await asked(service, way, device_id, key)
        assert (status, "no such device" in body) == (503, False)
    assert (await service.heartbeat(ours, key=key)).status == 204


async def test_a_device_that_moves_between_groups_is_found_by_its_new_one(service):
    """What the caches know by group is forgotten when the device is registered there."""
    device_id = await service.register("family")
    ours, theirs = await service.make_key("work"), await service.make_key("family")
    assert (await service.heartbeat(device_id, key=ours)).status == 404
    assert (await service.heartbeat(device_id, key=theirs)).status == 204
    body = {"device_id": device_id, "display_name": "Phone", "group_id": "work"}
    assert (await service.call("POST", "/api/v1/devices/register", json=body)).status == 200
    assert (await service.heartbeat(device_id, key=ours)).status == 204
    assert (await service.heartbeat(device_id, key=theirs)).status == 404
