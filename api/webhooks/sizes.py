"""How many active devices groups have, counted again after some seconds.

A page of events of a group in which many devices change needs the number, and a group that vanishes
has hundreds of pages. To count a large group takes longer than to filter a page.
"""

import time
from collections.abc import Collection
from typing import Final

from api.postgres.database import Database

_KEPT_S: Final = 5.0
_COUNT: Final = """
SELECT group_id, count(*) FROM devices WHERE group_id = ANY ($1::text[]) AND is_active
GROUP BY group_id
"""


class GroupSizes:
    """Counts the devices of groups.

    Args:
        database: where devices are stored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sizes: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}

    async def of(self, group_ids: Collection[str]) -> dict[str, int]:
        """Return the number of active devices of some groups, as it was some seconds ago at most.

        A group without an active device is left out.

        Raises:
            StoreError: the database is unavailable.
        """
        now = time.monotonic()
        for group_id in [one for one, at in self._counted_at.items() if at < now - _KEPT_S]:
            del self._counted_at[group_id]
            self._sizes.pop(group_id, None)
        if unknown := [one for one in group_ids if one not in self._counted_at]:
            rows = await self._database.fetch(_COUNT, unknown)
            self._sizes |= {row[0]: row[1] for row in rows}
            self._counted_at |= dict.fromkeys(unknown, now)
        return {one: self._sizes[one] for one in group_ids if one in self._sizes}
