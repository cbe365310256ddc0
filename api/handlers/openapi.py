"""The OpenAPI document, made of the types that handlers declare, decode and encode.

A decorator of a handler declares what it reads and returns. The rest follows: a route that is not
public needs an API key and may respond 503, a route with a body may respond 413. If the handler of
a route declares nothing, the service does not start, so none is forgotten.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from api.access.authentication import public
from api.http.pieces import KnownBody
from api.http.responses import Error

_F = TypeVar("_F", bound=Callable[..., Any])

_REFUSALS: Final = {
    400: "A parameter, a header or the body is wrong; the message names it and says how.",
    401: "The API key is missing, unknown, revoked or expired.",
    403: "This API key may not do that.",
    404: "A device that the request names is unknown, or this API key may not reach it.",
    408: "The body took too long to come.",
    410: "No event after this cursor is kept; the message says where to begin.",
    413: "The body is larger than the service takes.",
    415: "The body is not declared as JSON, or encoded in a way that is not understood.",
    422: "A constraint of the database rejects the report.",
    429: "This API key registers too many devices, or the group is full: try again later.",
    500: "Something went wrong; the logs have the request's id.",
    503: "The database is away or too slow, or too much is waiting for it: try again.",
}
"""The description of each error status; the bodies of all errors have the same type."""
_MORE_HEADERS: Final = {429: ("Retry-After",), 503: ("Retry-After",)}
_JSON: Final = "application/json"
_WITH_KEY: Final = {400, 401, 404, 503}
_WITH_BODY: Final = {400, 408, 413, 415}
_IN_PATH: Final = re.compile(r"{(\w+)}").findall
_PARAMETERS: Final = {
    "device_id": {
        "name": "device_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "group_id": {
        "name": "group_id",
        "in": "path",
        "required": True,
        "schema": {
            "type": "string",
            "minLength": 2,
            "maxLength": 50,
            "pattern": "^[A-Za-z0-9_-]*$",
        },
    },
    "file": {
        "name": "file",
        "in": "path",
        "required": True,
        "description": "A path below /page, which may have slashes in it.",
        "schema": {"type": "string", "minLength": 1},
    },
    "X-Device-ID": {
        "name": "X-Device-ID",
        "in": "header",
        "description": "A registered device that this request shows to be active.",
        "schema": {"type": "string", "format": "uuid"},
    },
}
_HEADERS: Final = {
    "X-Request-ID": {
        "description": "The request's id in the logs: the client's own if it sent a valid one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A decorator: what a handler reads and returns. The handler's docstring is the summary.

    Args:
        responses: types of the bodies of success, by status; None for no body, `str` for text.
        body: what decodes the request's body.
        query: the struct that the query is read into.
        errors: further statuses of errors.
        content_type: of plain text.
    """

    responses: Mapping[int, Any]
    body: msgspec.json.Decoder[Any] | None = None
    query: type[msgspec.Struct] | None = None
    errors: tuple[int, ...] = ()
    content_type: str = "text/plain"

    def __call__(self, handler: _F) -> _F:
        """Attach the declaration to a handler."""
        handler.__dict__["operation"] = self
        return handler

    def types(self) -> list[Any]:
        """Return the types of all bodies, of requests and of responses."""
        types = [kind for kind in self.responses.values() if kind is not None]
        return types if self.body is None else [self.body.type, *types]


class DocumentHandler:
    """Handler of /api/openapi.json. The document is made at the first request."""

    def __init__(self) -> None:
        self._routes: list[web.AbstractRoute] = []
        self._document = b""

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/openapi.json", public(self._show))]

    def describe(self, routes: Iterable[web.AbstractRoute]) -> None:
        """Describe all routes, its own included; to be called once they are added.

        Raises:
            TypeError: a handler declares no operation, or a path has an unknown parameter.
        """
        self._routes = list(routes)
        for route in self._routes:
            _check(route)

    @Operation(responses={200: dict[str, Any]})
    async def _show(self, _request: web.Request) -> web.Response:
        """Show this document."""
        if not self._document:  # in a thread: it takes longer than other requests should wait
            made = await asyncio.to_thread(document, self._routes)
            self._document = msgspec.json.encode(made)
        return web.Response(body=KnownBody(self._document, None))


def document(routes: Iterable[web.AbstractRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of some routes.

    Args:
        routes: routes whose handlers declare an operation.

    Raises:
        TypeError: a handler declares no operation, or a path has an unknown parameter.
    """
    # HEAD is the same as GET by HTTP, and needs no entry.
    described = [route for route in routes if route.method != hdrs.METH_HEAD]
    types = list({kind: None for route in described for kind in _declared(route).types()})
    found, schemas = msgspec.json.schema_components(
        [Error, *types], ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip([Error, *types], found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        methods = paths.setdefault(_template(route), {})
        methods[route.method.lower()] = _described(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Activity tracker",
            "version": "1",
            "description": "Any other path gets 404, any other method 405, in the shape of all "
            "errors. Query parameters and fields that are not listed here are ignored.",
        },
        "security": [{"api_key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": {
                str(status): _response(
                    text, schema_of[Error], _JSON, *_MORE_HEADERS.get(status, ())
                )
                for status, text in _REFUSALS.items()
            },
            "securitySchemes": {"api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _declared(route: web.AbstractRoute) -> Operation:
    declared = getattr(route.handler, "operation", None)
    if not isinstance(declared, Operation):
        raise TypeError(f"the handler of {route} declares no operation")
    return declared


def _check(route: web.AbstractRoute) -> None:
    _declared(route)
    for name in _IN_PATH(_template(route)):
        _parameter(name)


def _template(route: web.AbstractRoute) -> str:
    return "" if route.resource is None else route.resource.canonical


def _described(route: web.AbstractRoute, schema_of: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    declared = _declared(route)
    parameters = [_parameter(name) for name in _IN_PATH(_template(route))]
    errors = {500, *declared.errors}
    described: dict[str, Any] = {"summary": (route.handler.__doc__ or "").partition("\n")[0]}
    if getattr(route.handler, "is_public", False):
        described["security"] = []
    else:
        errors |= _WITH_KEY
        parameters.append(_parameter("X-Device-ID"))
    if declared.query is not None:
        errors.add(400)
        parameters += _of_query(declared.query)
    if declared.body is not None:
        errors |= _WITH_BODY
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": schema_of[declared.body.type]}},
        }
    described["parameters"] = parameters
    described["responses"] = {
        **{str(status): _reference("responses", str(status)) for status in sorted(errors)},
        **{
            str(status): _response(
                HTTPStatus(status).phrase,
                schema_of.get(kind),
                declared.content_type if kind is str else _JSON,
            )
            for status, kind in declared.responses.items()
        },
    }
    return described


def _parameter(name: str) -> dict[str, Any]:
    if name not in _PARAMETERS:
        raise TypeError(f"nothing says what the parameter {name} is")
    return _reference("parameters", name)


def _of_query(query: type[msgspec.Struct]) -> list[dict[str, Any]]:
    _, schemas = msgspec.json.schema_components([query])
    fields = schemas[query.__name__]
    return [
        {"name": name, "in": "query", "required": name in fields["required"], "schema": schema}
        for name, schema in fields["properties"].items()
    ]


def _response(
    description: str, schema: dict[str, Any] | None, content_type: str, *more_headers: str
) -> dict[str, Any]:
    names = ("X-Request-ID", *more_headers)
    answer: dict[str, Any] = {
        "description": description,
        "headers": {name: _reference("headers", name) for name in names},
    }
    if schema is not None:
        answer["content"] = {content_type: {"schema": schema}}
    return answer


def _reference(kind: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}
