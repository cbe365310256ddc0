"""The metrics of a service with several workers: sums, and how each worker does."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from api.workers.merge import OF_PARENT, Totals, unsettled, value_of
from api.workers.process import WorkerProcess

_REASONS: Final = ("died", "start_failed", "reload")
_CPU: Final = "process_cpu_seconds_total"
_REQUESTS: Final = "http_request_duration_seconds_count"
_STATES: Final = ("starting", "ready", "draining", "unresponsive")
_BY_WORKER: Final = (
    (
        "activity_worker_memory_bytes",
        "Resident memory of each worker.",
        "process_resident_memory_bytes",
    ),
    (
        "activity_worker_event_loop_lag_seconds",
        "How late the event loop of each worker ran a timer, the worst of the last 15 seconds.",
        "event_loop_lag_seconds",
    ),
    ("activity_worker_connections", "Open connections of each worker.", "http_connections"),
)
"""Gauges of each worker: name, documentation, and the sample that they are from."""


class ServiceMetrics:
    """Adds up what the workers of one service count.

    Args:
        wanted: how many workers there should be.
    """

    def __init__(self, wanted: int) -> None:
        self.restarts = Counter(dict.fromkeys(_REASONS, 0))
        """How often a worker was started again, by reason."""
        self._wanted = wanted
        self._parent = ProcessCollector(registry=None)
        self._totals = Totals()
        self._gone: defaultdict[int, Counter[str]] = defaultdict(Counter)  # samples, by worker

    def keep(self, worker: WorkerProcess) -> None:
        """Keep the counters of a worker that has ended.

        Args:
            worker: it is not among those that run any more.
        """
        for sample in (_CPU, _REQUESTS):
            self._gone[worker.number][sample] += value_of(worker.metrics, sample)  # type: ignore[assignment]
        families = worker.metrics
        if not worker.has_told_all:
            # What it had not written yet is in its journal, and counts as touches again where that
            # is recovered. So these count as one with those.
            left = {target: count for target, count in unsettled(families).items() if count > 0}
            families = [*families, _coalesced(left)]
        self._totals.keep(families)
        worker.metrics = []

    def text(self, workers: Sequence[WorkerProcess], *, vacant: int) -> bytes:
        """Return all metrics in Prometheus's text format.

        Args:
            workers: those that run.
            vacant: how many places have no worker that serves.
        """
        living = self._totals.with_living(worker.metrics for worker in workers)
        parent = [family for family in self._parent.collect() if family.name in OF_PARENT]
        return generate_latest(_Families([*living, *parent, *self._own(workers, vacant)]))

    def _own(self, workers: Sequence[WorkerProcess], vacant: int) -> Iterator[Metric]:
        states = Counter(dict.fromkeys(_STATES, 0))
        states["starting"] = vacant
        for worker in workers:
            states[worker.state if worker.answers else "unresponsive"] += 1
        gauge = GaugeMetricFamily("activity_workers", "Workers by what they do.", labels=["state"])
        for state, count in states.items():
            gauge.add_metric([state], count)
        yield gauge
        yield GaugeMetricFamily(
            "activity_workers_wanted", "Workers that the settings ask for.", self._wanted
        )
        counter = CounterMetricFamily(
            "activity_worker_restarts", "Workers that were started again.", labels=["reason"]
        )
        for reason, count in self.restarts.items():
            counter.add_metric([reason], count)
        yield counter
        yield from self._by_worker(workers)

    def _by_worker(self, workers: Sequence[WorkerProcess]) -> Iterator[Metric]:
        cpu = CounterMetricFamily(
            "activity_worker_cpu_seconds", "CPU time of each worker.", labels=["worker"]
        )
        requests = CounterMetricFamily(
            "activity_worker_requests", "Requests that each worker has answered.", labels=["worker"]
        )
        gauges = [
            (GaugeMetricFamily(name, documentation, labels=["worker"]), sample)
            for name, documentation, sample in _BY_WORKER
        ]
        for number in range(1, self._wanted + 1):
            own = [one.metrics for one in workers if one.number == number]
            gone = self._gone[number]
            seconds = sum(value_of(one, _CPU) for one in own)
            cpu.add_metric([str(number)], seconds + gone[_CPU])
            served = sum(value_of(one, _REQUESTS) for one in own)
            requests.add_metric([str(number)], served + gone[_REQUESTS])
            for gauge, sample in gauges:
                largest = max((value_of(one, sample) for one in own), default=0.0)
                gauge.add_metric([str(number)], largest)
        yield cpu
        yield requests
        yield from (gauge for gauge, _ in gauges)


class _Families(Collector):
    """Metric families that are there already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _coalesced(targets: Mapping[str, float]) -> tuple[str, str, str, list[Any]]:
    name = "activity_touches_coalesced"
    samples = [(f"{name}_total", {"target": target}, count) for target, count in targets.items()]
    return (name, "Touches that went into an entry that was pending already.", "counter", samples)
