"""Database queries about one group: its members, when each was last seen, and where.

All groups share one connection and one query runs at a time. So the load on the database is
bounded, and other requests never wait for the live view.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from api.fleet.newest import newest_of
from api.live.presence import STORED
from api.live.snapshot import MAX_DEVICES, Position
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database, Records

_PAGE_DEVICES: Final = 1000
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_SEEN: Final = """
    CASE WHEN isfinite(last_seen_at)
    THEN floor(extract(epoch FROM least(last_seen_at, now())))::bigint ELSE 0 END
"""
_OFFLINE_AFTER: Final = """
    coalesce(offline_after_s, (SELECT s.offline_after_s FROM group_settings AS s
                               WHERE s.group_id = $1))
"""
_MEMBER: Final = f"""
    hashtextextended(
        concat_ws(E'\\n', device_id, {_OFFLINE_AFTER}, platform, display_name), 0)
"""
_SUMMARY: Final = f"""
SELECT coalesce(sum(member), 0)::text, coalesce(array_agg(seen), '{{}}'),
       coalesce(array_agg(stored), '{{}}'), extract(epoch FROM now())::float8
FROM (
    SELECT {_MEMBER} AS member, {_SEEN} AS seen, {STORED} AS stored FROM devices
    WHERE group_id = $1 AND is_active ORDER BY display_name, device_id LIMIT {MAX_DEVICES}
) AS shown
"""
"""The checksum of the members: their rows are read again only if it changes. `last_seen_at` has no
index, since it changes all the time, so there is no cheaper way to find changes."""
_PAGE: Final = f"""
SELECT device_id::text, display_name, platform, {_SEEN}, {STORED}, {_OFFLINE_AFTER}, {_MEMBER}
FROM devices
WHERE group_id = $1 AND is_active AND (display_name, device_id) > ($2, $3)
ORDER BY display_name, devices.device_id LIMIT {_PAGE_DEVICES}
"""
"""`ORDER BY device_id` would mean the text, which is not in the index."""
_COUNT: Final = "SELECT count(*) FROM devices WHERE group_id = $1 AND is_active"
_POSITIONS: Final = """
SELECT place, latitude, longitude, accuracy, captured_ms FROM (
    SELECT asked.place, asked.known_ms, newest.latitude, newest.longitude, newest.accuracy,
           floor(extract(epoch FROM newest.captured_at) * 1000)::bigint AS captured_ms
    FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS asked (device_id, known_ms, place)
    CROSS JOIN LATERAL {newest} AS newest
) AS found
WHERE captured_ms > known_ms
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """The state of a group in one row.

    Args:
        members: checksum, the sum of the last column of `page`. It changes only if the devices of
            the group, their names, platforms or times until they are offline do.
        seen: when each device was last seen, in epoch seconds, ordered by name; 0 is never.
        stored: what each row says of presence, in the same order; see `STORED`.
    """

    members: int
    seen: list[int]
    stored: list[int]


class GroupQueries:
    """Runs the queries, one at a time.

    Args:
        database: a pool with one connection of its own.
        clock: is set to the database's time.
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
    """

    def __init__(self, database: Database, clock: DatabaseClock, *, ahead_s: float) -> None:
        self._positions = _POSITIONS.format(newest=newest_of("asked.device_id", ahead_s))
        self._database = database
        self.clock = clock
        self._lock = asyncio.Lock()

    async def _fetch(self, statement: str, *arguments: object) -> Records:
        async with (
            self._lock
        ):  # outside of the query timeout: waiting for the lock is not slowness of the database
            return await self._database.fetch(statement, *arguments)

    async def summary(self, group_id: str | None) -> Summary:
        """Return the checksum of a group and when its devices were last seen.

        Args:
            group_id: the group; None is an empty group.

        Raises:
            StoreError: the database is unavailable.
        """
        async with self._lock:
            asked_at = self.clock.monotonic()
            (row,) = await self._database.fetch(_SUMMARY, group_id)
        self.clock.set(row[3], asked_at=asked_at)
        return Summary(int(row[0]), row[1], row[2])

    async def page(self, group_id: str | None, after: tuple[str, str] = ("", _NIL)) -> Records:
        """Return one page of devices: what `GroupSnapshot.put` takes, and the checksum.

        Args:
            group_id: the group.
            after: name and id of the last device of the page before.

        Raises:
            StoreError: the database is unavailable.
        """
        return await self._fetch(_PAGE, group_id, *after)

    async def count(self, group_id: str | None) -> int:
        """Return how many active devices a group has.

        Raises:
            StoreError: the database is unavailable.
        """
        (row,) = await self._fetch(_COUNT, group_id)
        found: int = row[0]
        return found

    async def positions(
        self, device_ids: Sequence[str], known_ms: Sequence[int]
    ) -> list[tuple[int, Position]]:
        """Return the newest position of each device that has a newer one than the known one.

        Args:
            device_ids: in canonical form.
            known_ms: capture time of each known position, in epoch milliseconds; -1 for none.

        Returns:
            Pairs of the device's index in `device_ids` and its position.

        Raises:
            StoreError: the database is unavailable.
        """
        rows = await self._fetch(self._positions, device_ids, known_ms)
        return [(row[0] - 1, (row[1], row[2], row[3], row[4])) for row in rows]
