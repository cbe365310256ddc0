"""A flood of wrong keys: its cost is bounded, and requests with valid keys are served."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from api.access import rate_limit
from api.access.keys import load_principals
from api.access.queries import PAUSE_S
from api.access.rate_limit import RateLimiter
from tests.support.service import running
from tests.support.stores import Clock

PATH = "/api/v1/devices?group_id=family"
FLOOD = 600
MOST_UNKNOWN = 50


def wrong_key(number: int) -> str:
    """Return a key of the right shape that does not exist."""
    return f"ak_{number:043}"


@pytest.fixture
async def service(dsn):
    async with running(dsn, auth={"negative_cache_size": MOST_UNKNOWN}) as service:
        yield service


@pytest.fixture
def looked_up(monkeypatch):
    """The sizes of all lookups of keys."""
    sizes = []

    async def noting(database, clock, hashes):
        sizes.append(len(hashes))
        return await load_principals(database, clock, hashes)

    monkeypatch.setattr("api.app.access.load_principals", noting)
    return sizes


async def flood(service, keys) -> set[int]:
    responses = await asyncio.gather(*(service.call("GET", PATH, key=key) for key in keys))
    return {response.status for response in responses}


async def test_a_flood_costs_few_lookups_and_no_memory_and_denies_no_client(looked_up, service):
    """Keys that are all different share a query, a few times a second; nothing is logged."""
    device_id = await service.register()
    await service.heartbeat(device_id)
    await flood(service, [wrong_key(0)])
    await service.metrics()  # which counts itself
    series = (await service.metrics()).samples.keys()
    looked_up.clear()
    started = time.monotonic()
    with capture_logs() as logs:
        flooding = asyncio.create_task(flood(service, map(wrong_key, range(1, FLOOD))))
        waited = 0
        while not flooding.done():
            waited = max(waited, service.access._denials._waiting)
            assert (await service.heartbeat(device_id)).status == 204
            await asyncio.sleep(0.01)
    assert flooding.result() == {401}
    assert waited > 0
    assert logs == []
    took_s = time.monotonic() - started
    assert FLOOD - 1 <= sum(looked_up) <= FLOOD + 1  # the service's own key may be among them
    assert len(looked_up) <= took_s / PAUSE_S + 2
    assert len(service.access._keys._negative) <= MOST_UNKNOWN
    assert not service.access._keys._queries._uncached
    assert service.access._denials._waiting == 0
    assert (await service.metrics()).samples.keys() == series


async def test_a_value_without_the_shape_of_a_key_costs_no_lookup(looked_up, service):
    """Malformed, empty and missing keys are denied without a lookup."""
    keys = [*map(str, range(100)), "", "ak_", "\u00fc" * 43]
    assert await flood(service, keys) == {401}
    assert looked_up == []


def test_few_401_responses_are_immediate_and_many_are_delayed():
    """200 in a second at once; further ones one in 5 ms, each delayed by at most 2 s."""
    clock = Clock()
    turns = RateLimiter(clock)
    assert [turns.take_turn() for _ in range(200)] == pytest.approx([0] * 200, abs=1e-6)
    waits = [turns.take_turn() for _ in range(399)]
    assert waits == pytest.approx([0.005 * turn for turn in range(1, 400)], abs=1e-6)
    late = [turns.take_turn() for _ in range(1000)]
    assert all(1 <= wait_s <= 2 for wait_s in late)
    assert len(set(late)) > 900  # not all at the same moment
    clock.now += 10
    assert turns.take_turn() == 0


async def test_a_bounded_number_of_401_responses_wait(monkeypatch):
    """Beyond it they are sent at once, so that short connections do not use up memory."""
    monkeypatch.setattr(rate_limit, "_MOST_WAITING", 5)
    monkeypatch.setattr(rate_limit, "_AT_ONCE", 0)
    turns = RateLimiter()
    waiting = [asyncio.create_task(turns.wait()) for _ in range(50)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == 45
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert turns._waiting == 0
