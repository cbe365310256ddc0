"""A Postgres of our own, to be stopped, killed and paused."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from api.postgres.embedded import EmbeddedServer


class BreakableServer:
    """An embedded server, and the ways to hurt it."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self.dsn = server.dsn

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.pid)
        return [postmaster, *postmaster.children()]

    def stop(self) -> None:
        """Shut down as an administrator would, cutting all sessions."""
        self._server.stop()

    def start(self) -> None:
        """Start it again, and wait until it takes connections."""
        self._server.start()

    def kill(self) -> None:
        """End all of it at once, as the kernel does when memory runs out."""
        processes = self._processes()
        _signal(processes, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=30)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it take connections and answer nothing while the block runs."""
        processes = self._processes()
        _signal(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(processes, signal.SIGCONT)


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # one that Postgres has just ended itself
            process.send_signal(number)


@contextmanager
def breakable_server(folder: Path) -> Iterator[BreakableServer]:
    """Run a server while the block runs; what was broken is mended for the clean-up."""
    server = EmbeddedServer(folder / "postgres")
    try:
        yield BreakableServer(server)
    finally:
        server.close()
