"""aiohttp's application with a shorter way from a request to its handler.

aiohttp puts the chain of middlewares together for each request and adds one of its own, for nested
applications, which there are none of here. This class wraps each handler in its layers once, so
that a layer knows beforehand which route it is for.
"""

import warnings
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from api.http.routing import RouteTable

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Layer: TypeAlias = Callable[[web.AbstractRoute, Handler], Handler]
"""Wraps the handler of a route; called once for each route."""


def layer_of(middleware: Middleware) -> Layer:
    """Return a middleware of aiohttp as a layer."""

    def wrap(_route: web.AbstractRoute, handler: Handler) -> Handler:
        return partial(middleware, handler=handler)

    return wrap


class _Match(UrlMappingMatchInfo):
    """The route of a request, in an application that is not nested in another one."""

    def __init__(
        self, variables: dict[str, str], route: web.AbstractRoute, app: web.Application
    ) -> None:
        dict.__init__(self, variables)
        self._route = route
        self._apps = [app]
        self._current_app = app
        self._frozen = True


with warnings.catch_warnings():  # that aiohttp discourages subclasses
    warnings.simplefilter("ignore", DeprecationWarning)

    class Application(web.Application):
        """An application without nested ones and without middlewares.

        Args:
            layers: what wraps each handler, the outermost first.
            options: those of `web.Application`.
        """

        ATTRS = web.Application.ATTRS | {"layers", "_table"}

        def __init__(self, layers: Sequence[Layer], **options: Any) -> None:
            super().__init__(**options)
            self.layers = list(layers)
            """What wraps each handler; it may be changed until the application starts."""
            self._table: RouteTable[tuple[web.AbstractRoute, Handler]] = RouteTable({})
            self.on_startup.append(_fill_table)

        async def _handle(self, request: web.Request) -> web.StreamResponse:
            """Answer a request; aiohttp's server calls this."""
            found = self._table.find(request.method, request.raw_path)
            if found is None:
                match = await self.router.resolve(request)
                match.add_app(self)
                handler = self._wrapped(match.route)
            else:
                (route, handler), variables = found
                match = _Match(variables, route, self)
            request._match_info = match  # noqa: SLF001 - as aiohttp's own does
            if hdrs.EXPECT in request.headers:
                response = await match.expect_handler(request)
                await request.writer.drain()
                if response is not None:
                    return response
            return await handler(request)

        def fill_table(self) -> None:
            """Wrap all handlers; to be called when all routes and layers are there."""
            self._table = RouteTable(
                {route: (route, self._wrapped(route)) for route in self.router.routes()}
            )

        def _wrapped(self, route: web.AbstractRoute) -> Handler:
            handler: Handler = route.handler
            for layer in reversed(self.layers):
                handler = layer(route, handler)
            return handler


async def _fill_table(app: web.Application) -> None:
    if isinstance(app, Application):
        app.fill_table()
