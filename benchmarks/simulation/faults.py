"""The faults. Each is a function that starts the fault and returns a function that ends it."""

import random
from collections.abc import Callable
from typing import Final, TypeAlias

from benchmarks.simulation.disk import Machine
from benchmarks.simulation.network import Network
from benchmarks.simulation.server import Server

Fault: TypeAlias = Callable[["Surroundings"], Callable[[], None]]


class Surroundings:
    """The parts that can fail.

    Args:
        server: the database server.
        network: the connections to it.
        machine: the disk.
        keys: the keys of all rows.
        chance: the random source of the faults.
    """

    def __init__(
        self,
        server: Server,
        network: Network,
        machine: Machine,
        keys: range,
        chance: random.Random,
    ) -> None:
        self.server = server
        self.network = network
        self.machine = machine
        self.keys = keys
        self.chance = chance

    def some_keys(self) -> list[int]:
        """Return a few keys."""
        return self.chance.sample(self.keys, self.chance.randint(1, max(1, len(self.keys) // 3)))


def _attribute(part: str, name: str, value: object, healthy: object) -> Fault:
    def begin(all_: Surroundings) -> Callable[[], None]:
        owner = getattr(all_, part)
        setattr(owner, name, value)
        return lambda: setattr(owner, name, healthy)

    return begin


def _away(all_: Surroundings) -> Callable[[], None]:
    network = all_.network
    network.away = True
    network.restart()

    def end() -> None:
        network.away = False

    return end


def _silent(all_: Surroundings) -> Callable[[], None]:
    all_.network.fall_silent()
    return all_.network.speak_again


def _slow_chunks(all_: Surroundings) -> Callable[[], None]:
    server = all_.server
    server.most_rows = all_.chance.choice((1, 2, 4))

    def end() -> None:
        server.most_rows = 1 << 30

    return end


def _marked(name: str) -> Fault:
    def begin(all_: Surroundings) -> Callable[[], None]:
        rows: set[int] = getattr(all_.server, name)
        some = [key for key in all_.some_keys() if key not in rows]
        rows.update(some)
        return lambda: rows.difference_update(some)

    return begin


def _locked(all_: Surroundings) -> Callable[[], None]:
    server = all_.server
    other_client = server.hold(key for key in all_.some_keys() if server.is_free(key))
    return lambda: server.roll_back(other_client)


def _deleted(all_: Surroundings) -> Callable[[], None]:
    rows = all_.server.rows
    some = [key for key in all_.some_keys() if all_.server.is_free(key) and key in rows]
    for key in some:
        del rows[key]

    def end() -> None:
        for key in some:
            rows.setdefault(key, None)

    return end


FAULTS: Final[dict[str, Fault]] = {
    "server away": _away,
    "network silent": _silent,
    "messages lost": _attribute("network", "loss", 0.1, 0.0),
    "network slow": _attribute("network", "latency_s", 0.2, 0.001),
    "statements slow": _slow_chunks,
    "permission lost": _attribute("server", "denies", True, False),  # noqa: FBT003
    "read-only": _attribute("server", "read_only", True, False),  # noqa: FBT003
    "rows refused": _marked("refusing"),
    "rows left alone": _marked("suppressing"),
    "all rows rejected": _attribute("server", "refuses_all", True, False),  # noqa: FBT003
    "rows locked": _locked,
    "rows deleted": _deleted,
    "disk full": _attribute("machine", "full", True, False),  # noqa: FBT003
    "logs cannot be written": _attribute("machine", "takes_no_logs", True, False),  # noqa: FBT003
    "disk failing": _attribute("machine", "failing", 0.3, 0.0),
    "disk slow": _attribute("machine", "slow_s", 1.0, 0.001),
}
