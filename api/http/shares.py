"""A capacity that API keys share: each key has a maximum, and waiting keys take turns.

Requests of a key that has reached its maximum wait for requests of the same key only. What is
released is granted to the waiting keys in turns, one request of each key at a time, however many
requests of one key wait. A request that gets no share in time is answered with 503.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from api.http.responses import ApiError
from tracker.instrumentation import LogThrottle

_MAX_WAITING_PER_KEY: Final = 100
"""Each waiting request costs a timer and its memory; further requests are denied at once."""
_RETRY_AFTER_S: Final = 2
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Share:
    """A part of a capacity that a request holds until it releases it.

    A share that is garbage-collected releases itself: aiohttp does not close a response that is
    never sent.

    Args:
        shares: the capacity that it is a part of.
        key: the API key of the request.
        amount: its size.
    """

    __slots__ = ("_amount", "_key", "_shares")

    def __init__(self, shares: "Shares", key: Hashable, amount: int) -> None:
        self._shares = shares
        self._key = key
        self._amount = amount

    def resize(self, amount: int) -> None:
        """Change the size, even beyond the maximum of the key.

        Args:
            amount: the new size.
        """
        change, self._amount = amount - self._amount, amount
        self._shares.change(self._key, change)

    def give_back(self) -> None:
        """Release the share."""
        if self._amount:
            self.resize(0)

    def __del__(self) -> None:
        """Release a share that was not released."""
        self.give_back()


class Shares:
    """A capacity that API keys share.

    Args:
        name: of the limit, in metrics and logs.
        capacity: the most that all API keys hold together.
        per_key: the most that one API key holds.
        amount: the size of each request's share; one request gets it even if the capacity is less.
        wait_s: how long a request waits for its share, in seconds.
    """

    def __init__(
        self, name: str, *, capacity: int, per_key: int, amount: int, wait_s: float
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.held = self.waiting = self.denied = 0
        self._per_key = per_key
        self._amount = amount
        self._wait_s = wait_s
        self._held_by: dict[Hashable, int] = {}
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self._denials = LogThrottle(_LOG_EVERY_S)

    async def take(self, key: Hashable, *, begun: bool = False) -> Share:
        """Take a share for a request, when it is the request's turn.

        Args:
            key: the API key of the request.
            begun: the response has begun, so it is too late for a 503: wait without a limit.

        Raises:
            ApiError: 503 if there is no share in time, or if too many requests wait.
        """
        if key not in self._queues and self._fits(key):
            self.change(key, self._amount)
        else:
            await self._wait(key, None if begun else self._wait_s)
        return Share(self, key, self._amount)

    @asynccontextmanager
    async def turn(self, key: Hashable, *, begun: bool = False) -> AsyncIterator[None]:
        """Hold a share while the block runs.

        Args:
            key: the API key of the request.
            begun: as for `take`.

        Raises:
            ApiError: as `take`.
        """
        share = await self.take(key, begun=begun)
        try:
            yield
        finally:
            share.give_back()

    def change(self, key: Hashable, amount: int) -> None:
        """Change the amount that a key holds, and grant what is free to waiting requests."""
        self.held += amount
        held = self._held_by.get(key, 0) + amount
        if held:
            self._held_by[key] = held
        else:
            self._held_by.pop(key, None)
        if amount < 0 and self._queues:
            self._grant()

    def _fits(self, key: Hashable) -> bool:
        held = self._held_by.get(key, 0)
        return (not held or held + self._amount <= self._per_key) and (
            not self.held or self.held + self._amount <= self.capacity
        )

    async def _wait(self, key: Hashable, wait_s: float | None) -> None:
        queue = self._queues.get(key, ())
        if wait_s is not None and len(queue) >= _MAX_WAITING_PER_KEY:
            raise self._denial(key)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(turn)
        self.waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the share was granted a moment ago
                self.change(key, -self._amount)
            else:
                self._leave(key, turn)
            if isinstance(error, TimeoutError):
                raise self._denial(key) from error
            raise
        finally:
            self.waiting -= 1

    def _leave(self, key: Hashable, turn: "asyncio.Future[None]") -> None:
        queue = self._queues.get(key, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[key]

    def _grant(self) -> None:
        """Grant what is free to the waiting keys, in turns."""
        granted = True
        while granted:
            granted = False
            for key in list(self._queues):
                if not self._fits(key):
                    continue
                queue = self._queues.pop(key)
                turn = queue.popleft()
                if queue:
                    self._queues[key] = queue  # after the keys that have waited longer
                if not turn.done():  # its request may have been cancelled a moment ago
                    self.change(key, self._amount)
                    turn.set_result(None)
                granted = True

    def _denial(self, key: Hashable) -> ApiError:
        self.denied += 1
        if times := self._denials.due():
            log.warning("limits.denied", limit=self.name, key_id=key, times=times)
        return ApiError(
            503,
            "too_busy",
            f"requests of this API key, or of all, use as much as limits.{self.name} allows; "
            "try again",
            retry_after_s=_RETRY_AFTER_S,
        )
