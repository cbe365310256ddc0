"""Quotas of registrations: how many a minute for each API key, and how many devices a group has.

Both are counted by each process, so that a registration costs no statement more.
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
_KEYS_REMEMBERED: Final = 10_000
_GROUPS_REMEMBERED: Final = 10_000
_COUNT_AGAIN: Final = 8
"""The room of a group is counted again when this part of it is used: other processes use it too."""


class RegistrationRate:
    """How many registrations an API key may make: a bucket that fills up within a minute.

    Args:
        per_minute: the most in a minute, and at once.
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, per_minute: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        # When the bucket of each key would be full again.
        self._full_at: LRUCache[int, float] = LRUCache(_KEYS_REMEMBERED)

    def take(self, key_id: int) -> None:
        """Count a registration.

        Raises:
            ApiError: 429 when there were too many.
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
    """How many more devices each group may have.

    Args:
        most: the most active devices of a group.
        count: returns how many a group has; raises StoreError.
    """

    def __init__(self, most: int, count: Callable[[str], Awaitable[int]]) -> None:
        self._most = most
        self._count = count
        self._room: LRUCache[str, int] = LRUCache(_GROUPS_REMEMBERED)

    async def take(self, group_id: str) -> None:
        """Count a device that may be new in a group.

        Raises:
            ApiError: 429 when the group is full.
            StoreError: the database is away.
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
            room = math.ceil(left / _COUNT_AGAIN)
        self._room[group_id] = room - 1


class Quotas(NamedTuple):
    """What a registration is counted by."""

    rate: RegistrationRate
    room: GroupRoom


def quotas_of(limits: LimitSettings, count: Callable[[str], Awaitable[int]]) -> Quotas:
    """Return the quotas that settings say.

    Args:
        limits: how many.
        count: returns how many active devices a group has; raises StoreError.
    """
    return Quotas(
        RegistrationRate(limits.registrations_per_minute),
        GroupRoom(limits.devices_per_group, count),
    )
