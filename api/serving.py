"""The process that serves: it opens its listeners, and closes them in order on a signal."""

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Final, cast

import structlog
from aiohttp import web

from api.app import LISTENER, MONITOR, READINESS, REQUESTS, create_app
from api.config import ServerSettings, Settings
from api.http.bind import BACKLOG, listen
from api.http.connections import Connection
from api.http.open_files import affordable_connections
from api.sd_notify import notify

_MONITOR_SHUTDOWN_S: Final = 1.0
_LET_GO_POLL_S: Final = 0.02
IGNORED_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Without a handler they would end the process at once, without a flush."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def serve(settings: Settings, dsn: str) -> None:
    """Serve until SIGTERM or SIGINT.

    A second signal has no effect: it would cancel the last flush, and lose touches without a log
    line. The shutdown has a deadline of its own. SIGHUP, SIGUSR1 and SIGUSR2 are only logged.

    Args:
        settings: all settings.
        dsn: the DSN of the database.

    Raises:
        OSError: an address cannot be used, or the limit of open files is too low.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    for number in IGNORED_SIGNALS:
        loop.add_signal_handler(number, _log_ignored, number)
    settings = within_the_limit_of_open_files(settings)
    application = await create_app(settings, dsn)
    freeze_garbage_collector()
    async with open_listeners(application, settings.server) as serving:
        log.info("server.listening", url=settings.server.url)
        notify("READY=1")
        await told_to_stop.wait()
        notify("STOPPING=1")
        log.info("server.stopping")
        await serving.drain(settings.server.drain_s)


def _log_ignored(number: signal.Signals) -> None:
    log.warning("server.signal_ignored", signal=number.name)


def within_the_limit_of_open_files(settings: Settings) -> Settings:
    """Return settings with no more connections than the limit of open files allows.

    Raises:
        OSError: the limit of open files is too low.
    """
    affordable = affordable_connections(
        settings.server.max_connections, others=settings.database.pool_size
    )
    server = settings.server.model_copy(update={"max_connections": affordable})
    return settings.model_copy(update={"server": server})


def freeze_garbage_collector() -> None:
    """Exclude all objects that exist now from garbage collection; call it once, before serving.

    Modules, routes and settings live as long as the process. Each scan of them would stop every
    request for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()


class Serving:
    """A running application.

    Args:
        application: as `create_app` made it.
        servers: accept its connections.
        protocols: make the protocol of a connection, by listener.
    """

    def __init__(
        self,
        application: web.Application,
        servers: Sequence[asyncio.Server],
        protocols: Mapping[str, Callable[[], Connection]],
    ) -> None:
        self._application = application
        self._servers = servers
        self._protocols = protocols
        self._stand_ins: list[asyncio.Server] = []

    async def drain(self, drain_s: float) -> None:
        """Serve for a while longer, but report that this process is not ready.

        Load balancers then send requests elsewhere before connections are refused.

        Args:
            drain_s: how long, in seconds; 0 skips this.
        """
        if drain_s > 0:
            self._application[READINESS].is_draining = True
            log.info("server.draining", seconds=drain_s)
            await asyncio.sleep(drain_s)

    async def let_go(self, patience_s: float) -> None:
        """Accept no more connections, and end each one with its next response.

        Clients then open new ones, which another process accepts from the same socket. No client is
        disconnected that has just sent a request on an idle connection.

        Args:
            patience_s: how long to wait for clients that send nothing, in seconds.
        """
        self.stop_accepting()
        apps = (self._application, self._application.get(MONITOR))
        listeners = [app[LISTENER] for app in apps if app is not None]
        for listener in listeners:
            listener.lets_go = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                # Polled: an event for each connection that ends would cost all requests.
                while any(listener.waiting for listener in listeners):  # noqa: ASYNC110
                    await asyncio.sleep(_LET_GO_POLL_S)

    def stop_accepting(self) -> None:
        """Accept no more connections."""
        for server in (*self._servers, *self._stand_ins):
            server.close()
        self._stand_ins.clear()

    async def stand_in(self, sockets: Iterable[Mapping[str, Sequence[socket.socket]]]) -> None:
        """Accept connections of processes that are not there, too, until this is called again.

        Args:
            sockets: of each of those processes, by listener; they are taken over. Empty to stop.
        """
        for server in self._stand_ins:
            server.close()
        self._stand_ins.clear()
        loop = asyncio.get_running_loop()
        for one in sockets:
            for name, some in one.items():
                for listening in some:
                    server = await loop.create_server(
                        self._protocols[name], sock=listening, backlog=BACKLOG
                    )
                    self._stand_ins.append(server)


@asynccontextmanager
async def open_listeners(
    application: web.Application,
    limits: ServerSettings,
    sockets: Mapping[str, Sequence[socket.socket]] = MappingProxyType({}),
) -> AsyncIterator[Serving]:
    """Accept requests while the block runs; then complete requests in progress, and clean up.

    Args:
        application: as `create_app` made it.
        limits: limits of sizes and times.
        sockets: listen already for the listeners with these names; the rest is opened.

    Yields:
        The running application.

    Raises:
        OSError: an address cannot be used.
    """
    served = [(application, limits.shutdown_timeout_s)]
    if MONITOR in application:
        served.append((application[MONITOR], _MONITOR_SHUTDOWN_S))
    async with AsyncExitStack() as stack:
        servers: list[asyncio.Server] = []
        protocols: dict[str, Callable[[], Connection]] = {}
        serving = Serving(application, servers, protocols)
        try:
            for app, timeout_s in served:  # the monitor is last, so it stops first
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=timeout_s)
                stack.push_async_callback(runner.cleanup)
                await runner.setup()
                listener, server = app[LISTENER], cast("web.Server", runner.server)
                protocols[listener.name] = partial(
                    Connection, listener, limits, application[REQUESTS], server
                )
                servers += await listen(
                    listener, protocols[listener.name], sockets.get(listener.name, ())
                )
            yield serving
        finally:
            serving.stop_accepting()
