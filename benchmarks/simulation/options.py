"""Random options of a history's processes, with small limits and short intervals."""

import random
from dataclasses import dataclass

from tracker import Target


@dataclass(frozen=True)
class Options:
    """The options of the processes of one history; times are in seconds."""

    target: Target
    interval_s: float
    chunk_keys: int
    statement_timeout_s: float
    lock_timeout_s: float
    backoff_initial_s: float
    backoff_max_s: float
    deadline_s: float
    journaled: bool
    max_segments: int


def random_options(rng: random.Random) -> Options:
    """Return random options; unusual ones are valid, too."""
    capacity = rng.choice((4, 10, 1000))
    backoff_initial_s = rng.uniform(0.05, 0.5)
    statement_timeout_s = rng.uniform(0.3, 2)
    return Options(
        target=Target(
            name="things",
            table="things",
            key_column="id",
            column="seen_at",
            key_type="bigint",
            resolution_s=rng.choice((1, 1, 1, 7)),
            capacity_keys=capacity,
            high_water_keys=rng.choice((None, 3, capacity)),
        ),
        interval_s=rng.choice((0.1, 0.5, 1, 3)),
        chunk_keys=rng.choice((1, 2, 5, 20)),
        statement_timeout_s=statement_timeout_s,
        lock_timeout_s=statement_timeout_s * rng.uniform(0.05, 0.5),
        backoff_initial_s=backoff_initial_s,
        backoff_max_s=backoff_initial_s * rng.choice((1, 4, 16)),
        deadline_s=rng.uniform(0.2, 5),
        journaled=rng.random() < 0.85,
        max_segments=rng.choice((8, 16)),
    )
