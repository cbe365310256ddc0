"""The service with a wall clock that can be wrong: `python -m benchmarks.faults.skewed serve`.

SIGUSR1 puts it an hour ahead, SIGUSR2 an hour back, each as often as it comes. The monotonic clock
is left alone, as it is when somebody sets a machine's time.
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
    """Run the service's command line by that clock."""
    time.time = _time
    signal.signal(signal.SIGUSR1, _move)
    signal.signal(signal.SIGUSR2, _move)
    from api.cli import main as run  # noqa: PLC0415 - what it imports keeps the clock it finds

    run()


if __name__ == "__main__":
    main()
