"""Stores until when some process was listening, so that downtime makes no device offline.

Each process moves one row on every second. A process that finds it more than some seconds old has
found a gap: no process ran, the database took no writes, its clock has jumped, or it was restored
from a backup. The gap is stored in the same statement, and subtracted from each silence.
"""

from typing import Final

import structlog

from api.postgres.database import Database

GAP_S: Final = 5.0
"""From when on it is a gap, in seconds."""
_KEPT_DAYS: Final = 8
"""How long gaps are kept, in days: longer than the longest time until a device is offline."""
_DEADLINE_S: Final = 2.0
_NOTE: Final = f"""
WITH before AS (
    SELECT listened_until FROM presence_clock
    WHERE listened_until < now() - interval '0.9 s' OR listened_until > now() + interval '1 s'
          OR offline_after_s <> $1
    FOR UPDATE
), future AS (
    -- The clock was ahead, and has been set back: no time that is to come has been a gap.
    DELETE FROM listening_gaps USING before
    WHERE ended_at > now() AND listened_until > now() + interval '1 s'
    RETURNING began_at
), gap AS (
    INSERT INTO listening_gaps
    SELECT listened_until, now() FROM before
    WHERE listened_until < now() - interval '{GAP_S} s'
    UNION ALL SELECT began_at, now() FROM future WHERE began_at < now()
    ON CONFLICT DO NOTHING
    RETURNING began_at, ended_at
), moved AS (
    UPDATE presence_clock SET listened_until = now(), offline_after_s = $1 FROM before
), old AS (
    DELETE FROM listening_gaps WHERE ended_at < now() - interval '{_KEPT_DAYS} days'
)
SELECT CASE WHEN isfinite(began_at) THEN extract(epoch FROM ended_at - began_at)::float8 END
FROM gap, before WHERE listened_until < now()
"""  # noqa: S608 - of constants
IS_LISTENING: Final = f"(SELECT listened_until > now() - interval '{GAP_S} s' FROM presence_clock)"  # noqa: S608
"""SQL: whether the last gap, if there was one, is stored."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Listening:
    """Moves the row on.

    Args:
        database: where it is.
        offline_after_s: stored beside it, for the trigger of the table.
    """

    def __init__(self, database: Database, *, offline_after_s: int) -> None:
        self._database = database
        self._offline_after_s = offline_after_s
        self.gaps = 0
        """How many gaps this process has found."""
        self.gap_s = 0.0
        """How long they were, in seconds; the time before the first start does not count."""

    async def note(self) -> None:
        """Note that some process listens now.

        Raises:
            StoreError: the database takes no writes.
        """
        rows = await self._database.fetch(_NOTE, self._offline_after_s, deadline_s=_DEADLINE_S)
        for (seconds,) in rows:
            if seconds is not None:  # not the time before the first start
                self.gaps += 1
                self.gap_s += seconds
                log.warning("presence.not_listening", seconds=round(seconds))
