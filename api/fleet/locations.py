"""Location reports: declared, validated, and stored once for each (device, capture time)."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr

from api.postgres.database import Database
from tracker import RowRejected

_Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=50, pattern=r"^[^\x00]*$")]
_NEVER_NEGATIVE: Final = ("accuracy", "bearing", "speed", "battery_level")

YEAR_2000_MS: Final = 946_684_800_000
"""The first capture time that is accepted, in milliseconds since the Unix epoch. A clock that was
never set shows an earlier time, and a time in seconds instead of milliseconds is earlier, too."""
END_OF_9999_MS: Final = 253_402_300_799_999
"""The last capture time that is accepted, in milliseconds since the Unix epoch."""
_COLUMNS: Final = """
    device_id, captured_at, latitude, longitude, accuracy, altitude, bearing, speed, provider,
    battery_level, network_type
"""
CAPTURED_AT: Final = (
    "timestamptz 'epoch' + {ms} / 1000 * interval '1 second' + {ms} % 1000 * interval '1 ms'"
)
"""In two steps: an interval is multiplied as a float, which is exact for milliseconds until 2255
only and for seconds for as long as there are times."""
_TYPES: Final = ("uuid", "bigint", *["float8"] * 6, "text", "float8", "text")
_ARRAYS: Final = ", ".join(
    f"${number}::text[]" if kind == "text" else f"(SELECT ${number}::text)::{kind}[]"
    for number, kind in enumerate(_TYPES, start=1)
)
"""Numbers arrive as array literals, which cost the client a fraction of what the driver's encoding
of a list does, and are cast where the planner does not see them, which would parse them as well."""
_INSERT_ONE: Final = f"""
INSERT INTO locations ({_COLUMNS})
VALUES ($1, {CAPTURED_AT.format(ms="$2::bigint")}, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (device_id, captured_at) DO NOTHING
RETURNING 1
"""
_INSERT: Final = f"""
INSERT INTO locations ({_COLUMNS})
SELECT device_id, {CAPTURED_AT.format(ms="ms")}, latitude, longitude, accuracy, altitude, bearing,
       speed, provider, battery_level, network_type
FROM unnest({_ARRAYS}) WITH ORDINALITY
     AS given(device_id, ms, latitude, longitude, accuracy, altitude, bearing, speed, provider,
              battery_level, network_type, place)
{{condition}}
-- In key order, so that two writes of the same reports wait for each other, not in a circle.
ORDER BY device_id, ms, place
ON CONFLICT (device_id, captured_at) DO NOTHING
RETURNING device_id, captured_at
"""
_DUPLICATES: Final = f"""
SELECT place FROM (
    SELECT place, device_id, {CAPTURED_AT.format(ms="ms")} AS captured_at,
           row_number() OVER (PARTITION BY device_id, ms ORDER BY place) AS occurrence
    FROM unnest((SELECT $1::text)::uuid[], (SELECT $2::text)::bigint[]) WITH ORDINALITY
         AS given (device_id, ms, place)
) AS given
WHERE {{condition}} (occurrence > 1 OR NOT EXISTS (
    SELECT FROM stored
    WHERE stored.device_id = given.device_id AND stored.captured_at = given.captured_at
))
"""
"""The places, from 1, of reports that were stored before or are repeated in the same write. Where
possible they are looked for only if fewer rows than given were stored: see `_INSERT_ALL`."""
_INSERT_ALL: Final = f"""
WITH stored AS ({_INSERT.format(condition="")})
{_DUPLICATES.format(condition="(SELECT count(*) FROM stored) < $12::bigint AND")}
"""
_REACHABLE: Final = "device_id IN (SELECT device_id FROM reachable)"
_INSERT_REACHABLE: Final = f"""
WITH reachable AS MATERIALIZED (
    SELECT device_id FROM devices WHERE device_id = ANY($12::uuid[])
    ORDER BY device_id FOR KEY SHARE SKIP LOCKED
), stored AS ({_INSERT.format(condition=f"WHERE {_REACHABLE}")})
SELECT asked.device_id::text,
       EXISTS (SELECT FROM devices AS d WHERE d.device_id = asked.device_id), NULL
FROM unnest($12::uuid[]) AS asked(device_id)
WHERE asked.device_id NOT IN (SELECT device_id FROM reachable)
UNION ALL
SELECT NULL, NULL, place FROM ({_DUPLICATES.format(condition=f"{_REACHABLE} AND")}) AS duplicates
"""


_encode: Final = msgspec.json.Encoder().encode

_DOCUMENTED: Final[dict[str, object]] = {"minimum": YEAR_2000_MS, "multipleOf": 1}
"""The range of a capture time; `_Received` checks it, and raises a clearer error."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A position, in degrees of WGS 84, with metres, metres per second and per cent."""

    timestamp: (
        Annotated[int, msgspec.Meta(le=END_OF_9999_MS, extra_json_schema=_DOCUMENTED)]
        | Annotated[float, msgspec.Meta(le=END_OF_9999_MS, extra_json_schema=_DOCUMENTED)]
    )
    """Capture time in whole milliseconds since the Unix epoch."""
    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    accuracy: float | None
    altitude: float | None = None
    bearing: Annotated[float, msgspec.Meta(le=360)] | None = None
    speed: float | None = None
    provider: _Label | None = None
    battery_level: Annotated[float, msgspec.Meta(le=100)] | None = None
    network_type: _Label | None = None


FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(Report))
"""In the order of the statements' parameters, after the device; all but the first are columns."""
_GETTERS: Final = tuple(map(attrgetter, FIELDS))


