"""The place of a worker: its number and its sockets, which outlive the worker that fills it."""

import socket
from collections.abc import Mapping, Sequence

from api.config import ServerSettings
from api.http.listener import Listener
from api.workers.process import WorkerProcess
from api.workers.sockets import open_sockets


class Slot:
    """The place of a worker.

    Args:
        number: of the worker, from 1.
        sockets: that it accepts from, by listener.
    """

    def __init__(self, number: int, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        """The worker that accepts connections; None while there is none."""
        self.starting: WorkerProcess | None = None
        """The worker that is about to fill the place."""
        self.started_at = 0.0
        """When `worker` began to accept connections, by the monotonic clock."""
        self._sockets = sockets

    @property
    def all_sockets(self) -> list[socket.socket]:
        """All of its sockets."""
        return [one for some in self._sockets.values() for one in some]

    @property
    def descriptors(self) -> dict[str, list[int]]:
        """The descriptors of its sockets, by listener."""
        return {name: [one.fileno() for one in some] for name, some in self._sockets.items()}


def open_slots(server: ServerSettings) -> list[Slot]:
    """Open the sockets of all workers.

    Args:
        server: the addresses, and how many workers there are.

    Raises:
        OSError: an address cannot be listened on.
    """
    api = Listener("api", server.host, server.port, max_connections=1)
    found: dict[str, list[list[socket.socket]]] = {"api": open_sockets(api, server.workers)}
    if server.monitor_port:
        monitor = Listener("monitor", server.monitor_host, server.monitor_port, max_connections=1)
        found["monitor"] = open_sockets(monitor, server.workers)
    return [
        Slot(number + 1, {name: sockets[number] for name, sockets in found.items()})
        for number in range(server.workers)
    ]
