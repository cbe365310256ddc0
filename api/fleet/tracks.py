"""Tracks: the reports of one device, read back, the newest first."""

import asyncio
from typing import Annotated, Final, TypeAlias
from uuid import UUID

import msgspec

from api.fleet.locations import CAPTURED_AT, END_OF_9999_MS, FIELDS, Report
from api.postgres.database import Database

_VALUES: Final = ", ".join(FIELDS[1:])
_TRACK: Final = f"""
SELECT report.* FROM devices AS d LEFT JOIN LATERAL (
    SELECT floor(extract(epoch FROM captured_at) * 1000)::bigint AS ms, {_VALUES} FROM locations
    WHERE locations.device_id = d.device_id
          AND captured_at >= 'epoch' AND captured_at < {CAPTURED_AT.format(ms="$2::bigint")}
    ORDER BY captured_at DESC LIMIT $3
) AS report ON true
WHERE d.device_id = $1 AND d.is_active ORDER BY report.ms DESC
"""

_ROWS_AT_ONCE: Final = 50
"""After so many reports, other requests get a turn."""

Before: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=END_OF_9999_MS + 1)]


class TrackQuery(msgspec.Struct, frozen=True):
    """The query of a track."""

    device_id: UUID
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    before: Before | msgspec.UnsetType = msgspec.UNSET


class StoredReport(Report, frozen=True, kw_only=True, omit_defaults=True):
    """A report as it was posted; fields that it did not have are absent."""


class Track(msgspec.Struct, frozen=True):
    """Reports of one device, the newest first."""

    locations: list[StoredReport]


async def load_track(
    database: Database, device_id: str, *, limit: int, before: int | None = None
) -> Track | None:
    """Return the newest reports of an active device by capture time; None if there is none.

    Args:
        database: where they are stored.
        device_id: the device's id in canonical form.
        limit: the most reports.
        before: only those captured before, in milliseconds since the Unix epoch; None for all.

    Raises:
        StoreError: the database is unavailable.
    """
    until = END_OF_9999_MS + 1 if before is None else before
    rows = await database.fetch(_TRACK, device_id, until, limit)
    if not rows:
        return None
    # A device without reports is one row that has none.
    if rows[0][0] is None:
        return Track([])
    reports = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        reports += [
            StoredReport(**dict(zip(FIELDS, row, strict=True)))
            for row in rows[start : start + _ROWS_AT_ONCE]
        ]
        await asyncio.sleep(0)
    return Track(reports)
