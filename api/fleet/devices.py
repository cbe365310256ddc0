"""Devices in the database: registered, listed with their newest position, deactivated."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias
from uuid import UUID

import msgspec
import structlog

from api.fleet.newest import newest_of
from api.fleet.pending import Pending, PendingView
from api.fleet.presence import Presence, PresenceRule
from api.postgres.database import Database, Records
from tracker import View

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\x00]*$")]
"""Text that Postgres can store: it has no NUL."""
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=2, max_length=50, pattern=r"^[^\x00]*$")]
GroupId: TypeAlias = Annotated[
    str, msgspec.Meta(min_length=2, max_length=50, pattern=r"^[A-Za-z0-9_-]*(?!\n)$")
]
"""The pattern has the same meaning for Python, whose `$` also matches before a last newline."""

Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
Limit: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


OfflineAfter: TypeAlias = Annotated[float, msgspec.Meta(ge=30, le=604_800, multiple_of=1)]
"""Seconds without a request after which a device is offline: up to a week. Some clients write whole
numbers with a fraction of zero."""


class Registration(msgspec.Struct, frozen=True):
    """The body of a registration."""

    device_id: UUID
    display_name: Name
    group_id: GroupId
    platform: Annotated[str, msgspec.Meta(min_length=1, max_length=50, pattern=r"^[^\x00]*$")] = (
        "android"
    )
    fcm_token: Text | None = None
    offline_after_s: OfflineAfter | None = None


class LastLocation(msgspec.Struct, frozen=True):
    """The newest position: degrees of WGS 84, accuracy in metres or null if it is unknown."""

    latitude: float
    longitude: float
    accuracy: float | None
    timestamp: Time


class DeviceResponse(msgspec.Struct, frozen=True):
    """A device as the service shows it; times are aware, in UTC."""

    device_id: Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]
    display_name: str
    platform: str
    last_seen_at: Time | None
    last_location: LastLocation | None
    presence: Presence
    presence_since: Time | None


COLUMNS: Final = """
    d.device_id::text, d.display_name, d.platform,
    CASE WHEN isfinite(d.last_seen_at) THEN floor(extract(epoch FROM d.last_seen_at))::bigint END,
    floor(extract(epoch FROM now()))::bigint,
    newest.latitude, newest.longitude, newest.accuracy, newest.captured_at,
    d.is_online,
    CASE WHEN isfinite(d.presence_since) THEN extract(epoch FROM d.presence_since)::bigint END,
    coalesce(d.offline_after_s, (
        SELECT s.offline_after_s FROM group_settings AS s WHERE s.group_id = d.group_id
    ))
"""
_REGISTER: Final = f"""
WITH d AS (
    INSERT INTO devices AS stored
        (device_id, display_name, group_id, platform, fcm_token, last_seen_at, offline_after_s)
    VALUES ($1, $2, $3, $4, $5, date_trunc('second', now()), $7)
    ON CONFLICT (device_id) DO UPDATE SET
        display_name = excluded.display_name, group_id = excluded.group_id,
        platform = excluded.platform, fcm_token = excluded.fcm_token, is_active = true,
        last_seen_at = greatest(stored.last_seen_at, excluded.last_seen_at),
        deactivated_at = NULL, offline_after_s = excluded.offline_after_s,
        -- The trigger does the same, but later than RETURNING reads the row.
        is_online = stored.is_online OR NOT stored.is_active,
        presence_since = CASE WHEN stored.is_active THEN stored.presence_since
                              ELSE excluded.last_seen_at END
    WHERE $6::text IS NULL OR stored.group_id = $6
    RETURNING *
)
SELECT {COLUMNS} FROM d {{newest}}
"""
_RELEASABLE: Final = """
    device_id = $1 AND group_id <> $2 AND NOT is_active
    AND deactivated_at <= now() - make_interval(secs => $3)
