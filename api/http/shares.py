"""A capacity that API keys share: no key takes more than its part, and those that wait take turns.

A key that asks for more than its part waits behind its own requests only. When something is given
back, the keys that wait get it in turns, one request of each key at a time, however many requests
of one key wait. A request that nothing is left for within its time is answered with 503.
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
"""Each costs a timer and the memory of its request; what comes beyond is denied at once."""
_RETRY_AFTER_S: Final = 2
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Share:
    """A part of a capacity that a request holds until it gives it back.

    A share that is dropped without that gives itself back: a response that is never sent is not
    closed by aiohttp.

    Args:
        shares: where it is from.
        key: the API key that it is counted for.
        amount: how much it is.
    """

    __slots__ = ("_amount", "_key", "_shares")

    def __init__(self, shares: "Shares", key: Hashable, amount: int) -> None:
        self._shares = shares
        self._key = key
        self._amount = amount

    def resize(self, amount: int) -> None:
        """Hold another amount from now on, more than the key's part if need be.

        Args:
            amount: what turned out to be needed.
        """
        change, self._amount = amount - self._amount, amount
        self._shares.change(self._key, change)

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self._amount:
            self.resize(0)

    def __del__(self) -> None:
        """Give back what was forgotten."""
        self.give_back()


class Shares:
    """A capacity that API keys share.

    Args:
        name: of the limit, in metrics and logs.
        capacity: the most that all API keys hold together.
        per_key: the most that one API key holds.
        amount: what a request asks for; one request gets it although a capacity is less.
        wait_s: how long a request waits for it, in seconds.
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
            begun: the response has begun, so that it is too late to deny it anything: wait for as
                long as it takes.

        Raises:
            ApiError: 503 when there is none in time, or too many requests wait.
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
        """Count what a key holds more, or less, and let those that wait take what is free."""
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
            if turn.done() and not turn.cancelled():  # it was this request's turn a moment ago
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
        """Give what is free to the keys that wait, in turns."""
        granted = True
        while granted:
            granted = False
            for key in list(self._queues):
                if not self._fits(key):
                    continue
                queue = self._queues.pop(key)
                turn = queue.popleft()
                if queue:
                    self._queues[key] = queue  # behind the keys that have waited longer
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
