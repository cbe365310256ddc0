"""The active devices that API keys reach: from the directory of all, or else from caches."""

import asyncio
from collections.abc import Sequence
from typing import Final

from api.access.directory import DeviceDirectory
from api.access.lookup import CachedLookup
from api.fleet.known_devices import KnownDevice
from tracker import StoreError

_AT_ONCE: Final = 500
"""After so many devices of one request, other requests have their turn."""


class ReachableDevices:
    """Finds active devices, each for an API key of one group or of all.

    Args:
        devices: active devices by their id.
        devices_of_group: active devices by group and id, for API keys of one group.
        directory: all active devices, used while it is current; else the caches are used.
    """

    def __init__(
        self,
        devices: CachedLookup[str, KnownDevice],
        devices_of_group: CachedLookup[tuple[str, str], KnownDevice],
        directory: DeviceDirectory,
    ) -> None:
        self._devices = devices
        self._devices_of_group = devices_of_group
        self._directory = directory

    def has(self, device_id: str, group_id: str | None) -> bool:
        """Return whether the directory has a device in reach of an API key.

        Args:
            device_id: in canonical form; it has none in another form.
            group_id: the group of the API key; None for all.
        """
        return self._directory.has(device_id, group_id)

    def known(self, device_id: str, group_id: str | None) -> KnownDevice | None:
        """Return a device that the directory has; None otherwise, then await `find`.

        Args:
            device_id: in canonical form.
            group_id: the group of the API key; None for all.
        """
        known_group = self._directory.group_of(device_id)
        if known_group is None or group_id not in (None, known_group):
            return None
        return KnownDevice(device_id, known_group)

    async def find(self, device_id: str, group_id: str | None) -> KnownDevice | None:
        """Return a device that the directory does not have as current; None if there is none.

        Args:
            device_id: in canonical form.
            group_id: the group of the API key; None for all.

        Raises:
            StoreError: it is not cached, the database is unavailable, and the directory does not
                have it either.
        """
        try:
            device = self._devices.cached(device_id)
            if group_id is None:
                return device or await self._devices.get(device_id)
            if device is not None and device.group_id == group_id:
                return device
            return await self._find_in_group(device_id, group_id)
        except StoreError:
            last_group = self._directory.last_group_of(device_id)
            if last_group is None or group_id not in (None, last_group):
                raise
            return KnownDevice(device_id, last_group)

    async def find_many(self, device_ids: Sequence[str], group_id: str | None) -> set[str]:
        """Return those of some devices that an API key reaches.

        Args:
            device_ids: in canonical form.
            group_id: the group of the API key; None for all.

        Raises:
            StoreError: one is not cached, and the database is unavailable.
        """
        found: set[str] = set()
        others: dict[str, None] = {}
        for place, device_id in enumerate(device_ids, start=1):
            known_group = self._directory.group_of(device_id)
            if known_group is not None and group_id in (None, known_group):
                found.add(device_id)
            else:
                others[device_id] = None
            if not place % _AT_ONCE:
                await asyncio.sleep(0)

        left = list(others)
        for start in range(0, len(left), _AT_ONCE):
            devices = await asyncio.gather(
                *(self.find(one, group_id) for one in left[start : start + _AT_ONCE])
            )
            found.update(device.device_id for device in devices if device is not None)
        return found

    def knows(self, device_id: str, group_id: str) -> bool:
        """Return whether the cache has a device in a group; it sends no query."""
        known = self._devices.peek(device_id)
        known_group = self._directory.group_of(device_id) or (known and known.group_id)
        return known_group == group_id

    def remember(self, device: KnownDevice) -> None:
        """Cache a device that has just been registered."""
        self._directory.put(device.device_id, device.group_id)
        self._devices.put(device.device_id, device)
        self._devices_of_group.discard((device.group_id, device.device_id))

    def forget(self, device_id: str) -> None:
        """Remove a device that has just been deactivated from directory and cache."""
        self._directory.discard(device_id)
        self._devices.discard(device_id)

    async def _find_in_group(self, device_id: str, group_id: str) -> KnownDevice | None:
        """Look up a device that the cache does not have in a group.

        A device of another group takes the same path as a device that does not exist, so neither
        the response time nor an outage of the database discloses which it is.
        """
        known = self._devices.peek(device_id)
        if known is not None and known.group_id == group_id:
            known = await self._devices.get(device_id)
            if known is not None and known.group_id == group_id:
                return known
        found = await self._devices_of_group.get((group_id, device_id))
        if found is not None:
            # From here on the cache by id has it, which `remember` and `forget` keep up to date.
            self._devices_of_group.discard((group_id, device_id))
            self._devices.put(device_id, found)
        return found
