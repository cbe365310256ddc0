"""Measures contenders in alternation: A B A B ..., because a machine's speed varies by the minute.

Each round measures every contender once, in an order that rotates, and gives one ratio. Reports
have the median of the ratios, the lowest and the highest.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

T = TypeVar("T")

LEAST_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratios of the rounds.

    Args:
        median: the median.
        low: the lowest.
        high: the highest.
    """

    median: float
    low: float
    high: float


async def alternate(
    rounds: int,
    contenders: Mapping[str, Callable[[], Awaitable[T]]],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[T]]:
    """Measure contenders in turn.

    Args:
        rounds: the number of rounds; at least `LEAST_ROUNDS`.
        contenders: a function that measures each, by name.
        advance: called after each measurement.

    Returns:
        The measurements of each contender, round by round.
    """
    measured: dict[str, list[T]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(max(rounds, LEAST_ROUNDS)):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            measured[name].append(await contenders[name]())
            advance()
    return measured


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return ours / theirs, round by round.

    Args:
        ours: one value a round.
        theirs: the same rounds' values.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
