"""Requests that last: streams and WebSockets are touched when they begin, and while they go on."""

import asyncio

import pytest
from aiohttp import WSMsgType, web

from tests.support.stores import TARGET
from tracker import Tracker, activity_middleware, keep_touching, touch_prepared, touch_request

USER = web.RequestKey("user", int)


class Server:
    """An application with a tracker that never writes, and handlers that wait to be released."""

    def __init__(self, *, lifespan: bool = True) -> None:
        self.tracker = Tracker(
            [TARGET], dsn="postgresql://nobody@127.0.0.1:1/x", shutdown_deadline_s=0.01
        )
        self.buffer = self.tracker.buffers["things"]
        self.release = asyncio.Event()
        self.app = web.Application(
            middlewares=[activity_middleware(self.tracker, self.identify), self.authenticate]
        )
        self.app.add_routes(
            [
                web.get("/socket", self.socket),
                web.get("/stream", self.stream),
                web.get("/timer", self.timer),
                web.get("/plain", self.plain),
                web.get("/denied", self.denied),
            ]
        )
        if lifespan:
            self.app.cleanup_ctx.append(self.tracker.lifespan)

    def identify(self, request: web.Request):
        if USER in request:
            yield "things", request[USER]

    @web.middleware
    async def authenticate(self, request: web.Request, handler) -> web.StreamResponse:
        if user := request.headers.get("X-User"):
            request[USER] = int(user)
        return await handler(request)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            touch_request(request)
            await socket.send_str("done")
        return socket

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await self.release.wait()
        return response

    async def timer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        with keep_touching(request, every_s=0.01):
            await response.prepare(request)
            await self.release.wait()
        return response

    async def plain(self, _request: web.Request) -> web.Response:
        return web.Response(text="plain")

    async def denied(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=403)
        await response.prepare(request)
        return response


ALICE = {"X-User": "7"}


async def test_a_websocket_is_touched_when_it_opens_for_each_message_and_when_it_closes(
    aiohttp_client,
):
    """It may stay open for hours, or end with the process."""
    server = Server()
    client = await aiohttp_client(server.app)
    socket = await client.ws_connect("/socket", headers=ALICE)
    assert server.buffer.touches == 1
    assert server.buffer.view().get(7)
    for touches in (2, 3):
        await socket.send_str("here")
        assert (await socket.receive()).type is WSMsgType.TEXT
        assert server.buffer.touches == touches
    await socket.close()
    await client.close()
    assert server.buffer.touches == 4


@pytest.mark.parametrize("headers", [ALICE, {}])
async def test_a_stream_is_touched_when_it_begins_if_it_is_authenticated(aiohttp_client, headers):
    """Authentication is done by then."""
    server = Server()
    client = await aiohttp_client(server.app)
    async with client.get("/stream", headers=headers) as response:
        assert server.buffer.touches == len(headers)
        server.release.set()
        await response.read()


async def test_a_timer_touches_while_a_request_goes_on_and_not_afterwards(aiohttp_client):
    """For connections without messages."""
    server = Server()
    client = await aiohttp_client(server.app)
    async with client.get("/timer", headers=ALICE) as response:
        async with asyncio.timeout(30):
            while server.buffer.touches < 4:
                await asyncio.sleep(0.01)
        server.release.set()
        await response.read()
    await client.close()
    touches = server.buffer.touches
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert server.buffer.touches == touches


async def test_a_plain_response_is_touched_once_and_a_denied_stream_never(aiohttp_client):
    """The middleware has recorded the first when it is prepared."""
    server = Server()
    client = await aiohttp_client(server.app)
    await client.get("/plain", headers=ALICE)
    assert server.buffer.touches == 1
    await client.get("/denied", headers=ALICE)
    assert server.buffer.touches == 1


async def test_an_application_without_lifespan_adds_the_signal_itself(aiohttp_client):
    """With `running()` in a context of its own."""
    server = Server(lifespan=False)
    server.app.on_response_prepare.append(touch_prepared)
    client = await aiohttp_client(server.app)
    async with client.ws_connect("/socket", headers=ALICE):
        assert server.buffer.touches == 1


async def test_middlewares_of_several_trackers_are_all_touched_when_a_stream_begins(aiohttp_client):
    """Of a nested application and of the one around it."""
    outer, inner = Server(), Server(lifespan=False)
    outer.app.add_subapp("/inner", inner.app)
    client = await aiohttp_client(outer.app)
    async with client.ws_connect("/inner/socket", headers=ALICE):
        assert inner.buffer.touches == 1
        assert outer.buffer.touches == 1


def test_requests_outside_of_the_middleware_are_ignored():
    """A handler need not know where it runs."""
    from aiohttp.test_utils import make_mocked_request  # noqa: PLC0415 - only here

    touch_request(make_mocked_request("GET", "/"))
