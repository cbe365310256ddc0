"""What has to be true of a service whose workers were replaced or killed."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from api.targets import names
from benchmarks.harness.metrics import Metrics
from benchmarks.harness.testbed import connected
from benchmarks.harness.workers import PATIENCE_S, Kill, RunningWorkers
from benchmarks.reloads.heartbeats import Failure

_COUNTERS: Final = ("_total", "_count", "_bucket")
_AT_ONCE_S: Final = 1.0
"""How long a client may take to notice that its connection was closed, in seconds."""
_CLOCK_S: Final = 0.05
"""How much the service's estimate of the database's time may be off, in seconds."""
_POLL_S: Final = 0.05
_SEEN: Final = "SELECT device_id::text, extract(epoch FROM last_seen_at)::bigint FROM devices"


def went_back(before: Metrics, after: Metrics) -> list[str]:
    """Return the counters that are lower than before, as text."""
    found = []
    for (name, labels), value in before.samples.items():
        now = after.samples.get((name, labels), 0.0)
        if name.endswith(_COUNTERS) and now < value:
            found.append(f"{name} {dict(labels)} went from {value:g} to {now:g}")
    return found


def unexplained(failures: Sequence[Failure], kills: Sequence[Kill]) -> list[str]:
    """Return the failures that no killed worker explains, as text.

    A worker that is killed fails requests on the connections that it had, until clients notice.

    Args:
        failures: of all clients.
        kills: of all workers.
    """
    return [
        f"{one.what}, {one.at - one.sent_at:.3f} s after it was sent"
        for one in failures
        if not any(
            one.connected_at <= kill.gone_at
            and one.at >= kill.at
            and one.sent_at <= kill.gone_at + _AT_ONCE_S
            for kill in kills
        )
    ]


async def settled(service: RunningWorkers) -> Metrics:
    """Wait until nothing is pending, and return the metrics.

    Raises:
        TimeoutError: something stays pending.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            metrics = await service.metrics()
            late = metrics.total("activity_workers", state="unresponsive")  # its metrics are old
            if not late and not metrics.total("activity_buffer_keys"):
                return metrics
            await asyncio.sleep(_POLL_S)


async def lost(metrics: Metrics, dsn: str, acknowledged: Mapping[str, float]) -> list[str]:
    """Return what was acknowledged and is not stored, and touches without an outcome, as text.

    Args:
        metrics: when nothing is pending.
        dsn: of the database.
        acknowledged: when the last acknowledged heartbeat of each device was sent, in epoch
            seconds.
    """
    problems = [
        f"the counters of {name} are {metrics.balance(name):+.0f} out of balance"
        for name in names()
        if metrics.balance(name)
    ]
    if dropped := metrics.total("activity_touches_dropped_total"):
        problems.append(f"{dropped:.0f} touches were dropped")
    async with connected(dsn) as connection:
        stored = {row[0]: row[1] or 0 for row in await connection.fetch(_SEEN)}
    return problems + [
        f"{device_id} was seen at {since:.0f}, the table has {stored[device_id]}"
        for device_id, since in acknowledged.items()
        if stored[device_id] < int(since - _CLOCK_S)
    ]
