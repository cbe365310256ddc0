"""A reload replaces all workers, and no request notices; one that cannot work changes nothing."""

import asyncio
import os
import signal

import aiohttp
import pytest

from tests.support.command_line import CHECKOUT
from tests.support.workers import PATIENCE_S, serving_with_workers

STARTED = "process_start_time_seconds"
RELOADS = 3
KEPT = 32
FRESH = 4


async def test_no_request_fails_while_workers_are_replaced(dsn, tmp_path):
    """On kept connections and on new ones; all workers are other processes afterwards."""
    async with serving_with_workers(dsn, tmp_path) as service:
        await service.register(KEPT + FRESH)
        before = set(service.pids())
        started_at = (await service.metrics()).total(STARTED)
        answered = {True: 0, False: 0}  # by whether the connection is kept
        over = False

        async def beat(session: aiohttp.ClientSession, device_id: str, *, kept: bool) -> None:
            while not over:
                async with session.post(f"/api/v1/devices/{device_id}/heartbeat") as answer:
                    assert answer.status == 204
                answered[kept] += 1

        async with service.kept() as kept, service.fresh() as fresh, asyncio.TaskGroup() as group:
            for number, device_id in enumerate(service.device_ids):
                is_kept = number < KEPT
                group.create_task(beat(kept if is_kept else fresh, device_id, kept=is_kept))
            for _ in range(RELOADS):
                done = await asyncio.to_thread(service.command, "reload")
                assert done.returncode == 0, done.stderr
            over = True
        assert min(answered.values()) > 100
        assert len(service.pids()) == 2
        assert before.isdisjoint(service.pids())
        metrics = await service.metrics()
        # Each has touched its device, and nothing that a worker counted is gone with it.
        sent = sum(answered.values()) + KEPT + FRESH
        assert metrics.total("activity_touches_total", target="devices") == sent
        assert metrics.total("activity_worker_restarts_total", reason="reload") == 2 * RELOADS
        # Of the parent: a reload is no restart, or ActivityRestartsOften would fire.
        assert metrics.total(STARTED) == started_at > 0
        assert "worker.died" not in service.log()


@pytest.fixture
def config(tmp_path):
    """A file with settings that a test may change."""
    file = tmp_path / "config.toml"
    file.write_text((CHECKOUT / "config.toml").read_text())
    return file


async def test_new_settings_are_used_after_a_reload(dsn, tmp_path, config):
    """SIGHUP to the parent reads the file again."""
    config.write_text("[server]\nmax_body_bytes = 100\n")
    async with serving_with_workers(
        dsn, tmp_path, command=("-m", "api", "serve", "--config", str(config))
    ) as service:
        await service.register(0)
        body = {"device_id": "x" * 200}

        async def status() -> int:
            async with (
                service.fresh() as session,
                session.post("/api/v1/devices/register", json=body) as answer,
            ):
                return answer.status

        assert await status() == 413
        config.write_text("[server]\nmax_body_bytes = 10000\n")
        os.kill(service.process.pid, signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            while "server.reloaded" not in service.log():
                await asyncio.sleep(0.02)
        assert await status() == 400


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[server]\nmax_body_bytes = 0\n", "max_body_bytes"),
        ("[server]\nno_such = 1\n", "no_such"),
        ("this is no TOML", "cannot read the settings"),
        ('[journal]\ndir = "/proc/nowhere"\n', "journal"),
    ],
)
async def test_a_reload_with_wrong_settings_changes_nothing(
    dsn, tmp_path, config, monkeypatch, wrong, said
):
    """The command says what is wrong and fails; the same workers go on."""
    monkeypatch.delenv("ACTIVITY__JOURNAL__DIR")
    config.write_text(f'[journal]\ndir = "{tmp_path / "journal"}"\n')
    async with serving_with_workers(
        dsn, tmp_path, command=("-m", "api", "serve", "--config", str(config))
    ) as service:
        before = service.pids()
        config.write_text(wrong)
        done = await asyncio.to_thread(service.command, "reload")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert service.pids() == before
        await service.ready(2)
        assert "server.reload_failed" in service.log()


async def test_a_reload_cannot_change_what_the_parent_has_used(dsn, tmp_path, config):
    """Such a setting is named, and takes a restart."""
    config.write_text("")
    async with serving_with_workers(
        dsn, tmp_path, command=("-m", "api", "serve", "--config", str(config))
    ) as service:
        config.write_text("[server]\nmonitor_port = 1\n")
        done = await asyncio.to_thread(service.command, "reload")
        assert done.returncode == 1
        assert "server.monitor_port has changed, which takes a restart" in done.stderr
        await service.ready(2)


def test_reload_without_a_service_says_so(tmp_path):
    """Exit code 1, and where it has looked."""
    from tests.support.command_line import assert_one_line, run  # noqa: PLC0415

    done = run("reload", ACTIVITY__SERVER__RUN_DIR=str(tmp_path))
    assert_one_line(done, 1, "no service with workers runs here", "commands-8080.sock")
