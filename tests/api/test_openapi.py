"""The OpenAPI document: valid, complete, and made of what validates."""

from typing import Annotated

import msgspec
import pytest
from aiohttp import web
from openapi_spec_validator import validate

from api.handlers.openapi import DocumentHandler, Operation, document


async def described(service) -> dict:
    response = await service.call("GET", "/api/openapi.json", key="")
    assert response.status == 200
    return await response.json()


async def test_the_document_is_valid_and_public(service):
    """It needs no API key, touches nothing, and is OpenAPI 3.1."""
    touches = service.touches()
    found = await described(service)
    validate(found)
    assert found["openapi"].startswith("3.1")
    assert service.touches() == touches


async def test_every_route_is_in_the_document(service):
    """What the router knows and what the document says are the same; HEAD comes with GET."""
    found = await described(service)
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in service.client.app.router.routes()
        if route.method != "HEAD"
    }
    assert routes == {(path, method) for path, item in found["paths"].items() for method in item}
    for item in found["paths"].values():
        for declared in item.values():
            assert declared["summary"].endswith(".")
            assert any(status.startswith("2") for status in declared["responses"])


async def test_only_public_routes_need_no_key(service):
    """A route without a key in the document answers without one, the others 401."""
    found = await described(service)
    for path, item in found["paths"].items():
        for method, declared in item.items():
            url = path.replace("{device_id}", "00000000-0000-0000-0000-000000000000")
            url = url.replace("{group_id}", "family")
            response = await service.call(method, url, key="")
            assert (response.status == 401) == (declared.get("security") != [])


async def test_bounds_in_the_document_are_those_that_validate(service):
    """One of each place: a parameter, a body, an answer."""
    found = await described(service)
    schemas = found["components"]["schemas"]
    listing = found["paths"]["/api/v1/devices"]["get"]["parameters"]
    (limit,) = (parameter for parameter in listing if parameter.get("name") == "limit")
    assert limit["required"] is False
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000}
    assert schemas["Batch"]["properties"]["locations"]["maxItems"] == 50
    assert schemas["Upload"]["properties"]["latitude"]["maximum"] == 90
    assert schemas["LastLocation"]["properties"]["timestamp"]["format"] == "date-time"


def test_a_route_that_declares_nothing_stops_the_start():
    """It cannot be forgotten: the service would not come up."""

    async def forgotten(_request):
        return web.Response()

    app = web.Application()
    app.router.add_get("/forgotten", forgotten)
    with pytest.raises(TypeError, match="forgotten"):
        DocumentHandler().describe(app.router.routes())


def test_a_path_parameter_without_a_description_stops_the_start():
    """Nor can a new kind of parameter: the document would not be valid."""

    @Operation(responses={204: None})
    async def handler(_request):
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/{strange}", handler)
    with pytest.raises(TypeError, match="strange"):
        DocumentHandler().describe(app.router.routes())


def test_a_declaration_is_all_that_a_new_route_needs():
    """Its types, its query and its errors follow."""

    class Wanted(msgspec.Struct):
        colour: Annotated[str, msgspec.Meta(max_length=9)]
        size: int = 3

    class Thing(msgspec.Struct):
        name: str

    @Operation(query=Wanted, responses={200: list[Thing]}, errors=(403,))
    async def handler(_request):
        """List things."""

    app = web.Application()
    app.router.add_get("/things", handler)
    found = document(app.router.routes())
    validate(found)
    things = found["paths"]["/things"]["get"]
    assert things["summary"] == "List things."
    assert set(things["responses"]) == {"200", "400", "401", "403", "404", "500", "503"}
    required = {one["name"]: one["required"] for one in things["parameters"] if "name" in one}
    assert required == {"colour": True, "size": False}
    content = things["responses"]["200"]["content"]["application/json"]["schema"]
    assert content == {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}
