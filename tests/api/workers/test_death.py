"""Workers and their parent die: others take over, and nothing acknowledged is lost."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import aiohttp
import psutil
import pytest

from benchmarks.reloads.checks import lost, settled, unexplained
from benchmarks.reloads.heartbeats import heartbeats
from benchmarks.reloads.run import kill_workers
from tests.support.command_line import assert_one_line, free_port, run
from tests.support.workers import PATIENCE_S, serving_with_workers

KILLS = 4
CLIENTS = 16


async def test_a_killed_worker_is_replaced_and_no_acknowledged_touch_is_lost(dsn, tmp_path):
    """Killed again and again under load: counts balance, and no counter goes back."""
    fast = {"ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "0.3"}
    async with serving_with_workers(dsn, tmp_path, **fast) as service:
        await service.register(CLIENTS)
        async with heartbeats(
            service.url, service.key, service.device_ids, kept=CLIENTS, pauses=1
        ) as seen:
            kills, problems = await kill_workers(service.running, KILLS, 2)
        assert seen.acknowledged.keys() == set(service.device_ids)
        problems += unexplained(seen.failures, kills)
        metrics = await settled(service.running)
        assert problems + await lost(metrics, dsn, seen.acknowledged) == []
        assert metrics.total("activity_worker_restarts_total", reason="died") == KILLS


async def test_while_a_worker_cannot_start_another_one_accepts_its_connections(dsn, tmp_path, db):
    """It accepts the connections that wait, and recovers the journal; readiness warns."""
    async with serving_with_workers(dsn, tmp_path) as service:
        await service.register(20)
        assert service.command("reload").returncode == 0
        await db.execute("UPDATE devices SET last_seen_at = '2020-01-01'")

        async def beat(session: aiohttp.ClientSession) -> None:
            for device_id in service.device_ids:
                async with session.post(f"/api/v1/devices/{device_id}/heartbeat") as answer:
                    assert answer.status == 204

        run_dir = Path(service.environment["ACTIVITY__SERVER__RUN_DIR"])
        elsewhere = run_dir.with_name(f"{run_dir.name}-moved")
        async with service.fresh() as session:
            await beat(session)
            # A worker that starts finds no place for its socket.
            run_dir.rename(elsewhere)  # noqa: ASYNC240
            try:
                await service.kill(service.pids()[0])
                async with asyncio.timeout(PATIENCE_S):
                    while "worker.start_failed" not in service.log():
                        await asyncio.sleep(0.02)
                    while True:
                        async with session.get("/api/v1/devices?group_id=family") as answer:
                            devices = (await answer.json())["devices"]
                        if all(one["last_seen_at"] > "2021" for one in devices):
                            break
                        await asyncio.sleep(0.05)
                    await beat(session)
                    async with session.get("/api/health/ready") as answer:
                        assert answer.status == 200
                        assert (await answer.json())["warnings"] == ["workers"]
                metrics = await service.metrics()
                assert metrics.total("activity_workers", state="ready") == 1
                assert metrics.total("activity_worker_restarts_total", reason="start_failed") > 0
            finally:
                elsewhere.rename(run_dir)
            await service.ready(2)
            await beat(session)
        metrics = await service.metrics()
        assert metrics.total("activity_journal_recovered_touches_total", target="devices") > 0


async def test_workers_flush_and_end_when_their_parent_is_killed(dsn, tmp_path, db):
    """They write what is pending, and leave no process and no journal behind."""
    async with serving_with_workers(dsn, tmp_path) as service:
        await service.register(20)
        await db.execute("UPDATE devices SET last_seen_at = '2020-01-01'")
        async with service.fresh() as session:
            for device_id in service.device_ids:
                async with session.post(f"/api/v1/devices/{device_id}/heartbeat") as answer:
                    assert answer.status == 204
        pids = service.pids()
        service.process.kill()
        await service.process.wait()
        async with asyncio.timeout(PATIENCE_S):
            while any(map(psutil.pid_exists, pids)):
                await asyncio.sleep(0.05)
        assert "worker.parent_gone" in service.log()
    assert await db.fetchval("SELECT count(*) FROM devices WHERE last_seen_at < '2021-01-01'") == 0
    assert list((tmp_path / "journal").iterdir()) == []


async def test_sigterm_drains_first_and_then_writes_what_is_pending(dsn, tmp_path, db):
    """Readiness is 503 for drain_s, while requests are served."""
    draining = {"ACTIVITY__SERVER__DRAIN_S": "3"}
    async with serving_with_workers(dsn, tmp_path, **draining) as service:
        await service.register(1)
        await db.execute("UPDATE devices SET last_seen_at = '2020-01-01'")
        async with service.fresh() as session:
            os.kill(service.process.pid, signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    async with session.get("/api/health/ready") as answer:
                        if answer.status == 503:
                            assert (await answer.json())["problems"] == ["draining"]
                            break
                    await asyncio.sleep(0.02)
            async with session.post(f"/api/v1/devices/{service.device_ids[0]}/heartbeat") as answer:
                assert answer.status == 204
        assert await service.process.wait() == 0
    assert await db.fetchval("SELECT count(*) FROM devices WHERE last_seen_at < '2021-01-01'") == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_ends_the_start(dsn, tmp_path, workers):
    """A second service does not share the port of the first by accident."""
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as those of a service
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = str(first.getsockname()[1])
        environment = {
            "ACTIVITY__SERVER__WORKERS": workers,
            "ACTIVITY__SERVER__PORT": port,
            "ACTIVITY__SERVER__RUN_DIR": str(tmp_path),
        }
        done = run("serve", dsn=dsn, **environment)
    assert done.returncode == 1
    assert f"server.port is {port}, which another process listens on" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_cannot_start_says_why_once(dsn, tmp_path, workers):
    """With workers the message is the same as without, and so is the exit code."""
    blocked = tmp_path / "a file"
    blocked.write_text("")
    done = run(
        "serve",
        dsn=dsn,
        ACTIVITY__SERVER__WORKERS=workers,
        ACTIVITY__SERVER__PORT=str(free_port()),
        ACTIVITY__SERVER__RUN_DIR=str(tmp_path),
        ACTIVITY__JOURNAL__DIR=str(blocked / "journal"),
    )
    assert_one_line(done, 1, "cannot keep a journal in directory")
