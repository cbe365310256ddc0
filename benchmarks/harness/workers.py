"""What load and tests do to the workers of a service: find, kill and reload them."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiohttp
import psutil

from benchmarks.harness.metrics import Metrics, scrape
from benchmarks.harness.service import ServiceFailedError

PATIENCE_S: Final = 60
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed.

    Attributes:
        at: when, by the monotonic clock, in seconds.
        gone_at: when its process had ended, so that its connections were closed.
    """

    at: float
    gone_at: float


@dataclass(frozen=True, slots=True)
class RunningWorkers:
    """The workers of a service that runs.

    Args:
        url: its address.
        pid: of the parent.
        environment: its settings, as environment variables.
    """

    url: str
    pid: int
    environment: Mapping[str, str]

    def pids(self) -> list[int]:
        """Return the process ids of all workers."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children()
            return [one.pid for one in children if "api.workers" in one.cmdline()]
        return []

    async def metrics(self) -> Metrics:
        """Scrape the service on a new connection, which any worker may accept."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await scrape(session, self.url)

    async def ready(self, wanted: int) -> None:
        """Wait until so many workers serve.

        Raises:
            TimeoutError: they do not.
        """
        async with asyncio.timeout(PATIENCE_S):
            while (await self.metrics()).total("activity_workers", state="ready") != wanted:
                await asyncio.sleep(_POLL_S)

    async def kill(self, pid: int) -> Kill:
        """Kill a worker, and wait until it is gone.

        Args:
            pid: its process id.
        """
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
                await asyncio.sleep(_POLL_S)
        return Kill(at, time.monotonic())

    async def reload(self) -> None:
        """Replace all workers, with the command.

        Raises:
            ServiceFailedError: it has failed; the message has its output.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api", "reload"),
            env={**os.environ, **self.environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise ServiceFailedError(f"reload failed: {said.decode(errors='replace').strip()}")
