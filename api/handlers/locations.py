"""The routes of locations: one report or a batch, acknowledged once committed; and read back."""

from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from api.access.authentication import PRINCIPAL, Access, device_not_found
from api.fleet.locations import Accepted, Batch, NoSuchDevice, Report, Upload
from api.fleet.tracks import Track, TrackQuery, load_track
from api.handlers.bodies import expect_later, read_body
from api.handlers.openapi import Operation
from api.handlers.paging import list_whole
from api.handlers.queries import read_query
from api.http.limits import Limits
from api.http.responses import ApiError, json_response
from api.postgres.database import Database
from tracker import RowRejected
from tracker.instrumentation import LogThrottle

_UPLOAD: Final = msgspec.json.Decoder(Upload)
_BATCH: Final = msgspec.json.Decoder(Batch)

_LOG_EVERY_S: Final = 10.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Uploads(Protocol):
    """Where uploads are stored."""

    async def store(self, device_id: str, reports: Sequence[Report], *, size_bytes: int) -> int:
        """Return when all of the reports are committed.

        Args:
            device_id: the device that sent them.
            reports: at least one.
            size_bytes: the size of their request's body.

        Returns:
            How many of them were stored before, or repeat an earlier report of the upload.

        Raises:
            NoSuchDevice: the device has no row any more; none is stored.
            RowRejected: the database rejects a report; none is stored.
            StoreError: the database is unavailable or too slow; whether they are stored is unknown.
        """
        ...


class LocationHandlers:
    """Handlers of the routes below /api/v1/locations.

    Args:
        uploads: where uploads are stored.
        database: where they are read.
        access: decides which device an API key may access.
        limits: limits that API keys share.
    """

    def __init__(
        self, uploads: Uploads, database: Database, access: Access, limits: Limits
    ) -> None:
        self._uploads = uploads
        self._database = database
        self._refused = LogThrottle(_LOG_EVERY_S)
        self._access = access
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/api/v1/locations", self._one, expect_handler=expect_later),
            web.post("/api/v1/locations/batch", self._batch, expect_handler=expect_later),
            web.get("/api/v1/locations", self._track),
        ]

    @Operation(body=_UPLOAD, responses={200: Accepted}, errors=(422,))
    async def _one(self, request: web.Request) -> web.Response:
        """Store a report; respond once it is committed. Sent again, it changes nothing."""
        upload = await read_body(request, _UPLOAD, self._access)
        return await self._store(request, upload.device_id, [upload])

    @Operation(body=_BATCH, responses={200: Accepted}, errors=(422,))
    async def _batch(self, request: web.Request) -> web.Response:
        """Store up to 50 reports of one device, all or none."""
        batch = await read_body(request, _BATCH, self._access)
        for index, report in enumerate(batch.locations):
            if report.device_id not in (None, batch.device_id):
                await self._access.authorize_device(request, str(batch.device_id))
                raise ApiError(
                    400,
                    "invalid_body",
                    f"a batch is of one device - at `locations[{index}].device_id`",
                )
        return await self._store(request, batch.device_id, batch.locations)

    @Operation(query=TrackQuery, responses={200: Track})
    async def _track(self, request: web.Request) -> web.Response:
        """List the reports of a device, the newest first; it does not count as active by that."""
        wanted = read_query(request, TrackQuery)
        device = await self._access.find(request, str(wanted.device_id))
        before = None if wanted.before is msgspec.UNSET else wanted.before

        async def read() -> Track:
            track = await load_track(
                self._database, device.device_id, limit=wanted.limit, before=before
            )
            if track is None:
                self._access.devices.forget(device.device_id)
                raise device_not_found()
            return track

        return await list_whole(read, self._limits, request[PRINCIPAL].key_id)

    async def _store(
        self, request: web.Request, device_id: UUID, reports: Sequence[Report]
    ) -> web.Response:
        device = await self._access.authorize_device(request, str(device_id))
        body = await request.read()  # the body has been read; this returns its size
        try:
            duplicates = await self._uploads.store(device.device_id, reports, size_bytes=len(body))
        except NoSuchDevice as error:  # it was deleted a moment ago
            self._access.devices.forget(device.device_id)
            raise device_not_found() from error
        except RowRejected as error:
            if times := self._refused.due():
                log.warning("upload.rejected", times=times, error=str(error))
            raise ApiError(422, "refused", "the database rejects this report") from error
        return json_response(
            Accepted(success=True, processed_count=len(reports), duplicate_count=duplicates)
        )
