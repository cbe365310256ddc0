"""Authentication by API key, authorization by group, and the keys that a request touches.

The layer runs inside the outermost one, whose recorder calls `active_keys` when the response is
ready. A request that was not authenticated has no active keys.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, TypeVar

from aiohttp import web
from multidict import istr

from api.access.devices import ReachableDevices
from api.access.keys import Principal, hash_key, quick_hash
from api.access.lookup import CachedLookup
from api.access.rate_limit import RateLimiter
from api.fleet.known_devices import KnownDevice
from api.http.application import Handler
from api.http.responses import ApiError
from api.postgres.clock import DatabaseClock
from api.targets import DEVICES, keys_of_principal
from tracker import StoreError
from tracker.keys import uuid_key

PRINCIPAL: Final = web.RequestKey("principal", Principal)
ACTIVE: Final = web.RequestKey("active", list[tuple[str, object]])
"""The row keys that a request touches, as (target, key): its API key first, then devices."""

_API_KEY: Final = istr("X-API-Key")
_DEVICE_ID: Final = istr("X-Device-ID")

_F = TypeVar("_F", bound=Callable[..., Any])


def public(handler: _F) -> _F:
    """Mark a handler as accessible without an API key; its requests touch nothing."""
    handler.__dict__["is_public"] = True
    return handler


def device_not_found() -> ApiError:
    """Return the error for a device that does not exist or that this API key may not access."""
    return ApiError(404, "device_not_found", "no such device: register it first")


class Access:
    """Authenticates and authorizes requests, from cached API keys and devices.

    Args:
        keys: principals by the hash of their API key.
        devices: active devices, by what an API key reaches.
        clock: decides which API keys have expired.
    """

    def __init__(
        self,
        keys: CachedLookup[bytes, Principal],
        devices: ReachableDevices,
        clock: DatabaseClock,
    ) -> None:
        self.devices = devices
        """The devices that requests may access; handlers report changes of devices to it."""
        self._keys = keys
        self._clock = clock
        self._denials = RateLimiter()
        self._keys_of_principal = keys_of_principal()

    def layer(self, route: web.AbstractRoute, handler: Handler) -> Handler:
        """Wrap the handler of a route, so that no request without a valid API key reaches it."""
        if getattr(route.handler, "is_public", False):
            return handler

        keys_of_principal = self._keys_of_principal

        async def authenticate(request: web.Request) -> web.StreamResponse:
            try:
                principal = self._cached(request) or await self.principal(request)
            except (ApiError, StoreError):
                await self._denials.wait()
                raise
            request[PRINCIPAL] = principal
            active: list[tuple[str, object]] = []
            for name, key_of in keys_of_principal:
                if (key := key_of(principal)) is not None:
                    active.append((name, key))
            request[ACTIVE] = active
            if _DEVICE_ID in request.headers:
                devices = request.headers.getall(_DEVICE_ID)
                if len(devices) > 1:
                    raise ApiError(400, "invalid_device_id", "send one X-Device-ID")
                await self.authorize_device(request, devices[0])
            return await handler(request)

        return authenticate

    def _cached(self, request: web.Request) -> Principal | None:
        """Return the principal of a request if its API key is cached, fresh and has not expired."""
        keys = request.headers.getall(_API_KEY, ())
        hashed = quick_hash(keys[0]) if len(keys) == 1 else None
        principal = hashed and self._keys.cached(hashed)
        if not principal or self._has_expired(principal):
            return None
        return principal

    def _has_expired(self, principal: Principal) -> bool:
        return principal.expires_at != inf and self._clock.has_passed(principal.expires_at)

    async def principal(self, request: web.Request) -> Principal:
        """Return the principal of a request.

        Raises:
            ApiError: 401 if its API key is missing, unknown, revoked or expired.
            StoreError: the API key is not cached, and the database is unavailable.
        """
        keys = request.headers.getall(_API_KEY, ())
        if len(keys) != 1:
            raise ApiError(401, "unauthorized", "send one API key as X-API-Key")
        hashed = hash_key(keys[0])
        principal = hashed and (self._keys.cached(hashed) or await self._keys.get(hashed))
        # A stale entry may have expired since: the clock advances without the database, too.
        if not principal or self._has_expired(principal):
            raise ApiError(401, "unauthorized", "this API key is unknown, revoked or expired")
        return principal

    async def is_key_of_all_groups(self, request: web.Request) -> bool:
        """Return whether a request has a valid API key that is bound to no group.

        Without a key nothing is looked up. A wrong key waits for its turn as any other.
        """
        if _API_KEY not in request.headers:
            return False
        try:
            principal = await self.principal(request)
        except (ApiError, StoreError):
            await self._denials.wait()
            return False
        return principal.group_id is None

    def authorize_known(self, request: web.Request, device_id: str) -> bool:
        """Authorize a request for a device that the directory has, and note that it was active.

        Args:
            request: an authenticated request.
            device_id: the device's id in any spelling of a uuid; most are in canonical form.

        Returns:
            Whether it was authorized; if not, await `authorize_device`.
        """
        if self.devices.has(device_id, request[PRINCIPAL].group_id):
            note_active(request, device_id)
            return True
        return False

    async def authorize_device(self, request: web.Request, device_id: str) -> KnownDevice:
        """Return a device that a request is from or about, and note that it was active.

        Args:
            request: an authenticated request.
            device_id: the device's id in any spelling of a uuid.

        Raises:
            ApiError: as `find`.
            StoreError: it is not cached, and the database is unavailable.
        """
        device_id, group_id = _canonical(device_id), request[PRINCIPAL].group_id
        device = self.devices.known(device_id, group_id) or await self._find(device_id, group_id)
        note_active(request, device.device_id)
        return device

    async def find(self, request: web.Request, device_id: str) -> KnownDevice:
        """Return a device without a touch: a device that is only read is not active.

        Args:
            request: an authenticated request.
            device_id: the device's id in any spelling of a uuid.

        Raises:
            ApiError: 400 if it is not a uuid; 404 if it is unknown or in a group that the API key
                may not access: both get the same response, so that it discloses nothing.
            StoreError: it is not cached, and the database is unavailable.
        """
        device_id, group_id = _canonical(device_id), request[PRINCIPAL].group_id
        return self.devices.known(device_id, group_id) or await self._find(device_id, group_id)

    async def _find(self, device_id: str, group_id: str | None) -> KnownDevice:
        device = await self.devices.find(device_id, group_id)
        if device is None:
            raise device_not_found()
        return device


def note_active(request: web.Request, device_id: str) -> None:
    """Note that a request is from or about a device, for the tracking middleware.

    Args:
        request: an authenticated request.
        device_id: the device's id in canonical form.
    """
    active, device = request[ACTIVE], (DEVICES, device_id)
    if device not in active:
        active.append(device)


def active_keys(request: web.Request) -> Sequence[tuple[str, object]]:
    """Return the API key and the devices that a request touches, as (target, key)."""
    active: Sequence[tuple[str, object]] = request.get(ACTIVE, ())
    return active


def _canonical(device_id: str) -> str:
    try:
        return uuid_key(device_id)
    except ValueError as error:
        raise ApiError(400, "invalid_device_id", "the device id is not a uuid") from error
