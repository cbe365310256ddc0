"""All active devices in memory: which group each is in.

So a device is known to every process of the service from its start on, in an outage of the
database, too, and a request of a known device never waits for a lookup. `DeviceFeed` loads the
directory and keeps it current. What is not in it, or while it is not current, is looked up in the
usual way: see `CachedLookup`.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import Family, families


class DeviceDirectory(Collector):
    """A mapping of device ids to group ids, which is used only while it is current.

    Args:
        capacity: the most devices it holds; any other device is looked up.
    """

    name: Final = "known_devices"

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self.changes = 0
        """How often a device was added, changed or removed, or all were replaced."""
        self._groups: dict[str, str] = {}
        self._names: dict[str, str] = {}  # one string for each group, shared by its devices
        self._served: Mapping[str, str] = {}  # the devices, or nothing while they are not current
        self._bridging = False  # whether they are used where a lookup fails

    def __len__(self) -> int:
        """Return how many devices it holds."""
        return len(self._groups)

    @property
    def is_current(self) -> bool:
        """Whether its devices are used."""
        return self._served is self._groups

    def group_of(self, device_id: str) -> str | None:
        """Return the group of an active device; None if it is to be looked up.

        Args:
            device_id: in canonical form.
        """
        group_id = self._served.get(device_id)
        if group_id is None:
            self.misses += 1
        else:
            self.hits += 1
        return group_id

    def has(self, device_id: str, group_id: str | None) -> bool:
        """Return whether an active device is in a group; if so, count a hit.

        A miss is not counted: `group_of` follows, and counts it.

        Args:
            device_id: in canonical form.
            group_id: the group; None for any.
        """
        known_group = self._served.get(device_id)
        if known_group is None or (group_id is not None and group_id != known_group):
            return False
        self.hits += 1
        return True

    def last_group_of(self, device_id: str) -> str | None:
        """Return the group of a device as it was last known, if that is not too long ago.

        For a device that should be looked up, and cannot be.

        Args:
            device_id: in canonical form.
        """
        return self._groups.get(device_id) if self._bridging else None

    def put(self, device_id: str, group_id: str) -> None:
        """Add a device, or move it to a group; it is left out if there is no room."""
        if device_id in self._groups or len(self._groups) < self.capacity:
            self._groups[device_id] = self._names.setdefault(group_id, group_id)
        self.changes += 1

    def discard(self, device_id: str) -> None:
        """Remove a device, if it is there."""
        self._groups.pop(device_id, None)
        self.changes += 1

    def replace(self, groups: dict[str, str]) -> None:
        """Replace all devices.

        Args:
            groups: the group of each device; not to be changed any more by the caller.
        """
        was_current = self.is_current
        self._groups = groups
        self._names = {name: name for name in groups.values()}
        self.changes += 1
        if was_current:
            self._served = groups

    def use(self, *, current: bool, bridging: bool = True) -> None:
        """Say how the devices are to be used.

        Args:
            current: whether they are current, so that none of them is looked up.
            bridging: whether they are recent enough for `last_group_of`.
        """
        self._served = self._groups if current else {}
        self._bridging = bridging

    def copy(self) -> dict[str, str]:
        """Return a copy of all devices."""
        return self._groups.copy()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self})


_FAMILIES: Final[tuple[Family[DeviceDirectory], ...]] = (
    Family(
        GaugeMetricFamily,
        "auth_known_devices",
        "Active devices that are known in memory.",
        len,
    ),
    Family(
        GaugeMetricFamily,
        "auth_known_devices_capacity",
        "The most devices that are known in memory; any other device is looked up.",
        lambda directory: directory.capacity,
    ),
)
