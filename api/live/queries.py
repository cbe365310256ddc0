"""What the database knows of a group: who is in it, when each was seen, and where.

All is asked over one connection, one question at a time, however many groups are watched: the load
on the database is bounded, and other requests never wait for it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from api.live.snapshot import MOST_DEVICES, Position
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database, Records

_PAGE_DEVICES: Final = 1000
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_SEEN: Final = """
    CASE WHEN isfinite(last_seen_at) THEN floor(extract(epoch FROM last_seen_at))::bigint ELSE 0 END
"""
_MEMBER: Final = "hashtextextended(concat_ws(E'\\n', device_id, platform, display_name), 0)"
_SUMMARY: Final = f"""
SELECT coalesce(sum(member), 0)::text, coalesce(array_agg(seen), '{{}}'),
       extract(epoch FROM now())::float8
FROM (
    SELECT {_MEMBER} AS member, {_SEEN} AS seen FROM devices
    WHERE group_id = $1 AND is_active ORDER BY display_name, device_id LIMIT {MOST_DEVICES}
) AS shown
"""
"""A group's members are summed up in one number, so that they are read again only if they change:
there is no index on what changes all the time."""
_PAGE: Final = f"""
SELECT device_id::text, display_name, platform, {_SEEN}, {_MEMBER} FROM devices
WHERE group_id = $1 AND is_active AND (display_name, device_id) > ($2, $3)
ORDER BY display_name, device_id LIMIT {_PAGE_DEVICES}
"""
_COUNT: Final = "SELECT count(*) FROM devices WHERE group_id = $1 AND is_active"
_POSITIONS: Final = """
SELECT asked.place, newest.latitude, newest.longitude, newest.accuracy, newest.captured_ms
FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS asked (device_id, known_ms, place)
CROSS JOIN LATERAL (
    SELECT latitude, longitude, accuracy,
           floor(extract(epoch FROM captured_at) * 1000)::bigint AS captured_ms
    FROM locations WHERE locations.device_id = asked.device_id AND isfinite(captured_at)
    ORDER BY captured_at DESC LIMIT 1
) AS newest
WHERE newest.captured_ms > asked.known_ms
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """A group at a glance.

    Args:
        members: the sum of what `page` returns of each, so that it is the same as long as the group
            has the same devices, by the same names.
        seen: when each was seen, in epoch seconds, by name; 0 for never.
    """

    members: int
    seen: list[int]


class GroupQueries:
    """Asks the database about groups.

    Args:
        database: with a connection of its own.
        clock: is told the database's time.
    """

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self.clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def _fetch(self, statement: str, *arguments: object) -> Records:
        async with self._one_at_a_time:  # waiting for a turn is no slowness of the database's
            return await self._database.fetch(statement, *arguments)

    async def summary(self, group_id: str | None) -> Summary:
        """Sum up a group.

        Args:
            group_id: the group; None is one that nobody is in.

        Raises:
            StoreError: the database is away.
        """
        async with self._one_at_a_time:
            asked_at = self.clock.monotonic()
            (row,) = await self._database.fetch(_SUMMARY, group_id)
        self.clock.set(row[2], asked_at=asked_at)
        return Summary(int(row[0]), row[1])

    async def page(self, group_id: str | None, after: tuple[str, str] = ("", _NIL)) -> Records:
        """Return some devices by name: id, name, platform, when it was seen, and its summand.

        Args:
            group_id: the group.
            after: name and id of the last device that is known already.

        Raises:
            StoreError: the database is away.
        """
        return await self._fetch(_PAGE, group_id, *after)

    async def count(self, group_id: str | None) -> int:
        """Return how many active devices a group has, however many are shown.

        Raises:
            StoreError: the database is away.
        """
        (row,) = await self._fetch(_COUNT, group_id)
        found: int = row[0]
        return found

    async def positions(
        self, device_ids: Sequence[str], known_ms: Sequence[int]
    ) -> list[tuple[int, Position]]:
        """Return the newest positions of those devices that have a newer one than is known.

        Args:
            device_ids: in canonical form.
            known_ms: the capture time of the position that is known of each.

        Returns:
            The device's place in the arguments, and its position.

        Raises:
            StoreError: the database is away.
        """
        rows = await self._fetch(_POSITIONS, device_ids, known_ms)
        return [(row[0] - 1, (row[1], row[2], row[3], row[4])) for row in rows]
