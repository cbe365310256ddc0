"""The route of groups."""

from aiohttp import web

from api.access.authentication import PRINCIPAL
from api.fleet.groups import Groups, list_groups
from api.handlers.openapi import Operation
from api.http.responses import json_response
from api.postgres.database import Database


class GroupHandlers:
    """Handler of /api/v1/groups.

    Args:
        database: where devices are stored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/v1/groups", self._list)]

    @Operation(answers={200: Groups})
    async def _list(self, request: web.Request) -> web.Response:
        """List the groups that have active devices; a key of one group sees that one alone."""
        return json_response(await list_groups(self._database, request[PRINCIPAL].group_id))
