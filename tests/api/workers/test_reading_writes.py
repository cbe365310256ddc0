"""A touch that one worker has acknowledged is in the responses of every other worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from benchmarks.harness.testbed import connected
from tests.conftest import new_database
from tests.support.sse import live
from tests.support.workers import PATIENCE_S, Workers, serving_with_workers

PAIRS = 500
DEVICES = 50
pytestmark = pytest.mark.asyncio(loop_scope="module")
OLD = "UPDATE devices SET last_seen_at = '2020-01-01'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(
    server_dsn: str, template_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Workers]:
    """Run one service for all tests, as each start takes seconds."""
    async with (
        new_database(server_dsn, template_dsn) as dsn,
        serving_with_workers(dsn, tmp_path_factory.mktemp("reading")) as service,
    ):
        await service.register(DEVICES)
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def workers(service: Workers) -> Workers:
    """Two workers, and devices that were last seen years ago."""
    # What other tests have touched is pending: a new worker has nothing pending.
    await service.running.reload()
    async with connected(service.dsn) as connection:
        await connection.execute(OLD)
    return service


async def test_listings_and_devices_have_every_acknowledged_touch(workers):
    """Heartbeat and reading, each on a new connection, which any worker may accept."""
    stale = []
    async with workers.fresh() as session:

        async def read(path: str) -> dict[str, str]:
            """Return when devices were last seen, in a response that no worker is missing from."""
            async with asyncio.timeout(PATIENCE_S):
                while True:  # on a busy machine a worker may need more than its 100 ms
                    async with session.get(path) as answer:
                        assert answer.status == 200
                        found = await answer.json()
                        if "X-Missing-Workers" not in answer.headers:
                            devices = found.get("devices", [found])
                            return {one["device_id"]: one["last_seen_at"] for one in devices}

        async def pairs(device_ids: list[str]) -> None:
            for number in range(PAIRS // 10):
                device_id = device_ids[number % len(device_ids)]
                async with session.post(f"/api/v1/devices/{device_id}/heartbeat") as answer:
                    assert answer.status == 204
                if number % 2:
                    seen = await read(f"/api/v1/devices/{device_id}")
                else:
                    seen = await read("/api/v1/devices?group_id=family&seen_within=1h")
                if seen.get(device_id, "2020") < "2021":
                    stale.append(device_id)

        share = DEVICES // 10
        some = [workers.device_ids[n * share : (n + 1) * share] for n in range(10)]
        await asyncio.gather(*map(pairs, some))
    assert stale == []
    metrics = await workers.metrics()
    requests = [
        metrics.total("activity_worker_requests_total", worker=str(number)) for number in (1, 2)
    ]
    assert min(requests) > PAIRS / 4  # both have answered


async def test_a_live_stream_shows_touches_of_all_workers(workers):
    """Ticks carry what other workers were sent, and the statistics of all."""
    async with (
        workers.kept() as session,
        workers.fresh() as others,
        live(session, workers.key) as stream,
    ):
        old = {one["seen"] for one in stream.devices.values()}
        assert len(stream.devices) == DEVICES
        for device_id in workers.device_ids:
            async with others.post(f"/api/v1/devices/{device_id}/heartbeat") as answer:
                assert answer.status == 204
        await stream.until(
            lambda shown: all(one["seen"] > max(old) for one in shown.devices.values())
        )
        # Registration was one touch of each device, in workers that are gone.
        await stream.until(
            lambda shown: shown.service and shown.service["devices"]["touches"] == DEVICES
        )
        assert stream.service["devices"]["pending"] == DEVICES


async def test_a_worker_that_hangs_is_named_and_another_one_accepts_its_connections(workers):
    """Listings come without its touches, and say so; a metric and the log do, too."""
    stopped, other = workers.pids()
    async with workers.fresh() as session:

        async def missing() -> str:
            async with session.get("/api/v1/devices?group_id=family") as answer:
                assert answer.status == 200
                return answer.headers["X-Missing-Workers"]

        os.kill(stopped, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_S):
                # The kernel puts every second connection into the queue of the one that is stopped.
                found = set(await asyncio.gather(*(missing() for _ in range(20))))
            assert found in ({"1"}, {"2"})
            async with asyncio.timeout(PATIENCE_S):
                metrics = await workers.metrics()
            assert metrics.total("activity_workers", state="unresponsive") == 1
            assert metrics.total("activity_worker_unanswered_questions_total") >= 20
            assert "worker.hangs" in workers.log()
        finally:
            os.kill(stopped, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            while "worker.healthy" not in workers.log():
                await asyncio.sleep(0.02)
        await workers.ready(2)
        assert workers.pids() == [stopped, other]
