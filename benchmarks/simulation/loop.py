"""An event loop in which time is a number: it jumps to the next timer, and chance says who runs."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from heapq import heappop
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

OWNER: ContextVar[object] = ContextVar("owner", default=None)
"""Whose the tasks are that are made in this context."""


class NothingLeftToDo(Exception):
    """Everybody waits for somebody else: in real time this would hang."""


class OwnedTask(asyncio.Task[Any]):
    """A task that knows its owner, and whose hash is its number.

    asyncio keeps tasks in sets. By address these would be in another order in each run.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], number: int, loop: "VirtualLoop", **more: Any
    ) -> None:
        self.number = number
        self.owner = OWNER.get()
        super().__init__(coroutine, loop=loop, **more)

    def __hash__(self) -> int:
        """Return the number of the task."""
        return self.number

    __eq__ = object.__eq__


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs one ready callback at a time, any of them, and moves the clock when none is.

    Args:
        chance: decides which.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.on_unhandled: Callable[[str], None] = lambda _: None
        self._chance = chance
        self._now_s = 0.0
        numbers = count()
        self.set_task_factory(
            lambda loop, coroutine, **more: OwnedTask(coroutine, next(numbers), loop, **more)
        )

    def time(self) -> float:
        """Return how many seconds have passed."""
        return self._now_s

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heappop(timers)._scheduled = False
        if not ready:
            if not timers:
                raise NothingLeftToDo
            self._now_s = max(self._now_s, timers[0]._when)
        while timers and timers[0]._when <= self._now_s:
            timer = heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        if len(ready) > 1:
            ready.rotate(self._chance.randrange(len(ready)))
        handle = ready.popleft()
        if not handle._cancelled:
            self.steps += 1
            handle._run()
            self.after_step()

    def run_in_executor(
        self, _executor: object, work: Callable[..., T], *arguments: object
    ) -> asyncio.Future[T]:
        """Do the work a little later, in no thread; like a thread it is not interrupted."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            try:
                result = work(*arguments)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._chance.uniform(0, 0.01), run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand over what nobody has handled, of owners that are alive."""
        self.on_unhandled(f"{context.get('message')}: {context.get('exception')!r}")
