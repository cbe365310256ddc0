"""The routes of events: pages with long polling, and server-sent events."""

import asyncio
from typing import Annotated, Final
from uuid import UUID

import msgspec
from aiohttp import web

from api.access.authentication import PRINCIPAL, Access
from api.events.feed import EventFeed, TooManyWait
from api.events.log import CursorTooOld, Events, EventType, Take, read_events
from api.fleet.devices import GroupId
from api.handlers.event_stream import EventStream
from api.handlers.openapi import Operation
from api.handlers.queries import read_query
from api.http.limits import Limits
from api.http.pieces import json_body
from api.http.responses import ApiError
from api.live.hub import Hub, LimitReached
from api.live.stream_body import CONTENT_TYPE
from api.postgres.database import Database

_MAX_WAIT_S: Final = 30
_RETRY_AFTER_S: Final = 10
_HEADERS: Final = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
_LAST_EVENT_ID: Final = "Last-Event-ID"
_encode: Final = msgspec.json.Encoder().encode

_Cursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}(?!\n)$")]


class Watched(msgspec.Struct, frozen=True):
    """Which events: of a group, of a device, of a type; after which."""

    group_id: GroupId | msgspec.UnsetType = msgspec.UNSET
    device_id: UUID | msgspec.UnsetType = msgspec.UNSET
    type: EventType | msgspec.UnsetType = msgspec.UNSET
    after: (
        Annotated[
            _Cursor,
            msgspec.Meta(description="A next_cursor, or an event_id; by default the oldest."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class EventsQuery(Watched, frozen=True):
    """Which events, how many, and how long to wait for the first one."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    wait_s: Annotated[int, msgspec.Meta(ge=0, le=_MAX_WAIT_S)] = 0
    take: Annotated[
        Take, msgspec.Meta(description="Which events if there are more; oldest first either way.")
    ] = "oldest"


class EventHandlers:
    """Handlers of /api/v1/events.

    Args:
        database: where events are.
        feed: notifies of new ones.
        access: knows whether an API key is still valid.
        limits: what API keys share.
        hub: counts streams, and ends them; None if there are no streams.
    """

    def __init__(
        self, database: Database, feed: EventFeed, access: Access, limits: Limits, hub: Hub | None
    ) -> None:
        self._database = database
        self._feed = feed
        self._access = access
        self._limits = limits
        self._hub = hub

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        routes = [web.get("/api/v1/events", self._list)]
        if self._hub is not None:
            routes.append(web.get("/api/v1/events/stream", self._stream))
        return routes

    @Operation(query=EventsQuery, responses={200: Events}, errors=(410,))
    async def _list(self, request: web.Request) -> web.Response:
        """List events, oldest first; wait for the first one if there is none yet."""
        wanted = read_query(request, EventsQuery)
        group_id, key_id = self._group(request, wanted), request[PRINCIPAL].key_id
        loop = asyncio.get_running_loop()
        due, after = loop.time() + wanted.wait_s, _given(wanted.after)
        while True:
            async with self._limits.reads.turn(key_id):
                page = await self._page(wanted, group_id, after, wanted.limit, wanted.take)
            left_s = due - loop.time()
            if page.events or left_s <= 0 or self._feed.is_stopping:
                break
            after = int(page.next_cursor)
            try:
                await self._feed.wait(group_id, after=after, wait_s=left_s, key_id=key_id)
            except TooManyWait as error:
                raise _no_room(error) from error
        share = await self._limits.unsent.take(key_id)
        return json_body(_encode(page), share)

    async def _page(
        self,
        wanted: Watched,
        group_id: str | None,
        after: int | None,
        limit: int,
        take: Take = "oldest",
    ) -> Events:
        if group_id == "":
            return Events([], str(after or 0))
        device_id = None if wanted.device_id is msgspec.UNSET else wanted.device_id
        type_ = None if wanted.type is msgspec.UNSET else wanted.type
        try:
            return await read_events(
                self._database,
                after=after,
                limit=limit,
                take=take,
                group_id=group_id,
                device_id=device_id,
                type_=type_,
            )
        except CursorTooOld as error:
            raise ApiError(410, "cursor_too_old", str(error)) from error

    @staticmethod
    def _group(request: web.Request, wanted: Watched) -> str | None:
        """Return the group to read, None for all; "" if the API key may not read the group."""
        own = request[PRINCIPAL].group_id
        if wanted.group_id is msgspec.UNSET:
            return own
        return wanted.group_id if own in (None, wanted.group_id) else ""

    @Operation(query=Watched, responses={200: str}, errors=(410,), content_type=CONTENT_TYPE)
    async def _stream(self, request: web.Request) -> web.Response:
        """Follow events: server-sent events, without end."""
        assert self._hub is not None  # noqa: S101 - else there is no such route
        wanted = read_query(request, Watched)
        principal = request[PRINCIPAL]
        group_id = self._group(request, wanted)
        try:
            self._hub.find_room(principal.key_id)
        except LimitReached as error:
            raise _no_room(error) from error
        after = _given(wanted.after)
        last = request.headers.get(_LAST_EVENT_ID)
        if last is not None:
            try:
                after = int(msgspec.convert(last, _Cursor))
            except msgspec.ValidationError as error:
                raise ApiError(
                    400, "invalid_parameter", f"{_LAST_EVENT_ID} is not the id of an event"
                ) from error
        await self._page(wanted, group_id, after, 1)  # what is wrong is an error with a status

        async def read(position: int | None) -> Events:
            return await self._page(wanted, group_id, position, 100)

        async def check() -> bool:
            still = await self._access.principal(request)
            return still.group_id == principal.group_id

        stream = EventStream(
            self._hub,
            self._feed,
            read,
            check,
            key_id=principal.key_id,
            group_id=group_id,
            after=after,
        )
        return web.Response(body=stream, headers=_HEADERS)


def _given(after: str | msgspec.UnsetType) -> int | None:
    return None if after is msgspec.UNSET else int(after)


def _no_room(error: Exception) -> ApiError:
    return ApiError(
        503, "too_many_streams", f"{error}; try again later", retry_after_s=_RETRY_AFTER_S
    )
