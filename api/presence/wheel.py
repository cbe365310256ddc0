"""A timer wheel for millions of devices: which ones are due in which second.

The ids of a second are one array of bytes, 16 for each device, so a device takes little more than
that. Nothing is removed before its time: the caller reads again whether the device is really due.
"""

from heapq import heappop, heappush
from typing import Final

ID_BYTES: Final = 16


class Wheel:
    """Ids by the second in which they are due."""

    def __init__(self) -> None:
        self._ids: dict[int, bytearray] = {}
        self._seconds: list[int] = []  # a heap of the keys
        self._size = 0

    def __len__(self) -> int:
        """Return how many timers there are; a device may have several."""
        return self._size

    def add(self, second: int, device_id: bytes) -> None:
        """Add a timer.

        Args:
            second: when it is due, in epoch seconds.
            device_id: 16 bytes.
        """
        ids = self._ids.get(second)
        if ids is None:
            ids = self._ids[second] = bytearray()
            heappush(self._seconds, second)
        ids += device_id
        self._size += 1

    def take_due(self, now: int) -> set[bytes]:
        """Remove and return all that is due.

        Args:
            now: in epoch seconds; what is due in this second is due.
        """
        due: set[bytes] = set()
        while self._seconds and self._seconds[0] <= now:
            ids = bytes(self._ids.pop(heappop(self._seconds)))
            self._size -= len(ids) // ID_BYTES
            due.update(ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES))
        return due
