"""What the flusher asks of a store, so that it can be tested against one that fails at will."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tracker.keys import Key

Chunk: TypeAlias = Sequence[tuple[Key, int]]
"""Distinct keys in ascending order, each with the second it was last touched."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a committed chunk; a key that is in none of these was advanced.

    Args:
        unchanged: how many keys had a stored time at least as new.
        missing: the keys that have no row.
        refused: the keys whose rows the server left alone without an error, as a trigger may do.
        locked: the keys whose rows somebody else's transaction holds; to be written again.
    """

    unchanged: int = 0
    missing: Sequence[Key] = ()
    refused: Sequence[Key] = ()
    locked: Sequence[Key] = ()


class Store(Protocol):
    """Where one target's touches end up."""

    async def write(self, chunk: Chunk) -> Written:
        """Advance each key's stored time to its touch, never backwards, and commit.

        Raises:
            StoreTimeout: the server took too long; nothing was written, try fewer keys.
            StoreUnavailable: try again later; whether the chunk was written is unknown.
            StoreMisconfigured: permanent until somebody changes something.
            RowRefused: a row of the chunk is refused; nothing was written, try the others.
        """
        ...
