"""aiohttp's application with a quicker way from a request to its handler.

aiohttp puts the chain of middlewares together for each request and adds one of its own, for nested
applications, which there are none of here. This class makes the chain of each route once.
"""

import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from api.http.routing import RouteTable

_Chain: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Route: TypeAlias = tuple[web.AbstractRoute, _Chain]

with warnings.catch_warnings():  # that aiohttp discourages subclasses
    warnings.simplefilter("ignore", DeprecationWarning)

    class Application(web.Application):
        """An application without nested ones.

        Args:
            options: those of `web.Application`.
        """

        ATTRS = web.Application.ATTRS | {"_table"}

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._table: RouteTable[_Route] = RouteTable({})
            self.on_startup.append(_fill_table)

        async def _handle(self, request: web.Request) -> web.StreamResponse:
            """Answer a request; aiohttp's server calls this."""
            found = self._table.find(request.method, request.raw_path)
            if found is None:
                match = await self.router.resolve(request)
                chain = self._chain(match.handler)
            else:
                (route, chain), variables = found
                match = UrlMappingMatchInfo(variables, route)
            match.add_app(self)
            match.freeze()
            request._match_info = match  # noqa: SLF001 - as aiohttp's own does
            if hdrs.EXPECT in request.headers:
                response = await match.expect_handler(request)
                await request.writer.drain()
                if response is not None:
                    return response
            return await chain(request)

        def _chain(self, handler: _Chain) -> _Chain:
            for middleware in reversed(self.middlewares):
                handler = partial(middleware, handler=handler)
            return handler

        def fill_table(self) -> None:
            """Make the chain of each route; to be called when all routes are there."""
            self._table = RouteTable(
                {route: (route, self._chain(route.handler)) for route in self.router.routes()}
            )


async def _fill_table(app: web.Application) -> None:
    if isinstance(app, Application):
        app.fill_table()
