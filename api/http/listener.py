"""Who is let in: one address that clients come in by, and the most connections that it takes."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import LogThrottle

_REASONS: Final = ("connection_limit", "refused", "slow_header", "slow_body", "slow_response")
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class OpenConnection(Protocol):
    """A connection, as far as a listener knows it."""

    def abort(self, reason: str) -> None:
        """End here and now.

        Args:
            reason: as the metric's documentation names it.
        """
        ...


class Listener:
    """One address that clients come in by.

    At its limit, the connection that has waited longest without a request is closed for the
    newcomer: whoever holds connections open without using them keeps nobody out.

    Args:
        name: the label of its metrics.
        host: address to listen on.
        port: port to listen on.
        max_connections: the most connections.
    """

    def __init__(self, name: str, host: str, port: int, *, max_connections: int) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.open: set[OpenConnection] = set()
        self.waiting: OrderedDict[OpenConnection, None] = OrderedDict()
        """Those from which the next request is awaited; the first has waited longest."""
        self.closed: Counter[str] = Counter()
        """How many were ended by us, by reason."""
        self._max_connections = max_connections
        self._at_limit = LogThrottle(_LOG_EVERY_S)

    def enter(self, newcomer: OpenConnection) -> None:
        """Let a newcomer in, if need be in place of another; it may be aborted instead."""
        if len(self.open) >= self._max_connections:
            if times := self._at_limit.due():
                log.warning(
                    "server.connection_limit", listener=self.name, times=times, open=len(self.open)
                )
            if not self.waiting:
                newcomer.abort("refused")
                return
            longest, _ = self.waiting.popitem(last=False)
            longest.abort("connection_limit")
        self.open.add(newcomer)
        self.waiting[newcomer] = None

    def leave(self, connection: OpenConnection) -> None:
        """Forget a connection; one that has left already too."""
        self.open.discard(connection)
        self.waiting.pop(connection, None)


class ListenerMetrics(Collector):
    """Collects the metrics of connections.

    Args:
        listeners: all listeners of the service.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        connections = GaugeMetricFamily(
            "http_connections", "Open connections.", labels=["listener"]
        )
        closed = CounterMetricFamily(
            "http_connections_closed",
            "Connections that we ended: for a newcomer, as a newcomer, or for slowness.",
            labels=["listener", "reason"],
        )
        for listener in self._listeners:
            connections.add_metric([listener.name], len(listener.open))
            for reason in _REASONS:
                closed.add_metric([listener.name, reason], listener.closed[reason])
        yield from (connections, closed)
