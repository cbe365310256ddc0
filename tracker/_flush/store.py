"""What a flusher needs of a store: a protocol, so that tests can use one that fails on command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tracker.keys import Key


@dataclass(frozen=True, slots=True)
class Chunk:
    """Distinct keys, in no order, and for each the second at which it was last touched.

    Two lists instead of pairs: a flush creates no object per key.
    """

    keys: list[Key]
    seconds: list[int]

    def __len__(self) -> int:
        """The number of keys."""
        return len(self.keys)

    def entries(self) -> Iterator[tuple[Key, int]]:
        """Return each key with its second."""
        return zip(self.keys, self.seconds, strict=True)

    def take(self, most: int) -> "Chunk":
        """Remove and return up to `most` keys."""
        taken = Chunk(self.keys[-most:], self.seconds[-most:])
        del self.keys[-most:], self.seconds[-most:]
        return taken


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of a committed chunk; a key that is in none of these was advanced.

    Args:
        unchanged: how many keys had a stored time at least as new.
        missing: the keys that have no row.
        rejected: the keys whose rows the server skipped without an error, as a trigger may do.
        locked: the keys whose rows another transaction has locked; to be written again.
        corrected: of the keys that were advanced, those whose stored time was in the future, which
            was replaced by the touch.
    """

    unchanged: int = 0
    missing: Sequence[Key] = ()
    rejected: Sequence[Key] = ()
    locked: Sequence[Key] = ()
    corrected: Sequence[Key] = ()


class Store(Protocol):
    """Writes the touches of one target to its table."""

    async def write(self, chunk: Chunk) -> ChunkResult:
        """Advance each key's stored time to its touch, never backwards, and commit.

        Only a stored time in the future moves back, to the touch.

        Raises:
            StoreTimeout: the server took too long; nothing was written, try fewer keys.
            StoreUnavailable: try again later; whether the chunk was written is unknown.
            StoreMisconfigured: permanent until a table, a column or a permission is changed.
            RowRejected: a row of the chunk is rejected; nothing was written, try the others.
        """
        ...

    async def check(self) -> None:
        """Do all that `write` does but for its rows, to find out whether they are the cause.

        Raises:
            StoreError: it fails without rows, too, so no row is the cause.
        """
        ...

    async def hides_rows(self) -> str | None:
        """Return why a row may exist though its key was reported missing; None if none can.

        Raises:
            StoreError: that cannot be found out now.
        """
        ...
