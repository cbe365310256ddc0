"""Defines what a fault is, and registers all faults by name."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.faults.environment import Environment

_Happening = Callable[[Environment], AsyncIterator[None]]

SOON_S: Final = 60.0
"""Timeout for what a fault itself waits for; it takes a moment unless something is broken."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in the service's environment.

    Attributes:
        name: its name on the command line.
        what: a description in one line.
        happen: begins the fault, and undoes it when the block ends.
        requests_suffer: whether heartbeats may wait or fail, because the service itself is stopped.
        times: the multiple of the usual duration that it lasts.
    """

    name: str
    what: str
    happen: Callable[[Environment], AbstractAsyncContextManager[None]]
    requests_suffer: bool
    times: int


FAULTS: Final[dict[str, Fault]] = {}
"""All faults by name."""


def fault(*, requests_suffer: bool = False, times: int = 1) -> Callable[[_Happening], _Happening]:
    """Register a fault. Its name and description are those of the decorated function.

    Args:
        requests_suffer: see `Fault`.
        times: see `Fault`.
    """

    def register(happen: _Happening) -> _Happening:
        name = happen.__name__.replace("_", "-")
        what = (happen.__doc__ or "").rstrip(".")
        FAULTS[name] = Fault(name, what, asynccontextmanager(happen), requests_suffer, times)
        return happen

    return register
