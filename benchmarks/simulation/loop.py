"""An event loop in virtual time: it jumps to the next timer, and runs callbacks in random order."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from heapq import heappop
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

OWNER: ContextVar[object] = ContextVar("owner", default=None)
"""The owner of the tasks that are created in this context."""


class DeadlockError(Exception):
    """A deadlock: all tasks wait, and there is no timer."""


class OwnedTask(asyncio.Task[Any]):
    """A task that knows its owner, and whose hash is its number.

    asyncio keeps tasks in sets. With hashes by address, their order would differ in each run.
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
    """Runs ready callbacks one by one in random order; advances the clock when none is ready.

    Args:
        rng: the random source.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.on_unhandled: Callable[[str], None] = lambda _: None
        self._rng = rng
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
                raise DeadlockError
            self._now_s = max(self._now_s, timers[0]._when)
        while timers and timers[0]._when <= self._now_s:
            timer = heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        if len(ready) > 1:
            ready.rotate(self._rng.randrange(len(ready)))
        handle = ready.popleft()
        if not handle._cancelled:
            self.steps += 1
            handle._run()
            self.after_step()

    def run_in_executor(
        self, _executor: object, work: Callable[..., T], *arguments: object
    ) -> asyncio.Future[T]:
        """Run the function a little later, without a thread and without interruption."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            try:
                result = work(*arguments)
            except Exception as error:  # noqa: BLE001 - the caller receives it
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._rng.uniform(0, 0.01), run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Return the unhandled errors of owners that are alive."""
        self.on_unhandled(f"{context.get('message')}: {context.get('exception')!r}")
