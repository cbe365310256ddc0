"""The route of the live stream."""

from collections.abc import Callable
from importlib.metadata import version
from time import monotonic
from typing import Final

import msgspec
from aiohttp import web

from api.access.authentication import PRINCIPAL, Access
from api.fleet.devices import GroupId
from api.handlers.openapi import Operation
from api.handlers.queries import read_query
from api.http.responses import ApiError
from api.live.events import Hello
from api.live.hub import Hub, LimitReached
from api.live.stream import Stream, StreamEnded
from api.live.stream_body import CONTENT_TYPE
from tracker import StoreError

_RETRY_AFTER_S: Final = 10
_TOUCH_EVERY_S: Final = 60.0
"""How often the API key of an open stream is touched."""
_HEADERS: Final = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
"""No proxy may cache or buffer the stream."""


class Watched(msgspec.Struct, frozen=True):
    """The query of the live stream."""

    group_id: GroupId


class LiveHandlers:
    """Handler of /api/v1/live.

    Args:
        hub: has the snapshots of all watched groups.
        access: knows whether an API key is still valid.
        touch: records the touches of a request again, while its stream lasts.
    """

    def __init__(self, hub: Hub, access: Access, touch: Callable[[web.Request], None]) -> None:
        self._touch = touch
        self._hub = hub
        self._access = access
        self._version = version("activity-tracker")

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/v1/live", self._watch)]

    @Operation(query=Watched, responses={200: str}, content_type=CONTENT_TYPE)
    async def _watch(self, request: web.Request) -> web.Response:
        """Watch a group: server-sent events, without end."""
        group_id = read_query(request, Watched).group_id
        principal = request[PRINCIPAL]
        rule = self._hub.rule
        reached = group_id if principal.group_id in (None, group_id) else None
        try:
            self._hub.find_room(principal.key_id)
            await self._hub.group(reached)
            self._hub.find_room(principal.key_id)  # another stream may have opened in the meantime
        except LimitReached as error:
            raise _no_room(str(error)) from error

        def hello(now: float, devices: int, of: int) -> Hello:
            return Hello(
                group_id=group_id,
                now=now,
                online_within_s=rule.idle_after_s,
                silent_after_s=rule.offline_after_s,
                presence_enabled=rule.is_watched,
                devices=devices,
                of=of,
                version=self._version,
                all_groups=principal.group_id is None,
            )

        touched_at = monotonic()

        async def check() -> None:
            nonlocal touched_at
            try:
                still = await self._access.principal(request)
            except ApiError as error:
                raise StreamEnded("unauthorized") from error
            except StoreError as error:
                raise StreamEnded("unavailable") from error
            if still.group_id != principal.group_id:
                raise StreamEnded("unavailable")
            if (
                monotonic() - touched_at >= _TOUCH_EVERY_S
            ):  # an open stream uses its API key all the time
                touched_at = monotonic()
                self._touch(request)

        stream = Stream(
            self._hub,
            reached,
            hello,
            check,
            key_id=principal.key_id,
            all_groups=principal.group_id is None,
        )
        return web.Response(body=stream, headers=_HEADERS)


def _no_room(why: str) -> ApiError:
    return ApiError(
        503, "too_many_streams", f"{why}; try again later", retry_after_s=_RETRY_AFTER_S
    )
