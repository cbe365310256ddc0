"""What a fault is, and the register of all of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.faults.environment import Environment

_Happening = Callable[[Environment], AsyncIterator[None]]

SOON_S: Final = 60.0
"""For what a fault itself waits for, which is done in a moment unless something is broken."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: what it is called on the command line.
        what: what happens, in a line.
        happen: begins it, and mends it when the block ends.
        requests_suffer: the service itself is stopped or gone, so that requests wait or find
            nobody; without it, no heartbeat may.
        times: how many times as long as others it lasts.
    """

    name: str
    what: str
    happen: Callable[[Environment], AbstractAsyncContextManager[None]]
    requests_suffer: bool
    times: int


FAULTS: Final[dict[str, Fault]] = {}
"""All of them by name."""


def fault(*, requests_suffer: bool = False, times: int = 1) -> Callable[[_Happening], _Happening]:
    """Register a fault, whose name and description are those of the function.

    Args:
        requests_suffer: as of `Fault`.
        times: likewise.
    """

    def register(happen: _Happening) -> _Happening:
        name = happen.__name__.replace("_", "-")
        what = (happen.__doc__ or "").rstrip(".")
        FAULTS[name] = Fault(name, what, asynccontextmanager(happen), requests_suffer, times)
        return happen

    return register