"""
_MAY_RELEASE: Final = f"SELECT FROM devices WHERE {_RELEASABLE}"
_FORGET_TRACK: Final = f"""
WITH slice AS (
    SELECT captured_at FROM locations
    WHERE device_id = (SELECT device_id FROM devices WHERE {_RELEASABLE} FOR UPDATE)
    LIMIT $4
)
DELETE FROM locations USING slice
WHERE locations.device_id = $1 AND locations.captured_at = slice.captured_at
RETURNING 1
"""
_RELEASE: Final = f"""
UPDATE devices SET group_id = $2, last_seen_at = NULL, deactivated_at = NULL, offline_after_s = NULL
WHERE {_RELEASABLE} AND NOT EXISTS (SELECT FROM locations WHERE device_id = $1)
RETURNING 1
"""
_FORGOTTEN_AT_ONCE: Final = 10_000
_ONE: Final = f"""
SELECT {COLUMNS} FROM devices AS d {{newest}} WHERE d.device_id = $1 AND d.is_active
"""


def join_newest(ahead_s: float) -> str:
    """Return the SQL that joins each device d with its newest position; see `newest_of`."""
    return f"LEFT JOIN LATERAL {newest_of('d.device_id', ahead_s)} AS newest ON true"


class Devices:
    """Reads and writes devices; times include the overlay of pending touches.

    Args:
        database: where devices are stored.
        pending: takes views of the devices' pending touches.
        release_after_s: seconds after which the id of a deactivated device may be registered by
            another group.
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
        rule: when a device is online.
    """

    def __init__(
        self,
        database: Database,
        pending: Pending,
        *,
        release_after_s: float,
        ahead_s: float,
        rule: PresenceRule,
    ) -> None:
        newest = join_newest(ahead_s)
        self._register_statement = _REGISTER.format(newest=newest)
        self._one_statement = _ONE.format(newest=newest)
        self._database = database
        self._pending = pending
        self._rule = rule
        self._release_after_s = release_after_s

    async def register(
        self, registration: Registration, within_group: str | None
    ) -> DeviceResponse | None:
        """Create a device, or update the one with this id.

        Args:
            registration: the values to store.
            within_group: do not change a device that is in another group than this.

        Returns:
            The device; None if it is in another group.

        Raises:
            StoreError: the database is unavailable.
        """
        device = await self._register(registration, within_group)
        if (
            device is None
            and within_group is not None
            and await self._release(registration.device_id, within_group)
        ):
            device = await self._register(registration, within_group)
        return device

    async def _register(
        self, registration: Registration, within_group: str | None
    ) -> DeviceResponse | None:
        pending = await self._pending.view()
        rows = await self._database.fetch(
            self._register_statement,
            registration.device_id,
            registration.display_name,
            registration.group_id,
            registration.platform,
            registration.fcm_token,
            within_group,
            None if registration.offline_after_s is None else int(registration.offline_after_s),
        )
        return await self._response(rows, pending)

    async def _response(self, rows: Records, pending: PendingView) -> DeviceResponse | None:
        """Return the device of a row; None if there is no row."""
        if not rows:
            return None
        return device_response(rows[0], await pending.of([rows[0][0]]), self._rule)

    async def count(self, group_id: str) -> int:
        """Return how many active devices a group has.

        Raises:
            StoreError: the database is unavailable.
        """
        (row,) = await self._database.fetch(
            "SELECT count(*) FROM devices WHERE group_id = $1 AND is_active", group_id
        )
        count: int = row[0]
        return count

    async def _release(self, device_id: UUID, group_id: str) -> bool:
        """Release the id of a device that another group deactivated long enough ago to a new group.

        The track and the times of the old device are removed first.
        """
        given = (device_id, group_id, self._release_after_s)
        # Checked first: most ids are not released, and only a release needs the right to delete.
        if not await self._database.fetch(_MAY_RELEASE, *given):
            return False
        while await self._database.fetch(_FORGET_TRACK, *given, _FORGOTTEN_AT_ONCE):
            pass
        released = bool(await self._database.fetch(_RELEASE, *given))
        if released:
            log.info("device.released", device_id=str(device_id), group_id=group_id)
        return released

    async def one(self, device_id: str) -> DeviceResponse | None:
        """Return an active device; None if there is none.

        Raises:
            StoreError: the database is unavailable.
        """
        pending = await self._pending.view()
        rows = await self._database.fetch(self._one_statement, device_id)
        return await self._response(rows, pending)

    async def deactivate(self, device_id: str) -> bool:
        """Deactivate a device; return whether it was active.

        Raises:
            StoreError: the database is unavailable.
        """
        rows = await self._database.fetch(
            "UPDATE devices SET is_active = false, deactivated_at = now() "
            "WHERE device_id = $1 AND is_active RETURNING 1",
            device_id,
        )
        return bool(rows)


def last_seen(row: Iterable[Any], view: View) -> tuple[int, int]:
    """Return when a device was last seen, 0 for never, and what time it is, in epoch seconds.

    Args:
        row: `COLUMNS` of a device.
        view: the pending touches.
    """
    device_id, _, _, stored, now, *_ = row
    # No time after the server's clock is shown. An old bug or a restored dump may have left such a
    # time, which would show the device as online for ever.
    return min(max(stored or 0, view.get(device_id) or 0), now), now


def device_response(row: Iterable[Any], view: View, rule: PresenceRule) -> DeviceResponse:
    """Return a device as the service shows it.

    Args:
        row: `COLUMNS` of a device.
        view: the pending touches.
        rule: when a device is online.
    """
    device_id, display_name, platform, _, _, latitude, longitude, accuracy, at, *stored = row
    seen, now = last_seen(row, view)
    is_online, since, offline_after_s = stored
    presence, since = rule.state(
        seen, now, is_online=is_online, since=since, offline_after_s=offline_after_s
    )
    return DeviceResponse(
        device_id=device_id,
        display_name=display_name,
        platform=platform,
        last_seen_at=datetime.fromtimestamp(seen, UTC) if seen else None,
        last_location=None if at is None else LastLocation(latitude, longitude, accuracy, at),
        presence=presence,
        presence_since=None if since is None else datetime.fromtimestamp(since, UTC),
    )
