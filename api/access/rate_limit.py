"""The pace at which requests without a valid key are refused, so that many of them harm nobody.

A client with a wrong key is told so at once. Beyond so many a second each refusal waits for its
turn: whoever sends the next request when the last was answered is slowed down, and a flood takes as
much from the others as it has connections, not as fast as it can send. Turns are spread evenly, for
what comes all at once is as bad as what comes all the time. Waiting costs a timer and the request's
memory, so only so many wait, whatever clients do in the meantime. There is one queue for all:
behind a proxy all clients have one address.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

_RATE_PER_S: Final = 200
_AT_ONCE: Final = 200
_LONGEST_S: Final = 2.0
_MOST_WAITING: Final = 2000


class RateLimiter:
    """Makes each refusal wait for its turn.

    Args:
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._turn_at = float("-inf")
        self._waiting = 0

    def take_turn(self) -> float:
        """Take the next turn and return how long it is until then, in seconds."""
        now = self._monotonic()
        earliest = now - _AT_ONCE / _RATE_PER_S
        turn_at = max(self._turn_at, earliest) + 1 / _RATE_PER_S
        if turn_at > now + _LONGEST_S:  # all turns are taken: come in between
            return random.uniform(_LONGEST_S / 2, _LONGEST_S)
        self._turn_at = turn_at
        return max(0.0, turn_at - now)

    async def wait(self) -> None:
        """Return when it is this refusal's turn, or at once if too many wait."""
        wait_s = self.take_turn()
        if wait_s and self._waiting < _MOST_WAITING:
            self._waiting += 1
            try:
                await asyncio.sleep(wait_s)
            finally:
                self._waiting -= 1
