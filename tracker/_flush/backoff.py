"""How long to wait after a failure: exponential, capped, and jittered after the cap.

Jitter inside the cap would leave none once the cap is reached, and all writers that lost the same
server would come back together.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `first_s` up to `most_s`, each shortened by up to `jitter`.

    Args:
        first_s: delay after the first failure, in seconds, before jitter.
        most_s: longest delay, in seconds.
        jitter: the share of a delay that chance takes away, from 0 to 1.
        chance: a random number between 0 and 1.
    """

    first_s: float = 1.0
    most_s: float = 30.0
    jitter: float = 0.25
    chance: Callable[[], float] = random.random

    def delay_s(self, failures: int, *, permanent: bool = False) -> float:
        """Return how long to wait after `failures` failures in a row, in seconds.

        Args:
            failures: how many there were, at least 1.
            permanent: go at the slowest pace at once.
        """
        doublings = min(failures - 1, 64)  # 2.0 ** 1024 would overflow during a long outage
        delay_s = self.most_s if permanent else min(self.most_s, self.first_s * 2.0**doublings)
        return delay_s * (1 - self.jitter * self.chance())
