"""Keys that a client chooses so that a hash table becomes slow: of JSON, queries, headers, ids."""

import uuid

import msgspec

from benchmarks.harness.stall import longest_stall
from tests.support.raw_client import listening
from tests.support.service import running

BODY_KEYS = 60_000
QUERY_KEYS = 1000
HEADERS = 100
COLLIDING_IDS = 300
HASH_MODULUS = (1 << 61) - 1
"""Integers that differ by it have one hash in Python, and a UUID has the hash of its integer."""
MAX_STALL_MS = 250


def names(count: int, start: str) -> list[str]:
    """Return keys that differ only in their last digits, as a weak hash would like them least."""
    return [f"{start}{number:06d}" for number in range(count)]


async def test_many_keys_in_a_body_do_not_stall_the_event_loop(service):
    """A megabyte of fields that are not known, and another one of a field that is."""
    device_id = str(uuid.uuid4())
    fields = {"device_id": device_id, "display_name": "Phone", "group_id": "family"}
    unknown = msgspec.json.encode({**dict.fromkeys(names(BODY_KEYS, "field"), 1), **fields})
    repeated = b"{" + b'"platform":"ios",' * BODY_KEYS + msgspec.json.encode(fields)[1:]
    for body in (unknown[:1_048_576], unknown, repeated[-1_000_000:], repeated):
        async with longest_stall() as stall:
            headers = {"Content-Type": "application/json"}
            path = "/api/v1/devices/register"
            response = await service.call("POST", path, data=body, headers=headers)
            await response.read()
        assert response.status in (200, 400, 413)
        assert stall.cpu_ms < MAX_STALL_MS


async def test_many_parameters_and_headers_do_not_stall_the_event_loop(dsn):
    """The size of the lines and the number of headers bound them."""
    async with listening(dsn) as service, service.client() as client:
        query = "&".join(name[-6:] for name in names(QUERY_KEYS, ""))
        headers = [f"{name}: 1" for name in names(HEADERS, "X-")]
        lines = [f"GET /api/v1/groups?{query} HTTP/1.1", "Host: here", *headers]
        head = "\r\n".join([*lines, f"X-API-Key: {service.key}", "", ""]).encode()
        async with longest_stall() as stall:
            for _ in range(10):
                await client.send(head)
                assert (await client.answer()).status == 200
        assert stall.cpu_ms < MAX_STALL_MS


async def test_no_table_is_keyed_by_the_number_of_a_device_id(dsn):
    """Ids of one hash are easily made; their text has another hash in each process."""
    ids = [str(uuid.UUID(int=5 + n * HASH_MODULUS)) for n in range(1, COLLIDING_IDS + 1)]
    assert len({hash(uuid.UUID(one)) for one in ids}) == 1
    async with running(dsn) as service:
        for one in ids:
            body = {"device_id": one, "display_name": "Phone", "group_id": "family"}
            response = await service.call("POST", "/api/v1/devices/register", json=body)
            assert response.status == 200
            assert (await service.heartbeat(one)).status == 204
        assert (await service.upload(ids[0])).status == 200
        devices = service.access.devices._devices
        cached = [key for key in devices._entries._owner_by_key if key in ids]
        pending = [key for key in service.tracker.buffers["devices"]._live if key in ids]
        for keys in (cached, pending):
            assert len(keys) == COLLIDING_IDS
            assert len({hash(key) for key in keys}) == COLLIDING_IDS
