"""Sends the tracker's log during a history to the trace."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from benchmarks.simulation.disk import Disk
from benchmarks.simulation.ledger import Ledger


@contextmanager
def logs_traced(ledger: Ledger, disk: Disk) -> Iterator[None]:
    """Let the tracker log to the trace of a ledger while the block runs.

    Args:
        ledger: the ledger with the trace.
        disk: the disk, which decides whether log files can be written.
    """

    class Log(structlog.BoundLoggerBase):
        def _say(self, event: str, **more: Any) -> None:
            if disk.rejects_logs:
                raise OSError(errno.ENOSPC, "No space left on device")
            if ledger.trace is not None:
                said = " ".join(f"{name}={value!r}" for name, value in more.items())
                ledger.say(f"log: {event} {said}")

        info = warning = error = exception = _say

    before = structlog.get_config()
    structlog.configure(wrapper_class=Log)
    try:
        yield
    finally:
        structlog.configure(**before)
