"""Which devices and API keys a process knows in an outage, also if it starts in one."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from benchmarks.harness.server import BreakableServer
from tests.support.command_line import DEVICE, assert_one_line, run, serving
from tests.support.outage import GENEROUS_S, SOON, new_database, stoppable_server
from tests.support.service import running


@pytest.fixture(scope="module")
def server() -> Iterator[BreakableServer]:
    with stoppable_server() as server:
        yield server


async def test_processes_behind_a_proxy_know_each_others_devices_in_an_outage(server):
    """Each device was seen by one process alone; in an outage all of them serve all."""
    dsn = await new_database(server)
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(running(dsn)) for _ in range(3)]
        devices = [await services[n % 3].register(name=f"Phone {n}") for n in range(30)]
        keys = [service.key for service in services]
        for service in services:
            await service.devices_are_known()
            for key in keys:
                await service.heartbeat(devices[0], key=key)
        server.stop()
        for number, device_id in enumerate(devices):
            for service in services:
                response = await service.heartbeat(device_id, key=keys[number % 3])
                assert response.status == 204
        server.start()


async def test_a_process_that_starts_in_an_outage_knows_what_the_last_one_knew(server):
    """Devices and keys come from the file; entries past the stale limit are not used."""
    dsn = await new_database(server)
    async with running(dsn) as service:
        device_id = await service.register()
        await service.devices_are_known()
        await service.heartbeat(device_id)
        key = service.key
    server.stop()
    with capture_logs() as logs:
        async with running(dsn, key=key, tracker=SOON) as service:
            async with asyncio.timeout(GENEROUS_S):
                while (await service.heartbeat(device_id)).status != 204:
                    await asyncio.sleep(0.01)
            assert (await service.heartbeat(str(uuid.uuid4()))).status == 503
            assert (await service.heartbeat(device_id, key="ak_" + "A" * 43)).status == 503
    assert "directory.restored" in [line["event"] for line in logs]
    stale = {"stale_limit_s": 0.001, "refresh_s": 0.001}
    async with running(dsn, key=key, auth=stale, tracker=SOON) as service:
        assert (await service.heartbeat(device_id)).status == 503
    server.start()


async def test_serve_starts_in_an_outage_with_what_the_last_process_knew(server):
    """And ends with one line if there is nothing to know; after the outage it is as any other."""
    dsn = await new_database(server)
    async with serving(dsn) as (process, session):
        async with session.post(f"/api/v1/devices/{DEVICE}/heartbeat") as response:
            assert response.status == 204
        process.terminate()
        assert await process.wait() == 0
        key = session.headers["X-API-Key"]
    server.stop()
    try:
        assert_one_line(
            run("serve", dsn=dsn, ACTIVITY__AUTH__KNOWN_FILE=""), 1, "no server listens"
        )
        async with serving(dsn, known_key=key) as (_, session), asyncio.timeout(GENEROUS_S):
            while True:
                async with session.post(f"/api/v1/devices/{DEVICE}/heartbeat") as response:
                    if response.status == 204:
                        break
            server.start()
            while True:
                async with session.get("/api/health/ready") as response:
                    if not (await response.json())["degraded"]:
                        break
    finally:
        server.start()
