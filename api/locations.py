"""Location reports: declared, validated, and stored once for each (device, capture time)."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias
from uuid import UUID

import msgspec

from api.database import Database

_Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=50, pattern=r"^[^\x00]*$")]
_Positive: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

_END_OF_9999_MS: Final = 253_402_300_799_999
_STORE: Final = """
INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy, altitude, bearing,
                       speed, provider, battery_level, network_type)
SELECT device_id, timestamptz 'epoch' + ms * interval '1 millisecond', latitude, longitude,
       accuracy, altitude, bearing, speed, provider, battery_level, network_type
FROM unnest($1::uuid[], $2::bigint[], $3::float8[], $4::float8[], $5::float8[], $6::float8[],
            $7::float8[], $8::float8[], $9::text[], $10::float8[], $11::text[])
     AS given(device_id, ms, latitude, longitude, accuracy, altitude, bearing, speed, provider,
              battery_level, network_type)
ON CONFLICT (device_id, captured_at) DO NOTHING
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


async def store_reports(database: Database, device_id: str, reports: Sequence[Report]) -> None:
    """Store reports, all or none; one that is stored already changes nothing.

    Args:
        database: where reports are stored.
        device_id: the device that they are of.
        reports: at least one.

    Raises:
        RowRefused: there is no such device any more.
        StoreError: the database is away; whether they were stored is unknown, so post them again.
    """
    # In key order, so that two uploads of the same reports wait for each other, not in a circle.
    ordered = sorted(reports, key=lambda report: report.timestamp)
    await database.fetch(
        _STORE,
        [device_id] * len(ordered),
        [report.timestamp for report in ordered],
        [report.latitude for report in ordered],
        [report.longitude for report in ordered],
        [report.accuracy for report in ordered],
        [report.altitude for report in ordered],
        [report.bearing for report in ordered],
        [report.speed for report in ordered],
        [report.provider for report in ordered],
        [report.battery_level for report in ordered],
        [report.network_type for report in ordered],
    )
