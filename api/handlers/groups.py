"""The route of groups."""

from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from api.access.authentication import PRINCIPAL, Access
from api.fleet.cursors import group_from_cursor
from api.fleet.devices import GroupId
from api.fleet.groups import (
    ChangedSettings,
    Groups,
    GroupSettings,
    GroupsQuery,
    list_groups,
    one_group,
    set_group,
)
from api.fleet.presence import PresenceRule
from api.handlers.bodies import read_body
from api.handlers.openapi import Operation
from api.handlers.paging import list_whole
from api.handlers.queries import read_parameter, read_query
from api.http.limits import Limits
from api.http.responses import ApiError, json_response
from api.postgres.database import Database

_SETTINGS: Final = msgspec.json.Decoder(ChangedSettings)


class GroupHandlers:
    """Handler of /api/v1/groups.

    Args:
        database: where devices are stored.
        access: authorizes requests.
        limits: limits that API keys share.
        rule: when a device is online.
    """

    def __init__(
        self, database: Database, access: Access, limits: Limits, rule: PresenceRule
    ) -> None:
        self._database = database
        self._access = access
        self._rule = rule
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/v1/groups", self._list),
            web.put("/api/v1/groups/{group_id}", self._set),
        ]

    @Operation(query=GroupsQuery, responses={200: Groups})
    async def _list(self, request: web.Request) -> web.Response:
        """List the groups that have active devices; a key of one group gets only this group."""
        wanted = read_query(request, GroupsQuery)
        after = read_parameter("cursor", wanted.cursor, group_from_cursor)
        principal = request[PRINCIPAL]
        if principal.group_id is None:
            read = partial(
                list_groups, self._database, limit=wanted.limit, after=after, rule=self._rule
            )
        else:
            read = partial(one_group, self._database, principal.group_id, rule=self._rule)
        return await list_whole(read, self._limits, principal.key_id)

    @Operation(body=_SETTINGS, responses={200: GroupSettings}, errors=(403,))
    async def _set(self, request: web.Request) -> web.Response:
        """Set when the devices of a group are offline; null is the default of the service."""
        group_id = request.match_info["group_id"]
        try:
            msgspec.convert(group_id, GroupId)
        except msgspec.ValidationError as error:
            raise ApiError(400, "invalid_parameter", f"group_id: {error}") from error
        settings = await read_body(request, _SETTINGS, self._access)
        own_group = request[PRINCIPAL].group_id
        if own_group is not None and group_id != own_group:
            raise ApiError(403, "forbidden", "this API key may not change another group")
        after_s = None if settings.offline_after_s is None else int(settings.offline_after_s)
        return json_response(await set_group(self._database, group_id, after_s))
