"""Authentication by API key, authorization by group, and the keys that a request touches.

The layer runs inside the outermost one, whose recorder calls `active_keys` when the response is
ready. A request that was not authenticated has no active keys.
"""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, TypeVar

from aiohttp import web
from multidict import istr

from api.access.directory import DeviceDirectory
from api.access.keys import Principal, hash_key
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
_AT_ONCE: Final = 500
"""After so many devices of one request, other requests have their turn."""

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
        devices: active devices by their id.
        devices_of_group: active devices by group and id, for API keys of one group.
        directory: all active devices, used while it is current; else the caches are used.
        clock: decides which API keys have expired.
    """

    def __init__(
        self,
        keys: CachedLookup[bytes, Principal],
        devices: CachedLookup[str, KnownDevice],
        devices_of_group: CachedLookup[tuple[str, str], KnownDevice],
        directory: DeviceDirectory,
        clock: DatabaseClock,
    ) -> None:
        self._directory = directory
        self._keys = keys
        self._devices = devices
        self._devices_of_group = devices_of_group
        self._clock = clock
        self._denials = RateLimiter()
        self._keys_of_principal = keys_of_principal()

    def layer(self, route: web.AbstractRoute, handler: Handler) -> Handler:
        """Wrap the handler of a route, so that no request without a valid API key reaches it."""
        if getattr(route.handler, "is_public", False):
            return handler

        async def authenticate(request: web.Request) -> web.StreamResponse:
            try:
                principal = self._cached(request) or await self.principal(request)
            except (ApiError, StoreError):
                await self._denials.wait()
                raise
            request[PRINCIPAL] = principal
            request[ACTIVE] = [
                (name, key)
                for name, key_of in self._keys_of_principal
                if (key := key_of(principal)) is not None
            ]
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
        hashed = hash_key(keys[0]) if len(keys) == 1 else None
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

    async def authorize_device(self, request: web.Request, device_id: str) -> KnownDevice:
        """Return a device that a request is from or about, and note that it was active.

        Args:
            request: an authenticated request.
            device_id: the device's id in any spelling of a uuid.

        Raises:
            ApiError: as `find`.
            StoreError: it is not cached, and the database is unavailable.
        """
        device = self._known(request, device_id) or await self._find_unknown(request, device_id)
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
        return self._known(request, device_id) or await self._find_unknown(request, device_id)

    async def _find_unknown(self, request: web.Request, device_id: str) -> KnownDevice:
        """Return a device that the directory does not have in reach of the API key."""
        device = await self._look_up(uuid_key(device_id), request[PRINCIPAL].group_id)
        if device is None:
            raise device_not_found()
        return device

    def _known(self, request: web.Request, device_id: str) -> KnownDevice | None:
        """Return a device that the directory has in reach of the API key; None otherwise.

        Raises:
            ApiError: 400 if the id is not a uuid.
        """
        try:
            device_id = uuid_key(device_id)
        except ValueError as error:
            raise ApiError(400, "invalid_device_id", "the device id is not a uuid") from error
        known_group = self._directory.group_of(device_id)
        if known_group is None or request[PRINCIPAL].group_id not in (None, known_group):
            return None
        return KnownDevice(device_id, known_group)

    async def find_many(self, request: web.Request, device_ids: Sequence[str]) -> set[str]:
        """Return those of some devices that the API key may access, without a touch.

        Args:
            request: an authenticated request.
            device_ids: in canonical form.

        Raises:
            StoreError: one is not cached, and the database is unavailable.
        """
        group_id = request[PRINCIPAL].group_id
        found: set[str] = set()
        others: dict[str, None] = {}
        for place, device_id in enumerate(device_ids, start=1):
            known_group = self._directory.group_of(device_id)
            if known_group is not None and group_id in (None, known_group):
                found.add(device_id)
            else:
                others[device_id] = None
            if not place % _AT_ONCE:
                await asyncio.sleep(0)

        left = list(others)
        for start in range(0, len(left), _AT_ONCE):
            devices = await asyncio.gather(
                *(self._look_up(one, group_id) for one in left[start : start + _AT_ONCE])
            )
            found.update(device.device_id for device in devices if device is not None)
        return found

    async def _look_up(self, device_id: str, group_id: str | None) -> KnownDevice | None:
        """Return a device that the directory does not have as current; None if there is none.

        Args:
            device_id: in canonical form.
            group_id: the group of the API key; None for all.

        Raises:
            StoreError: it is not cached, the database is unavailable, and the directory does not
                have it either.
        """
        try:
            device = self._devices.cached(device_id)
            if group_id is None:
                return device or await self._devices.get(device_id)
            if device is not None and device.group_id == group_id:
                return device
            return await self._find_in_group(device_id, group_id)
        except StoreError:
            last_group = self._directory.last_group_of(device_id)
            if last_group is None or group_id not in (None, last_group):
                raise
            return KnownDevice(device_id, last_group)

    async def _find_in_group(self, device_id: str, group_id: str) -> KnownDevice | None:
        """Look up a device that the cache does not have in a group.

        A device of another group takes the same path as a device that does not exist, so neither
        the response time nor an outage of the database discloses which it is.
        """
        known = self._devices.peek(device_id)
        if known is not None and known.group_id == group_id:
            known = await self._devices.get(device_id)
            if known is not None and known.group_id == group_id:
                return known
        found = await self._devices_of_group.get((group_id, device_id))
        if found is not None:
            # From here on the cache by id has it, which `remember` and `forget` keep up to date.
            self._devices_of_group.discard((group_id, device_id))
            self._devices.put(device_id, found)
        return found

    def knows(self, device_id: str, group_id: str) -> bool:
        """Return whether the cache has a device in a group; it sends no query."""
        known = self._devices.peek(device_id)
        known_group = self._directory.group_of(device_id) or (known and known.group_id)
        return known_group == group_id

    def remember(self, device: KnownDevice) -> None:
        """Cache a device that has just been registered."""
        self._directory.put(device.device_id, device.group_id)
        self._devices.put(device.device_id, device)
        self._devices_of_group.discard((device.group_id, device.device_id))

    def forget(self, device_id: str) -> None:
        """Remove a device that has just been deactivated from directory and cache."""
        self._directory.discard(device_id)
        self._devices.discard(device_id)


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
