"""Runs the service in a process of its own, for load and tests."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

_READY_WITHIN_S: Final = 60
_ASK_EVERY_S: Final = 2
_STOPPED_WITHIN_S: Final = 30
_FRESH_METRICS: Final = {"ACTIVITY__SERVER__METRICS_MAX_AGE_S": "0"}
"""Measurements compare two scrapes, which may be close together, so no scrape may be cached."""


class ServiceFailedError(Exception):
    """The service ended before it was ready; the message has its output."""


@asynccontextmanager
async def running_service(
    url: str,
    settings: Mapping[str, str],
    log_file: Path,
    *,
    command: Sequence[str] = ("-m", "api", "serve"),
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the service while the block runs, and stop it with SIGTERM at the end.

    Args:
        url: the address it will listen at.
        settings: environment variables on top of our own.
        log_file: where its output is written.
        command: arguments for Python.

    Raises:
        ServiceFailedError: it did not come up.
    """
    _reject_taken(url)
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command),
            env={**_FRESH_METRICS, **os.environ, **settings},
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # this process handles Ctrl-C and stops it at the end
        )
    try:
        await _wait_until_ready(url, process, log_file)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOPPED_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _reject_taken(url: str) -> None:
    """Raise if the port is taken: another program on it could be mistaken for the service."""
    parts = urlsplit(url)
    try:
        socket.create_server((parts.hostname, parts.port)).close()
    except OSError as error:
        raise ServiceFailedError(f"the service cannot listen at {url}: {error}") from error


async def _wait_until_ready(url: str, process: asyncio.subprocess.Process, log_file: Path) -> None:
    try:
        patience = aiohttp.ClientTimeout(total=_ASK_EVERY_S)
        async with (
            asyncio.timeout(_READY_WITHIN_S),
            aiohttp.ClientSession(timeout=patience) as session,
        ):
            while process.returncode is None:
                try:
                    async with session.get(f"{url}/api/health/ready") as response:
                        if response.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    said = log_file.read_text(errors="replace").strip()  # noqa: ASYNC240 - nothing else runs here
    raise ServiceFailedError(f"the service did not come up at {url}:\n{said}")
