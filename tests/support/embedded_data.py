"""Data directories of embedded servers, and programs that use them as another user."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from api.postgres.embedded import embedded_server
from api.postgres.embedded_program import Account

CHECKOUT = Path(__file__).parents[2]
ODD = "a b'\"+%20\u00df$(x)`;&"
LONG = "/".join(["long" * 20] * 3) + ",comma"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another user")
BECOME = """
import asyncio, encodings.idna, os, pwd, sys
from pathlib import Path
import asyncpg, psutil
from api.postgres.embedded import embedded_server
if user := sys.argv[1]:  # once all is imported: the interpreter may be out of its reach
    os.setgroups([])
    os.setgid(pwd.getpwnam(user).pw_gid)
    os.setuid(pwd.getpwnam(user).pw_uid)
"""
ASK = f"""{BECOME}
async def ask(dsn):
    connection = await asyncpg.connect(dsn)
    print(await connection.fetchval(sys.argv[3]))
    await connection.close()
with embedded_server(Path(sys.argv[2])) as dsn:
    asyncio.run(ask(dsn))
"""
CONNECT = f"{BECOME}asyncio.run(asyncpg.connect(sys.argv[2]))"
HOLD = """
import sys
from pathlib import Path
from api.postgres.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""


def connect_as_nobody(dsn: str) -> str:
    """Return what another user gets who connects."""
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, "nobody", dsn],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.splitlines()[-1] if done.returncode else "connected"


def ask(dsn: str, query: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


@contextmanager
def process_of(account: Account, folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of the server's user in a directory."""
    switch = {"user": account.uid} if account.differs else {}
    process = subprocess.Popen(command, cwd=folder, **switch)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a private directory with a short path, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="activity-test-") as name:
        yield Path(name)


@contextmanager
def used_data_dir() -> Iterator[Path]:
    """Make a data directory that a server has used once."""
    with short_folder() as folder:
        path = folder / "postgres"
        with embedded_server(path):
            pass
        yield path


def copied_data_dir(template: Path, folder: Path) -> Path:
    """Copy a data directory into a folder."""
    subprocess.run(["/bin/cp", "-a", template, folder / "postgres"], check=True)
    return folder / "postgres"
