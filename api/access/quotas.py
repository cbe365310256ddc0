"""Quotas of registrations: per API key and minute, and active devices per group.

Each process counts for itself, so that a registration needs no further statement.
"""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from cachetools import LRUCache

from api.config import LimitSettings
from api.http.responses import ApiError

_MINUTE_S: Final = 60.0
_GROUP_RETRY_S: Final = 60
_MAX_KEYS: Final = 10_000
_MAX_GROUPS: Final = 10_000
_RECOUNT_PARTS: Final = 8
"""A group's devices are counted again when one of so many parts of the quota that was left is used:
other processes use the quota, too."""


class RegistrationRate:
    """The rate limit of registrations per API key: a token bucket that fills up within a minute.

    Args:
        per_minute: the most in a minute, and in a burst.
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, per_minute: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        # When the bucket of each key would be full again.
        self._full_at: LRUCache[int, float] = LRUCache(_MAX_KEYS)

    def take(self, key_id: int) -> None:
        """Count a registration.

        Raises:
            ApiError: 429 if there were too many.
        """
        now = self._monotonic()
        interval_s = _MINUTE_S / self._per_minute
        full_at = max(now, self._full_at.get(key_id, now)) + interval_s
        late_s = full_at - now - _MINUTE_S
        if late_s > interval_s * 1e-6:
            raise ApiError(
                429,
                "too_many_registrations",
                f"this API key registers more than {self._per_minute} devices a minute",
                retry_after_s=math.ceil(late_s),
            )
        self._full_at[key_id] = full_at


class GroupRoom:
    """The quota of active devices per group.

    Args:
        most: the most active devices of a group.
        count: returns how many active devices a group has; raises StoreError.
    """

    def __init__(self, most: int, count: Callable[[str], Awaitable[int]]) -> None:
        self._most = most
        self._count = count
        self._room: LRUCache[str, int] = LRUCache(_MAX_GROUPS)

    async def take(self, group_id: str) -> None:
        """Count a device that may be new in a group.

        Raises:
            ApiError: 429 if the group is full.
            StoreError: the database is unavailable.
        """
        room = self._room.pop(group_id, 0)
        if room <= 0:
            left = self._most - await self._count(group_id)
            if left <= 0:
                raise ApiError(
                    429,
                    "group_is_full",
                    f"group {group_id} has {self._most} active devices, the most that are allowed",
                    retry_after_s=_GROUP_RETRY_S,
                )
            room = math.ceil(left / _RECOUNT_PARTS)
        self._room[group_id] = room - 1


class Quotas(NamedTuple):
    """The quotas that a registration counts against."""

    rate: RegistrationRate
    room: GroupRoom


def quotas_of(limits: LimitSettings, count: Callable[[str], Awaitable[int]]) -> Quotas:
    """Return the quotas that the settings ask for.

    Args:
        limits: the settings.
        count: returns how many active devices a group has; raises StoreError.
    """
    return Quotas(
        RegistrationRate(limits.registrations_per_minute),
        GroupRoom(limits.devices_per_group, count),
    )
