"""An API key that leaks into any output fails the test run."""

import re
import subprocess
import sys
from pathlib import Path

HEAD = """
import asyncio, logging, secrets, subprocess, sys
import aiohttp, structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs
from tracker import StoreUnavailable

async def answered(**options):
    async def handler(_request):
        return web.Response(**options)
    app = web.Application()
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client:
        return await (await client.get("/")).text()

async def output(key):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"print({key!r})", stdout=asyncio.subprocess.PIPE
    )
    await process.communicate()

def new_key():
    return "ak_" + secrets.token_urlsafe(32)
"""
LEAKS = {
    "print": "print(key)",
    "part": "print(key[5:30])",
    "stderr": "print(key, file=sys.stderr)",
    "log": "logging.getLogger('x').warning('a key: %s', key)",
    "debug_log": "logging.getLogger('x').debug('a key: %s', key)",
    "structlog": "structlog.get_logger().info('x', key=key)",
    "captured_log": "with capture_logs(): structlog.get_logger().info('x', key=key)",
    "error": "str(StoreUnavailable(f'no {key}'))",
    "body": "await answered(text=key)",
    "header": "await answered(headers={'X-Key': key})",
    "subprocess": "subprocess.run([sys.executable, '-c', f'print({key!r})'], capture_output=True)",
    "output": "await output(key)",
}
"""Ways for a key to get out, by name."""


def run(folder: Path, tests: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run tests with nothing but the plugin."""
    file = folder / "test_it.py"
    bodies = (
        f"async def test_{name}():\n    key = new_key()\n    {body}" for name, body in tests.items()
    )
    file.write_text("\n\n".join((HEAD, *bodies)))
    checkout = Path(__file__).parents[2]
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.support.leaks", *options),
            *("-c", checkout / "pyproject.toml", "--rootdir", folder, folder),
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_run_without_a_leaked_key_passes(tmp_path):
    """What is listed of a key may be said."""
    done = run(tmp_path, {"fine": "print(key[:10]); await answered(text=key[:10])"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_leaked_key_fails_the_run(tmp_path):
    """By whatever way: the tests themselves pass, the run does not, and says where."""
    done = run(tmp_path, LEAKS)
    assert f"{len(LEAKS)} passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    leaks = [line for line in done.stdout.splitlines() if line.startswith("LEAK of a key")]
    assert {re.search(r"::test_(\w+)", line)[1] for line in leaks} == LEAKS.keys()


def test_a_key_leaked_in_one_of_several_processes_fails_the_run(tmp_path):
    """Tests run in several processes, and the findings of all are combined."""
    done = run(tmp_path, {"print": LEAKS["print"]}, "-n", "1")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    assert "LEAK of a key" in done.stdout
