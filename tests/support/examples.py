"""Runs a program of the documentation as its readers do: in a process of its own, until SIGTERM."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.support.markdown import ROOT
from tests.support.raw_client import free_port

_DEADLINE_S = 60


@dataclass(frozen=True)
class Example:
    """A running program that listens on a port."""

    process: asyncio.subprocess.Process
    port: int

    async def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Return status and body of the response to a request."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as got:
            return got.status, await got.text()


@asynccontextmanager
async def running_example(
    program: Path, dsn: str, *, udp: bool = False, **environment: str
) -> AsyncIterator[Example]:
    """Run a program until the block ends, then send SIGTERM and expect a clean exit.

    Args:
        program: a file of Python that listens on the port in PORT.
        dsn: what it finds as DATABASE_URL.
        udp: whether it prints a line when it is ready, as it does not listen for connections.
        environment: more variables.
    """
    port = free_port()
    command = [sys.executable, str(program)]
    async with running_command(command, dsn, port, prints=udp, **environment) as example:
        yield example


@asynccontextmanager
async def running_command(
    command: list[str], dsn: str, port: int, *, prints: bool = False, **environment: str
) -> AsyncIterator[Example]:
    """Run a command until the block ends, then send SIGTERM and expect a clean exit."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ
        | {"DATABASE_URL": dsn, "PORT": str(port), "PYTHONPATH": str(ROOT)}
        | environment,
        stdout=asyncio.subprocess.PIPE if prints else None,
    )
    try:
        async with asyncio.timeout(_DEADLINE_S):
            if prints:
                assert await process.stdout.readline()
            else:
                await _listens(process, port)
        yield Example(process, port)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_DEADLINE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int) -> None:
    while True:
        assert process.returncode is None, "the program ended before it listened"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
