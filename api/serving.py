"""The process that serves: it opens its listeners, and closes them in order on a signal."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, cast

import structlog
from aiohttp import web

from api.app import LISTENER, MONITOR, REQUESTS, create_app
from api.config import ServerSettings, Settings
from api.http.bind import listen
from api.http.connections import Connection
from api.http.open_files import affordable_connections
from api.supervisor import tell_supervisor

_MONITOR_SHUTDOWN_S: Final = 1.0
IGNORED_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""They would end the process at once, without a flush, unless something handles them."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def serve(settings: Settings, dsn: str) -> None:
    """Serve until SIGTERM or SIGINT.

    A second signal changes nothing: it would break off the last flush, and lose in silence what it
    has to write. Stopping has a deadline of its own. SIGHUP, SIGUSR1 and SIGUSR2 are logged and
    change nothing.

    Args:
        settings: all settings.
        dsn: where the database is.

    Raises:
        OSError: an address cannot be listened on, or too few files may be open.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    for number in IGNORED_SIGNALS:
        loop.add_signal_handler(number, _log_ignored, number)
    settings = _within_the_limit_of_open_files(settings)
    application = await create_app(settings, dsn)
    freeze_garbage_collector()
    async with open_listeners(application, settings.server):
        log.info("server.listening", url=_url(settings.server))
        tell_supervisor("READY=1")
        await told_to_stop.wait()
        tell_supervisor("STOPPING=1")
        log.info("server.stopping")


def _log_ignored(number: signal.Signals) -> None:
    log.warning("server.signal_ignored", signal=number.name)


def _url(server: ServerSettings) -> str:
    host = server.host or "::"
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def _within_the_limit_of_open_files(settings: Settings) -> Settings:
    affordable = affordable_connections(
        settings.server.max_connections, others=settings.database.pool_size
    )
    server = settings.server.model_copy(update={"max_connections": affordable})
    return settings.model_copy(update={"server": server})


def freeze_garbage_collector() -> None:
    """Exclude all objects that exist now from garbage collection; call it once, before serving.

    Modules, routes and settings live as long as the process. Scanning them again and again would
    stop every request for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def open_listeners(
    application: web.Application, limits: ServerSettings
) -> AsyncIterator[None]:
    """Let clients in while the block runs; then answer those that are in, and clean up.

    Args:
        application: as `create_app` made it.
        limits: of sizes and times.

    Raises:
        OSError: an address cannot be listened on.
    """
    served = [(application, limits.shutdown_timeout_s)]
    if MONITOR in application:
        served.append((application[MONITOR], _MONITOR_SHUTDOWN_S))
    async with AsyncExitStack() as stack:
        bound: list[asyncio.Server] = []
        try:
            for app, timeout_s in served:  # the monitor, being last, stops first: it is not missed
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=timeout_s)
                stack.push_async_callback(runner.cleanup)
                await runner.setup()
                listener, server = app[LISTENER], cast("web.Server", runner.server)
                bound.append(
                    await listen(
                        listener,
                        partial(Connection, listener, limits, application[REQUESTS], server),
                    )
                )
            yield
        finally:
            for one in bound:
                one.close()
