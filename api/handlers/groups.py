"""The route of groups."""

from functools import partial

from aiohttp import web

from api.access.authentication import PRINCIPAL
from api.fleet.cursors import group_from_cursor
from api.fleet.groups import Groups, GroupsQuery, list_groups, one_group
from api.handlers.openapi import Operation
from api.handlers.paging import list_whole
from api.handlers.queries import read_parameter, read_query
from api.http.limits import Limits
from api.postgres.database import Database


class GroupHandlers:
    """Handler of /api/v1/groups.

    Args:
        database: where devices are stored.
        limits: limits that API keys share.
    """

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/v1/groups", self._list)]

    @Operation(query=GroupsQuery, answers={200: Groups})
    async def _list(self, request: web.Request) -> web.Response:
        """List the groups that have active devices; a key of one group gets only this group."""
        wanted = read_query(request, GroupsQuery)
        after = read_parameter("cursor", wanted.cursor, group_from_cursor)
        principal = request[PRINCIPAL]
        if principal.group_id is None:
            read = partial(list_groups, self._database, limit=wanted.limit, after=after)
        else:
            read = partial(one_group, self._database, principal.group_id)
        return await list_whole(read, self._limits, principal.key_id)
