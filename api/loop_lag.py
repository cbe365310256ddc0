"""How late the event loop runs its timers: what every request waits at least."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import Family, families

_EVERY_S: Final = 0.25
_REMEMBERED: Final = 60


class LoopLag(Collector):
    """Measures the lag while it runs; shows the worst of the last 15 seconds."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque([0.0], maxlen=_REMEMBERED)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self})

    @property
    def worst_s(self) -> float:
        """The largest lag of the last 15 seconds."""
        return max(self._samples)

    async def measure(self) -> None:
        """Measure until the task is cancelled."""
        while True:
            due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self._samples.append(max(0.0, time.monotonic() - due))


_FAMILIES: Final[tuple[Family[LoopLag], ...]] = (
    Family(
        GaugeMetricFamily,
        "event_loop_lag_seconds",
        "How late the event loop ran a timer, the worst of the last 15 seconds.",
        lambda lag: lag.worst_s,
    ),
)
