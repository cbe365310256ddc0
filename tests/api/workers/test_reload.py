"""A reload replaces all workers, and no request notices; one that cannot work changes nothing."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from benchmarks.reloads.heartbeats import heartbeats
from tests.conftest import new_database
from tests.support.command_line import assert_one_line, run
from tests.support.workers import PATIENCE_S, Workers, serving_with_workers

STARTED = "process_start_time_seconds"
RELOADS = 2
KEPT = 32
FRESH = 4


async def test_no_request_fails_while_workers_are_replaced(dsn, tmp_path):
    """On kept connections and on new ones; all workers are other processes afterwards."""
    async with serving_with_workers(dsn, tmp_path) as service:
        await service.register(KEPT + FRESH)
        before = set(service.pids())
        started_at = (await service.metrics()).total(STARTED)
        async with heartbeats(
            service.url, service.key, service.device_ids, kept=KEPT, pauses=1
        ) as seen:
            for _ in range(RELOADS):
                await service.running.reload()
        assert seen.failures == []
        assert min(seen.answered[True], seen.answered[False]) > 100
        assert len(service.pids()) == 2
        assert before.isdisjoint(service.pids())
        metrics = await service.metrics()
        # Each has touched its device, and nothing that a worker counted is gone with it.
        sent = seen.answered.total() + KEPT + FRESH
        assert metrics.total("activity_touches_total", target="devices") == sent
        assert metrics.total("activity_worker_restarts_total", reason="reload") == 2 * RELOADS
        # Of the parent: a reload is no restart, or ActivityRestartsOften would fire.
        assert metrics.total(STARTED) == started_at > 0
        assert "worker.died" not in service.log()


class Configured(NamedTuple):
    """A service with workers, and the file of its settings."""

    service: Workers
    file: Path

    def write(self, text: str) -> None:
        """Write other settings into the file."""
        journal = f'[journal]\ndir = "{self.file.parent / "journal"}"\n'
        self.file.write_text(text if "[journal]" in text else text + journal)

    async def reload(self, text: str) -> subprocess.CompletedProcess[str]:
        """Reload the service with other settings in its file."""
        self.write(text)
        return await asyncio.to_thread(self.service.command, "reload")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def configured(
    server_dsn: str, template_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Configured]:
    """Run one service for all tests of its settings, as each start takes seconds."""
    folder = tmp_path_factory.mktemp("reload")
    file = folder / "config.toml"
    command = ("-m", "api", "serve", "--config", str(file))
    environment = {"ACTIVITY__AUTH__KNOWN_FILE": str(folder / "known")}
    async with new_database(server_dsn, template_dsn) as dsn:
        Configured(None, file).write("")
        async with serving_with_workers(dsn, folder, command=command, **environment) as service:
            yield Configured(service, file)


async def body_is_answered(service: Workers) -> int:
    """Return the status of a request with a body of 200 bytes."""
    async with (
        service.fresh() as session,
        session.post("/api/v1/devices/register", json={"device_id": "x" * 200}) as answer,
    ):
        return answer.status


@pytest.mark.asyncio(loop_scope="module")
async def test_new_settings_are_used_after_a_reload(configured):
    """SIGHUP to the parent reads the file again, as the command does."""
    service = configured.service
    assert (await configured.reload("[server]\nmax_body_bytes = 100\n")).returncode == 0
    assert await body_is_answered(service) == 413
    reloads = service.log().count("server.reloaded")
    configured.write("[server]\nmax_body_bytes = 10000\n")
    os.kill(service.process.pid, signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_S):
        while service.log().count("server.reloaded") == reloads:
            await asyncio.sleep(0.02)
    assert await body_is_answered(service) == 400


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[server]\nmax_body_bytes = 0\n", "max_body_bytes"),
        ("[server]\nno_such = 1\n", "no_such"),
        ("this is no TOML", "cannot read the settings"),
        ('[journal]\ndir = "/proc/nowhere"\n', "journal"),
        ("[server]\nmonitor_port = 1\n", "server.monitor_port has changed"),
    ],
)
async def test_a_reload_with_wrong_settings_changes_nothing(configured, wrong, said):
    """The command says what is wrong and fails; the same workers go on.

    Settings that the parent has used already are among them: they take a restart.
    """
    service = configured.service
    before, failed = service.pids(), service.log().count("server.reload_failed")
    done = await configured.reload(wrong)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert service.pids() == before
    await service.ready(2)
    assert service.log().count("server.reload_failed") == failed + 1


def test_reload_without_a_service_says_so(tmp_path):
    """Exit code 1, and where it has looked."""
    done = run("reload", ACTIVITY__SERVER__RUN_DIR=str(tmp_path))
    assert_one_line(done, 1, "no service with workers runs here", "commands-8080.sock")
