"""Runs a Postgres server that can be stopped, killed and paused."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from api.postgres.embedded import EmbeddedServer


class BreakableServer:
    """An embedded server that can be stopped, killed and paused."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self.dsn = server.dsn

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.pid)
        return [postmaster, *postmaster.children()]

    def stop(self) -> None:
        """Shut it down in fast mode, which ends all sessions."""
        self._server.stop()

    def start(self) -> None:
        """Start it again, and wait until it accepts connections."""
        self._server.start()

    def kill(self) -> None:
        """Kill all of its processes with SIGKILL, as the kernel does when memory runs out."""
        processes = self._processes()
        _signal(processes, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=30)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause it while the block runs: it accepts connections and sends no response."""
        processes = self._processes()
        _signal(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(processes, signal.SIGCONT)


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a process that Postgres has just ended itself
            process.send_signal(number)


@contextmanager
def breakable_server(folder: Path) -> Iterator[BreakableServer]:
    """Run a server while the block runs; for the clean-up it is resumed and started again."""
    server = EmbeddedServer(folder / "postgres")
    try:
        yield BreakableServer(server)
    finally:
        server.close()
