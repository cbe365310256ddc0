"""The routes of locations: one report, or a batch of them, acknowledged once committed."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from aiohttp import web

from api.answers import ApiError, json_answer
from api.auth import Access, device_not_found
from api.bodies import read_body
from api.database import Database
from api.locations import Batch, Report, Upload, store_reports
from tracker import RowRefused

_UPLOAD: Final = msgspec.json.Decoder(Upload)
_BATCH: Final = msgspec.json.Decoder(Batch)


class LocationHandlers:
    """Handlers of the routes below /api/v1/locations.

    Args:
        database: where reports are stored.
        access: who may reach which device.
    """

    def __init__(self, database: Database, access: Access) -> None:
        self._database = database
        self._access = access

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/api/v1/locations", self._one),
            web.post("/api/v1/locations/batch", self._batch),
        ]

    async def _one(self, request: web.Request) -> web.Response:
        upload = await read_body(request, _UPLOAD, self._access)
        return await self._store(request, upload.device_id, [upload])

    async def _batch(self, request: web.Request) -> web.Response:
        batch = await read_body(request, _BATCH, self._access)
        for index, report in enumerate(batch.locations):
            if report.device_id not in (None, batch.device_id):
                await self._access.reach(request, str(batch.device_id))
                raise ApiError(
                    400,
                    "invalid_body",
                    f"a batch is of one device - at `locations[{index}].device_id`",
                )
        return await self._store(request, batch.device_id, batch.locations)

    async def _store(
        self, request: web.Request, device_id: UUID, reports: Sequence[Report]
    ) -> web.Response:
        device = await self._access.reach(request, str(device_id))
        try:
            await store_reports(self._database, device.device_id, reports)
        except RowRefused as error:
            # Everything else has been validated: the device was deleted a moment ago.
            self._access.forget(device.device_id)
            raise device_not_found() from error
        return json_answer({"success": True, "processed_count": len(reports)})
