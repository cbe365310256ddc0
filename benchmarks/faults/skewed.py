"""Runs the service with a wall clock that can be wrong: `python -m benchmarks.faults.skewed serve`.

Each SIGUSR1 puts it an hour ahead, each SIGUSR2 an hour back. The monotonic clock does not change,
as when a machine's time is set.
"""

import signal
import time
from types import FrameType
from typing import Final

_HOUR_S: Final = 3600.0

_true_time = time.time
_off_by_s = 0.0


def _time() -> float:
    return _true_time() + _off_by_s


def _move(number: int, _frame: FrameType | None) -> None:
    global _off_by_s  # noqa: PLW0603 - there is one clock
    _off_by_s += _HOUR_S if number == signal.SIGUSR1 else -_HOUR_S


def main() -> None:
    """Run the service's command line with that clock."""
    time.time = _time
    signal.signal(signal.SIGUSR1, _move)
    signal.signal(signal.SIGUSR2, _move)
    from api.cli import main as run  # noqa: PLC0415 - imports bind the clock

    run()


if __name__ == "__main__":
    main()
