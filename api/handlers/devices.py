"""Routes of devices: register, list, show, deactivate, heartbeat."""

from functools import partial
from math import inf
from typing import Final

import msgspec
from aiohttp import web

from api.access.authentication import PRINCIPAL, Access, device_not_found, note_active
from api.access.quotas import Quotas
from api.durations import seconds
from api.fleet.cursors import from_cursor
from api.fleet.devices import DeviceResponse, Devices, Registration
from api.fleet.known_devices import KnownDevice
from api.fleet.listing import Ages, Listed, Listing, Listings
from api.handlers.bodies import expect_later, read_body
from api.handlers.openapi import Operation
from api.handlers.paging import list_in_slices
from api.handlers.queries import read_parameter, read_query
from api.http.limits import Limits
from api.http.responses import ApiError, json_response

_REGISTRATION: Final = msgspec.json.Decoder(Registration)


class DeviceHandlers:
    """Handlers of the routes below /api/v1/devices.

    Args:
        devices: devices in the database.
        listings: lists them.
        access: decides which device an API key may access.
        quotas: of registrations.
        limits: limits that API keys share.
    """

    def __init__(
        self,
        devices: Devices,
        listings: Listings,
        access: Access,
        quotas: Quotas,
        limits: Limits,
    ) -> None:
        self._quotas = quotas
        self._devices = devices
        self._listings = listings
        self._access = access
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            # Routes are tried in this order, and most requests are heartbeats.
            web.post("/api/v1/devices/{device_id}/heartbeat", self._heartbeat),
            web.post("/api/v1/devices/register", self._register, expect_handler=expect_later),
            web.get("/api/v1/devices", self._list),
            web.get("/api/v1/devices/{device_id}", self._show),
            web.delete("/api/v1/devices/{device_id}", self._deactivate),
        ]

    @Operation(body=_REGISTRATION, responses={200: DeviceResponse}, errors=(403, 429))
    async def _register(self, request: web.Request) -> web.Response:
        """Make a device, or bring the one with this id up to date."""
        registration = await read_body(request, _REGISTRATION, self._access)
        own_group = request[PRINCIPAL].group_id
        if own_group is not None and registration.group_id != own_group:
            raise ApiError(403, "forbidden", "this API key may not register into another group")
        self._quotas.rate.take(request[PRINCIPAL].key_id)
        if not self._access.devices.knows(str(registration.device_id), registration.group_id):
            await self._quotas.room.take(registration.group_id)
        device = await self._devices.register(registration, own_group)
        if device is None:
            raise device_not_found()
        self._access.devices.remember(KnownDevice(device.device_id, registration.group_id))
        note_active(request, device.device_id)
        return json_response(device)

    @Operation(query=Listing, responses={200: Listed})
    async def _list(self, request: web.Request) -> web.Response:
        """List the active devices of a group by display name, page by page."""
        wanted = read_query(request, Listing)
        ages = Ages(
            at_least_s=read_parameter("silent_for", wanted.silent_for, seconds) or -inf,
            at_most_s=read_parameter("seen_within", wanted.seen_within, seconds) or inf,
            presence=None if wanted.presence is msgspec.UNSET else wanted.presence,
        )
        after = read_parameter("cursor", wanted.cursor, from_cursor)
        own_group = request[PRINCIPAL].group_id
        if own_group is not None and wanted.group_id != own_group:
            return json_response(
                Listed([], None)
            )  # the same response as for a group that does not exist
        page = partial(
            self._listings.slices, wanted.group_id, limit=wanted.limit, after=after, ages=ages
        )
        return await list_in_slices(page, self._limits, request[PRINCIPAL].key_id)

    @Operation(responses={200: DeviceResponse})
    async def _show(self, request: web.Request) -> web.Response:
        """Show an active device."""
        reached = await self._access.find(request, request.match_info["device_id"])
        device = await self._devices.one(reached.device_id)
        if device is None:
            self._access.devices.forget(reached.device_id)
            raise device_not_found()
        return json_response(device)

    @Operation(responses={204: None})
    async def _deactivate(self, request: web.Request) -> web.Response:
        """Take a device out of listings and access until it registers again."""
        reached = await self._access.find(request, request.match_info["device_id"])
        was_active = await self._devices.deactivate(reached.device_id)
        self._access.devices.forget(reached.device_id)
        if not was_active:
            raise device_not_found()
        return web.Response(status=204)

    @Operation(responses={204: None})
    async def _heartbeat(self, request: web.Request) -> web.Response:
        """Note that a device is active, and nothing else."""
        device_id = request.match_info["device_id"]
        if not self._access.authorize_known(request, device_id):
            await self._access.authorize_device(request, device_id)
        return web.Response(status=204)
