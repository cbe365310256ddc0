"""What a group has encoded: all its devices as of one tick, and the changes of each tick."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices of a group, encoded as events, as of one tick.

    Args:
        number: of the tick.
        devices: how many are in the snapshot.
        of: how many active devices the group has.
        chunks: the events.
        size_bytes: total length of the events.
    """

    number: int
    devices: int
    of: int
    chunks: list[bytes]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The events of one tick.

    Args:
        group: what changed in the group; for all subscribers.
        service: the tracker's statistics; for subscribers whose API key may read all groups.
    """

    group: bytes
    service: bytes

    def __len__(self) -> int:
        """Return the size in bytes."""
        return len(self.group) + len(self.service)
