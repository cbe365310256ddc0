"""Responses match the OpenAPI document for any request; the fuzzer reports one that does not."""

import asyncio
import io
from random import Random

import pytest
from aiohttp import web
from rich.console import Console

from api.access.authentication import public
from api.handlers.openapi import DocumentHandler, Operation
from api.http.responses import json_response
from benchmarks.fuzzing import fuzz as fuzzing
from benchmarks.fuzzing.contract import Sent, explore
from benchmarks.fuzzing.fuzz import fuzz
from benchmarks.fuzzing.mutation import as_curl, attack, broken
from benchmarks.harness.testbed import Testbed

SEED = 20_210_307
GOOD = Sent(
    "POST /api/v1/locations",
    "POST",
    "http://127.0.0.1:1/api/v1/locations?a=b",
    {"X-API-Key": "ak_x", "Content-Type": "application/json"},
    b'{"latitude": 1.5, "provider": "gps", "altitude": null}',
)


async def test_responses_match_the_openapi_document(server_dsn, tmp_path, monkeypatch):
    """Thousands of requests to two workers cause no crash and no undocumented response."""
    monkeypatch.setattr(fuzzing, "LOG", tmp_path / "fuzz.log")
    output = io.StringIO()
    console = Console(file=output, width=200)
    testbed = Testbed(server_dsn)
    code = await fuzz(testbed, console, requests=2400, seed=SEED, examples=12, workers=2)
    said = output.getvalue()
    assert code == 0, said  # it has the seed, and how to do a failure again
    for status in (200, 204, 400, 401, 404, 405, 415):
        assert f"  {status}  " in said
    log = (tmp_path / "fuzz.log").read_text()
    assert "request.crashed" not in log
    assert "Traceback" not in log


def a_service(respond) -> web.Application:
    """A service whose document promises a dictionary of numbers; its response is a parameter."""

    @Operation(responses={200: dict[str, int]})
    async def handler(request):
        """Answer numbers."""
        return respond(request)

    app, document = web.Application(), DocumentHandler()
    app.router.add_get("/api/v1/devices", public(handler))
    app.add_routes(document.routes())
    document.describe(app.router.routes())
    return app


def with_id(response: web.Response) -> web.Response:
    response.headers["X-Request-ID"] = "1"
    return response


@pytest.mark.parametrize(
    ("respond", "failure"),
    [
        (lambda _: with_id(json_response({}, 500)), "Server error"),
        (lambda _: with_id(json_response({}, 409)), "Undocumented status code"),
        (lambda _: with_id(json_response({"a": "b"})), "Response violates schema"),
        (lambda _: with_id(web.Response(text="{}")), "Undocumented Content-Type"),
        (lambda _: json_response({}), "Missing required response headers"),
    ],
)
async def test_an_undocumented_response_is_reported(aiohttp_server, respond, failure):
    """Statuses, shapes, content types and headers are all compared with the document."""
    url = str((await aiohttp_server(a_service(respond))).make_url("")).rstrip("/")
    found, accepted = await asyncio.to_thread(explore, url, "ak_x", seed=SEED, examples=1)
    assert f"GET /api/v1/devices: {failure}" in found.failures
    assert "curl" in found.failures[f"GET /api/v1/devices: {failure}"]
    assert len(accepted) == sum(n for status, n in found.statuses.items() if status < 400)


@pytest.mark.parametrize(
    ("response", "failure"),
    [
        (with_id(json_response({}, 503)), "status 503"),
        (with_id(json_response({}, 409)), "status 409"),
        (web.Response(status=200), "200 without a request id"),
        (with_id(web.Response(text="Traceback (most ...")), "200 with a traceback"),
        (with_id(web.Response(status=400, text="no")), "400 without the JSON body of an error"),
        (with_id(json_response({"error": "a"}, 400)), "400 without the JSON body of an error"),
        (None, "no response: ServerDisconnectedError"),
        (with_id(json_response({"error": "a", "message": "b"}, 400)), None),
        (with_id(web.Response(status=200)), None),
    ],
)
async def test_an_invalid_response_to_a_malformed_request_is_reported(
    aiohttp_server, response, failure
):
    """A response must exist, have a documented status, and as an error the documented body."""

    async def handler(request):
        if response is None:
            request.transport.abort()
            return web.Response()
        return response

    app = web.Application()
    app.router.add_post("/api/v1/locations", handler)
    url = (await aiohttp_server(app)).make_url("/")
    sent = Sent(GOOD.operation, "POST", str(url.with_path("/api/v1/locations")), {}, b"{}")
    found = await attack(str(url), [sent], {GOOD.operation: {200, 400}})
    assert list(found.failures) == ([f"{GOOD.operation}: {failure}"] if failure else [])
    assert found.statuses.total() == 1


def test_a_seed_always_gives_the_same_malformed_requests():
    """Each request is malformed in its own way."""
    runs = []
    for _ in range(2):
        rng = Random(SEED)
        runs.append([broken(GOOD, rng) for _ in range(200)])
    assert runs[0] == runs[1]
    assert len({as_curl(one) for one in runs[0]}) > 100
    assert len({one.url for one in runs[0]}) > 5
    assert len({one.body for one in runs[0]}) > 50
