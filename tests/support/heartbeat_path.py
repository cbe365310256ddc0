"""The whole path of a heartbeat, from received bytes to sent bytes, without sockets or a database.

A transport in memory hands bytes to the service's connection. Everything behind it is the service's
own: limits, routes, authentication, the handler and the tracking. A bare application of aiohttp has
the same transport, as a measure.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import web

from api.access.authentication import Access, active_keys
from api.access.devices import ReachableDevices
from api.access.directory import DeviceDirectory
from api.access.keys import Principal, hash_key
from api.access.lookup import CachedLookup
from api.config import Settings
from api.handlers.devices import DeviceHandlers
from api.http.application import Application
from api.http.connections import Connection
from api.http.listener import Listener
from api.http.middleware import RequestMiddleware
from api.http.request_metrics import RequestMetrics
from api.postgres.clock import DatabaseClock
from tracker import Tracker
from tracker.aiohttp import ActivityRecorder

KEY = f"ak_{'k' * 43}"
DEVICE = str(uuid.UUID(int=1))
HEARTBEAT = (
    f"POST /api/v1/devices/{DEVICE}/heartbeat HTTP/1.1\r\n"
    f"Host: localhost\r\nContent-Length: 0\r\nX-API-Key: {KEY}\r\n\r\n"
).encode()


class Wire(asyncio.Transport):
    """A transport in memory, which keeps what was sent last."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent = b""

    def write(self, data: Any) -> None:
        self.sent = bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: there is no socket."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing is buffered."""


class Path:
    """A connection to an application, which answers requests when they are sent.

    Args:
        runner: of the event loop.
        protocol: the connection.
    """

    def __init__(self, runner: asyncio.Runner, protocol: web.RequestHandler) -> None:
        self._loop = runner.get_loop()
        self._protocol = protocol
        self._wire = Wire()
        self._loop.call_soon(protocol.connection_made, self._wire)
        self._turn()

    def heartbeat(self) -> bytes:
        """Send a heartbeat and return the response."""
        self._wire.sent = b""
        self._protocol.data_received(HEARTBEAT)
        while not self._wire.sent:
            self._turn()
        return self._wire.sent

    def close(self) -> None:
        self._protocol.connection_lost(None)
        self._turn()

    def _turn(self) -> None:
        """Run what is due in the event loop."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()


@contextmanager
def bare() -> Iterator[Path]:
    """A heartbeat's path through aiohttp alone."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/api/v1/devices/{device_id}/heartbeat", answer)
    with _path(app, lambda server: web.RequestHandler(server, loop=_loop(), access_log=None)) as it:
        yield it


@contextmanager
def ours(tracking: Tracker | None) -> Iterator[Path]:
    """A heartbeat's path through the service; its API key and its device are known.

    Args:
        tracking: records its touches; None if nothing is tracked.
    """
    settings = Settings()
    keys: CachedLookup[bytes, Principal] = CachedLookup("keys", _never, settings.auth)
    keys.put(cast("bytes", hash_key(KEY)), Principal(7, None, float("inf")))
    directory = DeviceDirectory(10)
    directory.replace({DEVICE: "family"})
    directory.use(current=True)
    unused: CachedLookup[Any, Any] = CachedLookup("devices", _never, settings.auth)
    access = Access(keys, ReachableDevices(unused, unused, directory), DatabaseClock())
    requests = RequestMiddleware(RequestMetrics())
    recorder = tracking and ActivityRecorder(tracking, active_keys)
    app = Application([requests.layer(recorder=recorder), access.layer])
    nothing = cast("Any", None)
    app.add_routes(DeviceHandlers(nothing, nothing, access, nothing, nothing).routes())
    listener = Listener("api", "localhost", 0, max_connections=10)
    with _path(app, lambda server: Connection(listener, settings.server, requests, server)) as it:
        yield it


@contextmanager
def _path(
    app: web.Application, connect: Callable[[web.Server], web.RequestHandler]
) -> Iterator[Path]:
    with asyncio.Runner() as runner:
        serving = web.AppRunner(app, access_log=None)
        runner.run(serving.setup())

        async def connected() -> web.RequestHandler:
            return connect(cast("web.Server", serving.server))

        path = Path(runner, runner.run(connected()))
        try:
            yield path
        finally:
            path.close()
            runner.run(serving.cleanup())


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _never(_keys: list[Any]) -> Awaitable[Any]:
    raise AssertionError("what is known was looked up")
