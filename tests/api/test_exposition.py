"""The text of a scrape: all of it, at one moment, and never long at a time."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.handlers.exposition import exposition
from benchmarks.harness.metrics import parse_metrics
from benchmarks.harness.stall import longest_stall
from tests.support.service import running


class Large(Collector):
    """A family of 1,700 samples, as that of all routes and statuses is."""

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("large", "One of many routes.", labels=["route"])
        for n in range(100):
            buckets = [*((str(bound), float(n)) for bound in range(14)), ("+Inf", float(n))]
            family.add_metric([f"/{n}"], buckets, sum_value=n)
        yield family


@pytest.fixture
def registry() -> CollectorRegistry:
    """Some small families, and a large one."""
    registry = CollectorRegistry()
    Counter("small", "With a time of creation.", registry=registry).inc(7)
    Counter("empty", "No label has been seen.", ["route"], registry=registry)
    registry.register(Large())
    Counter("last", 'With "quotes" and\nlines.', registry=registry)
    return registry


async def test_the_text_is_what_prometheus_own_client_writes(registry):
    """Byte for byte, however many pieces it is made of."""
    assert await exposition(registry) == generate_latest(registry)


async def test_the_event_loop_turns_while_a_scrape_is_written(registry):
    """A request waits for a piece of it, not for all."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await exposition(registry)
    counting.cancel()
    assert turns >= 8


async def best_scrape(service, keys: int) -> tuple[float, float]:
    """Make keys pending; return the CPU times of the best of ten scrapes and of its stall."""
    buffer = service.tracker.buffers["devices"]
    for n in range(len(buffer), keys):
        buffer.touch(f"{n:08x}-0000-4000-8000-000000000000")
    scrapes_s, stalls_s = [], []
    for _ in range(10):
        async with longest_stall() as stall:
            started = time.thread_time()
            response = await service.call("GET", "/metrics", key="")
            text = await response.text()
            scrapes_s.append(time.thread_time() - started)
        stalls_s.append(stall.cpu_ms / 1000)
        assert parse_metrics(text).total("activity_buffer_keys", target="devices") == keys
    return min(scrapes_s), min(stalls_s)


async def test_a_million_pending_keys_do_not_make_a_scrape_longer(dsn):
    """Nor the event loop's longest stall; in milliseconds: `python -m benchmarks scrape`."""
    most = {"capacity_keys": 2_000_000, "high_water_keys": 2_000_000, "flush_interval_s": 3600}
    async with running(dsn, tracker=most, journal={"enabled": False}) as service:
        few = await best_scrape(service, 1000)
        many = await best_scrape(service, 1_000_000)
        buffer = service.tracker.buffers["devices"]
        buffer.drain()
        buffer.settle({})  # they are of no device, so no flush has to find that out
    assert many[0] < 3 * few[0]
    assert many[1] < 3 * few[1]


async def test_a_scrape_shows_one_moment(registry):
    """What is counted while it is written belongs to the next one, or no books would balance."""
    before = generate_latest(registry)
    scrape = asyncio.create_task(exposition(registry))
    await asyncio.sleep(0)  # it has begun
    for name in ("small", "last"):
        registry._names_to_collectors[name].inc()
    assert await scrape == before
    assert await exposition(registry) != before
