"""How long to wait after a failure: exponential, capped, and jittered after the cap.

Jitter before the cap would leave none once the cap is reached: all writers that lost the same
server would come back at the same time.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `initial_s` up to `max_s`, each shortened by up to `jitter`.

    Args:
        initial_s: delay after the first failure, in seconds, before jitter.
        max_s: longest delay, in seconds.
        jitter: the largest share of a delay that is subtracted at random, from 0 to 1.
        chance: returns a random number between 0 and 1.
    """

    initial_s: float = 1.0
    max_s: float = 30.0
    jitter: float = 0.25
    chance: Callable[[], float] = random.random

    def delay_s(self, failures: int, *, permanent: bool = False) -> float:
        """Return how long to wait, in seconds.

        Args:
            failures: how many attempts in a row have failed, at least 1.
            permanent: use the longest delay at once.
        """
        doublings = min(failures - 1, 64)  # 2.0 ** 1024 would overflow during a long outage
        delay_s = self.max_s if permanent else min(self.max_s, self.initial_s * 2.0**doublings)
        return delay_s * (1 - self.jitter * self.chance())
