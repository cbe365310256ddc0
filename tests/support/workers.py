"""The service with several workers, as processes."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from api.access.keys import create_key
from api.config import DatabaseSettings
from api.postgres.database import open_database
from benchmarks.harness.metrics import Metrics
from benchmarks.harness.service import running_service
from benchmarks.harness.workers import RunningWorkers
from tests.support.command_line import free_port, run

PATIENCE_S = 30


@dataclass
class Workers:
    """A service with several workers, and one API key."""

    url: str
    process: asyncio.subprocess.Process
    running: RunningWorkers
    key: str
    dsn: str
    log_file: Path
    environment: dict[str, str]
    device_ids: list[str] = field(default_factory=list)

    def fresh(self) -> aiohttp.ClientSession:
        """Return a session that opens a connection for each request, so any worker may answer."""
        return aiohttp.ClientSession(
            self.url,
            headers={"X-API-Key": self.key},
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
        )

    def kept(self) -> aiohttp.ClientSession:
        """Return a session that keeps its connections, so that each has one worker."""
        return aiohttp.ClientSession(
            self.url, headers={"X-API-Key": self.key}, connector=aiohttp.TCPConnector(limit=0)
        )

    async def register(self, count: int, group_id: str = "family") -> None:
        """Register devices."""
        async with self.kept() as session:
            for number in range(count):
                device_id = f"00000000-0000-4000-8000-{len(self.device_ids):012x}"
                body = {"device_id": device_id, "display_name": f"d{number}", "group_id": group_id}
                async with session.post("/api/v1/devices/register", json=body) as response:
                    assert response.status == 200, await response.text()
                self.device_ids.append(device_id)

    def pids(self) -> list[int]:
        """Return the process ids of all workers."""
        return self.running.pids()

    async def metrics(self) -> Metrics:
        """Scrape the service."""
        return await self.running.metrics()

    async def ready(self, wanted: int) -> None:
        """Wait until so many workers serve."""
        await self.running.ready(wanted)

    async def kill(self, pid: int) -> None:
        """Kill a worker, and wait until it is gone."""
        await self.running.kill(pid)

    def command(self, *arguments: str):
        """Run a command line with the settings of the service."""
        return run(*arguments, **{"dsn": self.dsn, **self.environment})

    def log(self) -> str:
        """Return what the service has logged."""
        return self.log_file.read_text()


@asynccontextmanager
async def serving_with_workers(
    dsn: str,
    tmp_path: Path,
    count: int = 2,
    command: Sequence[str] = ("-m", "api", "serve"),
    **environment: str,
) -> AsyncIterator[Workers]:
    """Run a service with workers; nothing is flushed unless the test says so."""
    url = f"http://127.0.0.1:{free_port()}"
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "fleet", None)
    run_dir = tempfile.mkdtemp()  # the path of a test's folder may be too long for a socket
    settings = {
        "ACTIVITY__SERVER__WORKERS": str(count),
        "ACTIVITY__SERVER__PORT": url.rpartition(":")[2],
        "ACTIVITY__SERVER__RUN_DIR": run_dir,
        "ACTIVITY__DATABASE__URL": dsn,
        "ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "3600",
        **environment,
    }
    log_file = tmp_path / "service.log"
    try:
        async with running_service(url, settings, log_file, command=command) as process:
            running = RunningWorkers(url, process.pid, settings)
            yield Workers(url, process, running, key, dsn, log_file, settings)
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
