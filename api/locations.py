"""Location reports: declared, validated, and stored once for each (device, capture time)."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias
from uuid import UUID

import msgspec

from api.database import Database
from tracker import RowRefused

_Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=50, pattern=r"^[^\x00]*$")]
_Positive: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

_END_OF_9999_MS: Final = 253_402_300_799_999
_GIVEN: Final = """
unnest($1::uuid[], $2::bigint[], $3::float8[], $4::float8[], $5::float8[], $6::float8[],
       $7::float8[], $8::float8[], $9::text[], $10::float8[], $11::text[])
AS given(device_id, ms, latitude, longitude, accuracy, altitude, bearing, speed, provider,
         battery_level, network_type)
"""
_INSERT: Final = """
INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy, altitude, bearing,
                       speed, provider, battery_level, network_type)
SELECT device_id, timestamptz 'epoch' + ms * interval '1 millisecond', latitude, longitude,
       accuracy, altitude, bearing, speed, provider, battery_level, network_type
FROM {given} {condition}
ON CONFLICT (device_id, captured_at) DO NOTHING
"""
_STORE: Final = _INSERT.format(given=_GIVEN, condition="")
_REACHABLE: Final = "WHERE device_id IN (SELECT device_id FROM reachable)"
_STORE_REACHABLE: Final = f"""
WITH reachable AS MATERIALIZED (
    SELECT device_id FROM devices WHERE device_id = ANY($12::uuid[])
    ORDER BY device_id FOR KEY SHARE SKIP LOCKED
), stored AS ({_INSERT.format(given=_GIVEN, condition=_REACHABLE)})
SELECT asked.device_id::text, EXISTS (SELECT FROM devices AS d WHERE d.device_id = asked.device_id)
FROM unnest($12::uuid[]) AS asked(device_id)
WHERE asked.device_id NOT IN (SELECT device_id FROM reachable)
"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Where a device was: degrees of WGS 84, metres, metres a second, per cent."""

    timestamp: Annotated[int, msgspec.Meta(ge=0, le=_END_OF_9999_MS)]
    """Capture time in milliseconds since the Unix epoch."""
    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    accuracy: _Positive
    altitude: float | None = None
    bearing: Annotated[float, msgspec.Meta(ge=0, le=360)] | None = None
    speed: _Positive | None = None
    provider: _Label | None = None
    battery_level: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    network_type: _Label | None = None


class Upload(Report, frozen=True, kw_only=True):
    """One report of one device."""

    device_id: UUID


class BatchedReport(Report, frozen=True, kw_only=True):
    """A report within a batch; it may repeat the batch's device, and no other."""

    device_id: UUID | None = None


class Batch(msgspec.Struct, frozen=True):
    """Up to 50 reports of one device."""

    device_id: UUID
    locations: Annotated[list[BatchedReport], msgspec.Meta(min_length=1, max_length=50)]


class NoSuchDevice(RowRefused):
    """The device of an upload has no row any more."""


Uploaded: TypeAlias = tuple[str, Sequence[Report]]
"""A device's id in canonical form and at least one report of it, to be stored all or none."""


class Locations:
    """Stores uploads, many in one statement; a report that is stored already changes nothing.

    Args:
        database: where they are stored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, uploads: Sequence[Uploaded], *, deadline_s: float) -> None:
        """Store all of the uploads, or none.

        Args:
            uploads: at least one.
            deadline_s: how long it may take, in seconds.

        Raises:
            RowRefused: a row is refused; it may be that a device has no row any more.
            StoreError: the database is away, slow, or somebody holds a lock; whether the uploads
                were stored is unknown, so store them again.
        """
        await self._database.fetch(_STORE, *_columns(uploads), deadline_s=deadline_s)

    async def insert_reachable(
        self, uploads: Sequence[Uploaded], *, deadline_s: float
    ) -> dict[str, bool]:
        """Store those uploads whose devices' rows can be had at once, at somewhat more cost.

        Args:
            uploads: at least one.
            deadline_s: how long it may take, in seconds.

        Returns:
            The devices whose uploads were not stored: False for one that has no row, True for one
            whose row somebody else has locked.

        Raises:
            RowRefused: a report is refused; none was stored.
            StoreError: as `insert`.
        """
        asked = sorted({device_id for device_id, _ in uploads})
        rows = await self._database.fetch(
            _STORE_REACHABLE, *_columns(uploads), asked, deadline_s=deadline_s
        )
        return {row[0]: row[1] for row in rows}


def _columns(uploads: Sequence[Uploaded]) -> list[list[object]]:
    rows = [(device_id, report) for device_id, reports in uploads for report in reports]
    # In key order, so that two writes of the same reports wait for each other, not in a circle.
    rows.sort(key=lambda row: (row[0], row[1].timestamp))
    reports = [report for _, report in rows]
    return [
        [device_id for device_id, _ in rows],
        [report.timestamp for report in reports],
        [report.latitude for report in reports],
        [report.longitude for report in reports],
        [report.accuracy for report in reports],
        [report.altitude for report in reports],
        [report.bearing for report in reports],
        [report.speed for report in reports],
        [report.provider for report in reports],
        [report.battery_level for report in reports],
        [report.network_type for report in reports],
    ]
