"""Paths of what is deployed, and programs that run it for a test."""

import asyncio
import http.client
import json
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOYMENT = ROOT / "api" / "deployment"


@asynccontextmanager
async def started(command: list[str], folder: Path, **environment: str):
    """Run a command that serves, until it listens; it is killed at the end if need be."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            while json.loads(await process.stdout.readline())["event"] != "server.listening":
                pass
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def statuses(path: str, *ports: int) -> list[int]:
    """Return what each port responds with to a request without an API key."""
    found = []
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"X-API-Key": "none"})
        found.append(connection.getresponse().status)
        connection.close()
    return found


WITHOUT_NEW_CODE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, as MemoryDenyWriteExecute= does
os.execv(sys.argv[1], sys.argv[1:])
"""
