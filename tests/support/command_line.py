"""Runs the command line as a user runs it: one command, or the service as a process."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import aiohttp
from typer.testing import CliRunner

from api.cli import app

DEVICE = "00000000-0000-4000-8000-000000000001"
CHECKOUT = Path(__file__).parents[2]


def run(
    *arguments: str, dsn: str = "", into: IO[str] | int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m api` in the checkout, with the database's URL in the environment."""
    return subprocess.run(
        [sys.executable, "-m", "api", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "ACTIVITY__DATABASE__URL": dsn, **environment},
        stdout=into,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )


def invoke(*arguments: str, dsn: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `run` does, but in this process: a tenth of a second in place of one."""
    result = CliRunner().invoke(
        app, arguments, env={"ACTIVITY__DATABASE__URL": dsn, **environment}, prog_name="api"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(
        arguments, result.exit_code, stdout=result.stdout, stderr=result.stderr
    )


async def call(*arguments: str, dsn: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `invoke` does, while an event loop runs."""
    return await asyncio.to_thread(invoke, *arguments, dsn=dsn, **environment)


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """Check that a command failed with one line on stderr that has these parts."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def free_port() -> int:
    """Return a TCP port that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@asynccontextmanager
async def serving(dsn: str, known_key: str = "", **environment: str):
    """Run `serve` as a process; yield the process and a client with an API key.

    Args:
        dsn: the database.
        known_key: an API key that is there already, as the database is unavailable; by default one
            is made, and a device is registered.
        environment: settings.
    """
    port = free_port()
    key = known_key or run("keys", "create", "--name", "fleet", dsn=dsn).stdout.strip()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api", "serve"),
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ACTIVITY__DATABASE__URL": dsn,
            "ACTIVITY__SERVER__PORT": str(port),
            "ACTIVITY__SERVER__METRICS_MAX_AGE_S": "0",
            "ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "3600",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            listening = b""
            while b'"server.listening"' not in listening:
                listening = await process.stdout.readline()
                assert listening
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", headers={"X-API-Key": key}
        ) as session:
            body = {"device_id": DEVICE, "display_name": "Phone", "group_id": "family"}
            if not known_key:
                async with session.post("/api/v1/devices/register", json=body) as response:
                    assert response.status == 200
            yield process, session
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
