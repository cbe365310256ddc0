"""A listener: an address that clients connect to, and its limit of open connections."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import Family, LogThrottle, families

_REASONS: Final = ("connection_limit", "refused", "slow_header", "slow_body", "slow_response")
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class OpenConnection(Protocol):
    """What a listener needs of a connection."""

    def abort(self, reason: str) -> None:
        """Close the connection at once.

        Args:
            reason: as the metric's documentation names it.
        """
        ...


class Listener:
    """An address that clients connect to.

    At the limit, a new connection replaces the one that has been idle for the longest time, so idle
    connections cannot keep other clients out.

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
        """Connections that wait for their next request; the first has waited longest."""
        self.closed: Counter[str] = Counter()
        """How many connections the service has closed, by reason."""
        self.lets_go = False
        """Whether each connection is closed after its next response."""
        self._max_connections = max_connections
        self._at_limit = LogThrottle(_LOG_EVERY_S)

    def enter(self, new_connection: OpenConnection) -> None:
        """Count a new connection; at the limit, abort an idle one, or else the new one."""
        if len(self.open) >= self._max_connections:
            if times := self._at_limit.due():
                log.warning(
                    "server.connection_limit", listener=self.name, times=times, open=len(self.open)
                )
            if not self.waiting:
                new_connection.abort("refused")
                return
            longest, _ = self.waiting.popitem(last=False)
            longest.abort("connection_limit")
        self.open.add(new_connection)
        self.waiting[new_connection] = None

    def leave(self, connection: OpenConnection) -> None:
        """Stop counting a connection; does nothing if it is not counted."""
        self.open.discard(connection)
        self.waiting.pop(connection, None)


_FAMILIES: Final[tuple[Family[Listener], ...]] = (
    Family(
        GaugeMetricFamily,
        "http_connections",
        "Open connections.",
        lambda listener: len(listener.open),
    ),
    Family(
        CounterMetricFamily,
        "http_connections_closed",
        "Connections that the service closed: for a new one, as a new one, or for slowness.",
        lambda listener: {reason: listener.closed[reason] for reason in _REASONS},
        by="reason",
    ),
)


class ListenerMetrics(Collector):
    """Collects the metrics of connections.

    Args:
        listeners: all listeners of the service.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = {listener.name: listener for listener in listeners}

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, self._listeners, label="listener")
