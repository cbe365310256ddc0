"""The rate limit of 401 responses, so that a flood of wrong API keys does not slow other clients.

Up to the limit a denied request gets its response at once. Beyond it each response waits for its
turn, so a client that waits for a response before it sends the next request is slowed down, and the
cost of a flood depends on its connections and not on how fast they send. Turns are spread evenly,
because a burst delays other requests as much as a steady flood. Waiting costs a timer and the
memory of the request, so the number of waiting requests is limited, too. There is one queue for
all clients: behind a proxy they have the same address.
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
    """Makes each denied request wait for its turn.

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
        if turn_at > now + _LONGEST_S:  # all turns are taken: use a random time
            return random.uniform(_LONGEST_S / 2, _LONGEST_S)
        self._turn_at = turn_at
        return max(0.0, turn_at - now)

    async def wait(self) -> None:
        """Return when it is the request's turn, or at once if too many wait."""
        wait_s = self.take_turn()
        if wait_s and self._waiting < _MOST_WAITING:
            self._waiting += 1
            try:
                await asyncio.sleep(wait_s)
            finally:
                self._waiting -= 1
