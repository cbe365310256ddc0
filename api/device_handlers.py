"""The routes of devices: register, list, show, deactivate, heartbeat."""

from typing import Final

import msgspec
from aiohttp import web

from api.answers import ApiError, json_answer
from api.auth import PRINCIPAL, Access, device_not_found, note_active
from api.bodies import read_body
from api.devices import Devices, GroupId, KnownDevice, Registration

_REGISTRATION: Final = msgspec.json.Decoder(Registration)
_DEFAULT_LIMIT: Final = 1000
_MOST_DEVICES: Final = 10_000


class DeviceHandlers:
    """Handlers of the routes below /api/v1/devices.

    Args:
        devices: devices in the database.
        access: who may reach which device.
    """

    def __init__(self, devices: Devices, access: Access) -> None:
        self._devices = devices
        self._access = access

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/api/v1/devices/register", self._register),
            web.get("/api/v1/devices", self._list),
            web.get("/api/v1/devices/{device_id}", self._show),
            web.delete("/api/v1/devices/{device_id}", self._deactivate),
            web.post("/api/v1/devices/{device_id}/heartbeat", self._heartbeat),
        ]

    async def _register(self, request: web.Request) -> web.Response:
        registration = await read_body(request, _REGISTRATION, self._access)
        own_group = request[PRINCIPAL].group_id
        if own_group is not None and registration.group_id != own_group:
            raise ApiError(403, "forbidden", "this API key may not register into another group")
        device = await self._devices.register(registration, own_group)
        if device is None:
            raise device_not_found()
        self._access.remember(KnownDevice(device.device_id, registration.group_id))
        note_active(request, device.device_id)
        return json_answer(device)

    async def _list(self, request: web.Request) -> web.Response:
        try:
            group_id = msgspec.convert(request.query.get("group_id"), GroupId)
        except msgspec.ValidationError as error:
            raise ApiError(
                400, "invalid_query", "group_id: 2 to 50 letters, digits, _ or - are needed"
            ) from error
        limit = _limit(request.query.get("limit"))
        own_group = request[PRINCIPAL].group_id
        if own_group is not None and group_id != own_group:
            return json_answer({"devices": []})  # as a group that does not exist
        return json_answer({"devices": await self._devices.of_group(group_id, limit)})

    async def _show(self, request: web.Request) -> web.Response:
        reached = await self._access.reach(request, request.match_info["device_id"])
        device = await self._devices.one(reached.device_id)
        if device is None:
            self._access.forget(reached.device_id)
            raise device_not_found()
        return json_answer(device)

    async def _deactivate(self, request: web.Request) -> web.Response:
        reached = await self._access.reach(request, request.match_info["device_id"])
        was_active = await self._devices.deactivate(reached.device_id)
        self._access.forget(reached.device_id)
        if not was_active:
            raise device_not_found()
        return web.Response(status=204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        await self._access.reach(request, request.match_info["device_id"])
        return web.Response(status=204)


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    # isdecimal also takes other scripts' digits, and int() spaces and underscores: be plain.
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST_DEVICES))):
        limit = 0
    else:
        limit = int(text)
    if not 1 <= limit <= _MOST_DEVICES:
        raise ApiError(400, "invalid_query", f"limit: a number from 1 to {_MOST_DEVICES} is needed")
    return limit
