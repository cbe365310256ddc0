"""One worker: the whole service on sockets that its parent owns, and siblings beside it.

Its parent asks it, in this order: `start` (prepare to serve), `peers` (connect to these siblings;
asked again whenever one comes or goes), `accept` (accept connections), `scrape` as often as needed,
and `stop`. When the parent is gone, the worker ends in good order, too.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from aiohttp import web

from api.app import POLLS, REGISTRY, TRACKER, create_app
from api.config import Settings, SettingsError
from api.live.tracker_stats import TrackerStats
from api.logs import configure_logs
from api.postgres.migrate import MigrationError, migrate
from api.serving import (
    IGNORED_SIGNALS,
    Serving,
    freeze_garbage_collector,
    open_listeners,
    within_the_limit_of_open_files,
)
from api.targets import labels
from api.workers.answers import SiblingAnswers
from api.workers.channel import Channel, ChannelError
from api.workers.merge import families_of
from api.workers.run_dir import serve_channels
from api.workers.settings import dump_settings, load_dumped, read_again, share_of
from api.workers.siblings import WorkerSiblings
from tracker import ConfigurationError, StoreError

_TELL_DEADLINE_S: Final = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def main(descriptor: int) -> None:
    """Serve until the parent says stop, or is gone.

    Args:
        descriptor: of the stream to the parent.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_run(descriptor)))


async def _run(descriptor: int) -> int:
    return await Worker().run(descriptor)


class Worker:
    """This process; to be made while the event loop runs."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._channel = Channel(self._answer, on_lost=self._stop_without_parent)
        self._siblings = WorkerSiblings(self._channel)
        self._options: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self._prepared: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._told_to_accept = asyncio.Event()
        self._accepts: asyncio.Future[None] = loop.create_future()
        self._told_to_stop = asyncio.Event()
        self._lets_go = True
        self._application: web.Application | None = None
        self._serving: Serving | None = None
        self._stands_in_for: set[int] = set()
        self._updating = asyncio.Lock()  # the last update is the one that stays

    def _answer(self, what: str, body: Any) -> Any:
        """Answer the parent."""
        if what == "start":
            self._options.set_result(body)
            return self._prepared
        if what == "peers":
            return self._update_peers(*body)
        if what == "accept":
            self._told_to_accept.set()
            return self._accepts
        if what == "ping":
            return None
        if what == "scrape" and self._application is not None:
            return families_of(self._application[REGISTRY])
        if what == "stop":
            self._lets_go = body
            return self._told_to_stop.set()
        raise ValueError(f"unknown question {what!r}")

    async def _update_peers(
        self,
        peers: Mapping[str, int],
        warnings: Mapping[str, str],
        died: bool,  # noqa: FBT001 - as it comes from the parent
        vacant: Sequence[int],
    ) -> None:
        async with self._updating:
            await self._siblings.update(peers, warnings)
            if self._serving is not None and set(vacant) != self._stands_in_for:
                self._stands_in_for = set(vacant)
                await self._serving.stand_in([self._sockets(number) for number in vacant])
        if died and self._application is not None and TRACKER in self._application:
            self._application[TRACKER].recover_journals()

    def _sockets(self, number: int) -> dict[str, list[socket.socket]]:
        """Return new descriptors of the sockets of a worker, by listener."""
        return {
            name: [socket.socket(fileno=os.dup(one)) for one in descriptors]
            for name, descriptors in self._options.result()["sockets"][number].items()
        }

    def _stop_without_parent(self) -> None:
        if not self._told_to_stop.is_set():
            log.error("worker.parent_gone")
        self._lets_go = False
        self._told_to_stop.set()
        self._told_to_accept.set()
        self._options.cancel()

    async def run(self, descriptor: int) -> int:
        """Serve until the parent says stop, or is gone; return the exit code.

        Args:
            descriptor: of the stream to the parent.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_stop.set)
        stream = socket.socket(fileno=descriptor)
        stream.settimeout(0)
        await loop.create_unix_connection(lambda: self._channel, sock=stream)
        try:
            options = await self._options
        except asyncio.CancelledError:
            return 1
        try:
            await self._serve(options)
        except SettingsError as error:
            await self._fail(str(error), code=2)
        except (ConfigurationError, MigrationError, OSError, StoreError) as error:
            await self._fail(str(error), code=1)
        except Exception as error:
            log.exception("worker.crashed")
            await self._fail(f"{type(error).__name__}: {error}", code=1)
        else:
            return 0
        return 1

    async def _fail(self, message: str, *, code: int) -> None:
        """Tell the parent why this worker cannot start, and wait until it has read it."""
        if self._prepared.done():
            log.error("worker.failed", error=message)
            return
        self._prepared.set_result({"error": message, "code": code})
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELL_DEADLINE_S):
                await self._told_to_stop.wait()

    async def _serve(self, options: Mapping[str, Any]) -> None:
        settings = _settings(options)
        configure_logs(settings.log, worker=options["worker"])
        dsn = settings.database.url or options["dsn"]
        if options["settings"] is None and settings.database.auto_migrate:
            await migrate(dsn, connect_timeout_s=settings.database.connect_timeout_s)
        own = share_of(settings, options["workers"])
        own = within_the_limit_of_open_files(own)
        application = self._application = await create_app(own, dsn, siblings=self._siblings)
        application[REGISTRY].register(self._siblings)
        self._siblings.worker = options["worker"]
        path = str(Path(options["run_dir"]) / f"{os.getpid()}.sock")
        stats = TrackerStats(application.get(TRACKER), labels())
        polls = application[POLLS]
        answers = partial(SiblingAnswers, stats, polls)
        peers = await serve_channels(path, lambda: Channel(answers()))
        freeze_garbage_collector()
        self._prepared.set_result({"error": "", "path": path, "settings": dump_settings(settings)})
        await self._told_to_accept.wait()
        sockets = self._sockets(options["worker"])
        async with open_listeners(application, own.server, sockets) as serving:
            self._serving = serving
            self._accepts.set_result(None)
            await self._told_to_stop.wait()
            self._serving = None
            if self._lets_go:
                await serving.let_go(own.server.shutdown_timeout_s)
            elif self._channel.is_open:
                await serving.drain(own.server.drain_s)
        with suppress(ChannelError):
            await self._channel.ask(
                "last_metrics", families_of(application[REGISTRY]), deadline_s=_TELL_DEADLINE_S
            )
        # Until here: what is pending is in the table now.
        peers.close()
        self._siblings.close()


def _settings(options: Mapping[str, Any]) -> Settings:
    if options["settings"] is not None:
        return load_dumped(options["settings"])
    return read_again(options["config"], options["workers"], options["workers_setting"])
