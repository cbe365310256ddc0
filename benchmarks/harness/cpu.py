"""Reads how much CPU time processes have used: less affected by other load than their duration."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.harness.testbed import connected
from tracker.postgres import Pool


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds.

    Linux counts it in nanoseconds in `schedstat`; elsewhere it is as exact as `psutil` has it.

    Raises:
        psutil.NoSuchProcess: it is not on this machine.
    """
    with suppress(OSError, ValueError, IndexError):
        spent = 0
        for thread in Path(f"/proc/{pid}/task").iterdir():
            spent += int((thread / "schedstat").read_text().split()[0])
        return spent / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class CpuMeter:
    """Measures this process and the server's processes of some connections.

    Args:
        pids: those of the server.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._before = self._now()

    def _now(self) -> tuple[float, float | None]:
        try:
            return cpu_s(os.getpid()), sum(map(cpu_s, self._pids))
        except psutil.NoSuchProcess:
            return cpu_s(os.getpid()), None

    def used_s(self) -> tuple[float, float | None]:
        """Return the seconds that this process and the server have used since the start.

        The second is None if the server is on another machine.
        """
        (client, server), (client_before, server_before) = self._now(), self._before
        if server is None or server_before is None:
            return client - client_before, None
        return client - client_before, server - server_before


async def pids_of(pool: Pool) -> list[int]:
    """Return the server's process of a pool that has one connection."""
    return [await pool.fetchval("SELECT pg_backend_pid()")]


async def pids_in(dsn: str) -> list[int]:
    """Return the server's processes of all clients of a database, autovacuum left out."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [row[0] for row in rows]