class _Received(Report, frozen=True, kw_only=True):
    """A report as a device sent it, with differences between kinds of devices removed.

    A negative speed, bearing, accuracy or battery level means "unknown" on iOS and becomes None.
    A whole number that is written with a fraction of zero becomes an int.
    """

    def __post_init__(self) -> None:
        """Normalize the values.

        Raises:
            ValueError: the capture time is before 2000 or not in whole milliseconds.
        """
        timestamp = self.timestamp
        if timestamp < YEAR_2000_MS:
            raise ValueError(
                "Expected `timestamp` in milliseconds since 1970, got a time before the year 2000: "
                "is it in seconds, or was the clock not set?"
            )
        if type(timestamp) is float:
            if not timestamp.is_integer():
                raise ValueError("Expected `timestamp` in whole milliseconds")
            force_setattr(self, "timestamp", int(timestamp))
        # Spelled out, because it is done for every report; few have a negative value.
        if (
            (self.accuracy or 0) < 0
            or (self.bearing or 0) < 0
            or (self.speed or 0) < 0
            or (self.battery_level or 0) < 0
        ):
            for name in _NEVER_NEGATIVE:
                if (getattr(self, name) or 0) < 0:
                    force_setattr(self, name, None)


class Upload(_Received, frozen=True, kw_only=True):
    """One report of one device."""

    device_id: UUID


class GatewayReport(_Received, frozen=True, kw_only=True, gc=False):
    """One report of any device; its device's id is checked later, if it is not known.

    Without garbage collection, which would stop all requests to scan thousands of reports.
    """

    device_id: Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]


class BatchedReport(_Received, frozen=True, kw_only=True):
    """A report within a batch; it may repeat the batch's device, and no other."""

    device_id: UUID | None = None


class Batch(msgspec.Struct, frozen=True):
    """Up to 50 reports of one device."""

    device_id: UUID
    locations: Annotated[list[BatchedReport], msgspec.Meta(min_length=1, max_length=50)]


class Accepted(msgspec.Struct, frozen=True):
    """That reports are committed, and how many; some may have been stored before."""

    success: bool
    processed_count: int
    duplicate_count: int


class NoSuchDevice(RowRejected):
    """The device of an upload has no row any more."""


Uploaded: TypeAlias = tuple[str, Sequence[Report]]
"""A device's id in canonical form, and one or more of its reports, which are stored all or none."""


class Locations:
    """Stores uploads, many in one statement; a report that is stored already has no effect.

    Args:
        database: where they are stored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, uploads: Sequence[Uploaded], *, deadline_s: float) -> list[int]:
        """Store all of the uploads, or none.

        Args:
            uploads: at least one.
            deadline_s: how long it may take, in seconds.

        Returns:
            Which reports were not stored because one of the same device and capture time is there
            already or comes before it: their places among all reports of the uploads, from 0.

        Raises:
            RowRejected: a row is rejected; a device may have no row any more.
            StoreError: the database is unavailable or slow, or a lock is held; whether the uploads
                were stored is unknown, so store them again.
        """
        if len(uploads) == 1 and len(uploads[0][1]) == 1:
            ((device_id, (report,)),) = uploads
            values = (device_id, *(getattr(report, name) for name in FIELDS))
            stored = await self._database.fetch(_INSERT_ONE, *values, deadline_s=deadline_s)
            return [] if stored else [0]
        given = sum(len(reports) for _, reports in uploads)
        rows = await self._database.fetch(
            _INSERT_ALL, *_arrays(uploads), given, deadline_s=deadline_s
        )
        return [row[0] - 1 for row in rows]

    async def insert_reachable(
        self, uploads: Sequence[Uploaded], *, deadline_s: float
    ) -> tuple[dict[str, bool], list[int]]:
        """Store the uploads whose devices' rows can be locked at once; this costs a little more.

        Args:
            uploads: at least one.
            deadline_s: how long it may take, in seconds.

        Returns:
            The devices whose uploads were not stored: False for one that has no row, True for one
            whose row another transaction has locked. And the duplicates among the stored
            uploads, as `insert` returns them.

        Raises:
            RowRejected: a report is rejected; none was stored.
            StoreError: as `insert`.
        """
        asked = sorted({device_id for device_id, _ in uploads})
        rows = await self._database.fetch(
            _INSERT_REACHABLE, *_arrays(uploads), asked, deadline_s=deadline_s
        )
        left = {row[0]: row[1] for row in rows if row[2] is None}
        return left, [row[2] - 1 for row in rows if row[2] is not None]


def _arrays(uploads: Sequence[Uploaded]) -> list[str | list[object]]:
    reports = [report for _, some in uploads for report in some]
    devices = ",".join([device_id for device_id, some in uploads for _ in some])
    arrays: list[str | list[object]] = [f"{{{devices}}}"]
    for kind, value_of in zip(_TYPES[1:], _GETTERS, strict=True):
        values = list(map(value_of, reports))
        if values.count(None) == len(values):
            values = []  # shorter rows are padded with NULLs; most fields are absent
        arrays.append(values if kind == "text" else _literal(values))
    return arrays


def _literal(numbers: list[object]) -> str:
    """Return numbers and Nones as an array literal: JSON with other brackets."""
    return f"{{{_encode(numbers)[1:-1].decode()}}}"
