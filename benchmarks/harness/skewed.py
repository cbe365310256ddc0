"""Runs the service with a wall clock that can be wrong: `-m benchmarks.harness.skewed serve`.

Each `AHEAD` puts it an hour ahead, each `BACK` an hour back. The monotonic clock does not change,
as when a machine's time is set. With several workers each has a clock of its own, so all of them
have to get the signal.
"""

import signal
import sys
import time
from types import FrameType
from typing import Final

AHEAD: Final = signal.SIGRTMIN + 1
BACK: Final = signal.SIGRTMIN + 2
"""Signals that the service itself does not handle."""
_WORKER: Final = "worker"
_HOUR_S: Final = 3600.0

_true_time = time.time
_off_by_s = 0.0


def _time() -> float:
    return _true_time() + _off_by_s


def _move(number: int, _frame: FrameType | None) -> None:
    global _off_by_s  # noqa: PLW0603 - there is one clock
    _off_by_s += _HOUR_S if number == AHEAD else -_HOUR_S


def main() -> None:
    """Run the service's command line with that clock, or one of its workers."""
    time.time = _time
    for number in (AHEAD, BACK):
        signal.signal(number, _move)
    # Imported here, because imports bind the clock.
    if sys.argv[1] == _WORKER:
        from api.workers.worker import main as run_worker  # noqa: PLC0415

        run_worker(int(sys.argv[2]))
        return
    from api.cli import main as run  # noqa: PLC0415
    from api.workers import process  # noqa: PLC0415

    process.COMMAND = ("-m", "benchmarks.harness.skewed", _WORKER)
    run()


if __name__ == "__main__":
    main()
