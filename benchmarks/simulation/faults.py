"""The faults. Each is a function that starts the fault and returns a function that ends it."""

import random
from collections.abc import Callable
from typing import Final, TypeAlias

from benchmarks.simulation.disk import Disk
from benchmarks.simulation.network import Network
from benchmarks.simulation.server import Server

Fault: TypeAlias = Callable[["Environment"], Callable[[], None]]


class Environment:
    """The parts that can fail.

    Args:
        server: the database server.
        network: the connections to it.
        disk: the disk.
        keys: the keys of all rows.
        rng: the random source of the faults.
    """

    def __init__(
        self,
        server: Server,
        network: Network,
        disk: Disk,
        keys: range,
        rng: random.Random,
    ) -> None:
        self.server = server
        self.network = network
        self.disk = disk
        self.keys = keys
        self.rng = rng

    def some_keys(self) -> list[int]:
        """Return a few keys."""
        return self.rng.sample(self.keys, self.rng.randint(1, max(1, len(self.keys) // 3)))


def _attribute(part: str, name: str, value: object, healthy: object) -> Fault:
    def begin(environment: Environment) -> Callable[[], None]:
        owner = getattr(environment, part)
        setattr(owner, name, value)
        return lambda: setattr(owner, name, healthy)

    return begin


def _server_down(environment: Environment) -> Callable[[], None]:
    network = environment.network
    network.down = True
    network.restart()

    def end() -> None:
        network.down = False

    return end


def _messages_held(environment: Environment) -> Callable[[], None]:
    environment.network.hold_messages()
    return environment.network.deliver_again


def _slow_chunks(environment: Environment) -> Callable[[], None]:
    server = environment.server
    server.max_rows = environment.rng.choice((1, 2, 4))

    def end() -> None:
        server.max_rows = 1 << 30

    return end


def _some_rows(name: str) -> Fault:
    def begin(environment: Environment) -> Callable[[], None]:
        rows: set[int] = getattr(environment.server, name)
        some = [key for key in environment.some_keys() if key not in rows]
        rows.update(some)
        return lambda: rows.difference_update(some)

    return begin


def _locked(environment: Environment) -> Callable[[], None]:
    server = environment.server
    other_client = server.hold(key for key in environment.some_keys() if server.is_free(key))
    return lambda: server.roll_back(other_client)


def _deleted(environment: Environment) -> Callable[[], None]:
    rows = environment.server.rows
    some = [
        key for key in environment.some_keys() if environment.server.is_free(key) and key in rows
    ]
    for key in some:
        del rows[key]

    def end() -> None:
        for key in some:
            rows.setdefault(key, None)

    return end


FAULTS: Final[dict[str, Fault]] = {
    "server down": _server_down,
    "messages held": _messages_held,
    "messages lost": _attribute("network", "loss", 0.1, 0.0),
    "network slow": _attribute("network", "latency_s", 0.2, 0.001),
    "statements slow": _slow_chunks,
    "permission lost": _attribute("server", "denies", True, False),  # noqa: FBT003
    "read-only": _attribute("server", "read_only", True, False),  # noqa: FBT003
    "rows rejected": _some_rows("rejecting"),
    "updates suppressed": _some_rows("suppressing"),
    "all rows rejected": _attribute("server", "rejects_all", True, False),  # noqa: FBT003
    "rows locked": _locked,
    "rows deleted": _deleted,
    "disk full": _attribute("disk", "full", True, False),  # noqa: FBT003
    "logs cannot be written": _attribute("disk", "rejects_logs", True, False),  # noqa: FBT003
    "disk failing": _attribute("disk", "failing", 0.3, 0.0),
    "disk slow": _attribute("disk", "slow_s", 1.0, 0.001),
}
