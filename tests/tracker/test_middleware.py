"""The middleware: which responses count as activity, and that tracking fails no request."""

import asyncio

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.support.stores import TARGET
from tracker import Tracker, activity_middleware


def make_app(handler, identify=lambda request: [("things", request.match_info["id"])]):
    """Return an application with one route, and its tracker; nothing is ever flushed."""
    tracker = Tracker([TARGET], dsn="postgresql://nowhere")
    app = web.Application(middlewares=[activity_middleware(tracker, identify)])
    app.router.add_get("/{id}", handler)
    return app, tracker.buffers["things"]


def answering(status: int):
    async def handler(_request):
        return web.Response(status=status)

    return handler


def raising(error):
    async def handler(_request):
        raise error

    return handler


@pytest.mark.parametrize("status", [200, 204, 400, 404, 409, 500, 503])
async def test_any_response_to_an_authenticated_request_touches(aiohttp_client, status):
    """Errors of the handler count, too."""
    app, buffer = make_app(answering(status))
    client = await aiohttp_client(app)
    assert (await client.get("/7")).status == status
    assert list(buffer.drain()) == [7]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_denied_request_does_not_touch(aiohttp_client, status):
    """401 and 403 do not count, whether the response is returned or raised."""
    app, buffer = make_app(answering(status))
    client = await aiohttp_client(app)
    assert (await client.get("/7")).status == status
    error = {401: web.HTTPUnauthorized, 403: web.HTTPForbidden}[status]
    app, raised = make_app(raising(error()))
    client = await aiohttp_client(app)
    assert (await client.get("/7")).status == status
    assert buffer.touches == raised.touches == 0


@pytest.mark.parametrize("error", [web.HTTPNotFound(), web.HTTPFound("/"), RuntimeError("bug")])
async def test_a_raised_response_touches(aiohttp_client, error):
    """An exception of the handler's is recorded and passed on."""
    app, buffer = make_app(raising(error))
    client = await aiohttp_client(app)
    await client.get("/7", allow_redirects=False)
    assert list(buffer.drain()) == [7]


@pytest.mark.parametrize(
    ("returned", "logged"),
    [
        (None, "Missing return statement on request handler"),
        ("text", "Web-handler should return a response instance"),
    ],
)
async def test_a_handler_that_returns_no_response_touches_and_aiohttp_logs_its_name(
    aiohttp_client, caplog, returned, logged
):
    """The middleware passes on what it gets, so that the log names the handler."""

    async def forgetful(_request):
        return returned

    app, buffer = make_app(forgetful)
    client = await aiohttp_client(app)
    assert (await client.get("/7")).status == 500
    assert list(buffer.drain()) == [7]
    assert "tracker/aiohttp.py" not in caplog.text
    assert logged in caplog.text


async def test_the_touch_is_recorded_before_the_response_is_sent(aiohttp_client):
    """A client that has the response can read the touch."""
    app, buffer = make_app(answering(204))
    touches = []

    async def on_prepare(_request, _response):
        touches.append(buffer.touches)

    app.on_response_prepare.append(on_prepare)
    client = await aiohttp_client(app)
    await client.get("/7")
    assert touches == [1]


async def test_an_error_while_tracking_fails_no_request_and_is_logged_once(aiohttp_client):
    """A bug in `identify` costs one log line a minute, and no request."""

    def identify(_request):
        raise KeyError("bug")

    app, _ = make_app(answering(200), identify)
    client = await aiohttp_client(app)
    with capture_logs() as logs:
        for _ in range(5):
            assert (await client.get("/7")).status == 200
    assert [entry["event"] for entry in logs] == ["touch.failed"]


async def test_an_unknown_target_fails_no_request(aiohttp_client):
    """So does a wrong target name."""
    app, _ = make_app(answering(200), lambda _request: [("nothings", 1)])
    client = await aiohttp_client(app)
    with capture_logs() as logs:
        assert (await client.get("/7")).status == 200
    assert logs[0]["event"] == "touch.failed"


async def test_a_request_whose_client_disconnects_touches(aiohttp_client):
    """A request that is cancelled in the middle is recorded, and stays cancelled."""
    entered = asyncio.Event()
    tasks = []

    async def wait(_request):
        tasks.append(asyncio.current_task())
        entered.set()
        await asyncio.Event().wait()

    app, buffer = make_app(wait)
    client = await aiohttp_client(app)
    request = asyncio.create_task(client.get("/7"))
    await entered.wait()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    request.cancel()
    await asyncio.wait((request,))
    assert buffer.touches == 1
