"""The parent of the workers: starts and watches them, replaces those that die, and reloads."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog

from api.background import background
from api.sd_notify import notify, notify_reloading
from api.workers.group import WorkerGroup
from api.workers.process import StartError
from api.workers.run_dir import RunDirectory
from api.workers.slots import Slot

_BACKOFF_MAX_S: Final = 30.0
_BACKOFF_INITIAL_S: Final = 0.25
_PING_EVERY_S: Final = 0.5
_STABLE_S: Final = 10.0
"""After so long a worker's death counts as the first one again."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ReloadError(Exception):
    """A reload has failed; the workers that ran still run."""


class Parent:
    """Keeps the workers of one service running.

    Args:
        workers: they have not started yet.
        run_dir: where commands for them arrive.
        url: where the service listens, for the log.
    """

    def __init__(self, workers: WorkerGroup, run_dir: RunDirectory, url: str) -> None:
        self._workers = workers
        self._run_dir = run_dir
        self._url = url
        self._told_to_stop = asyncio.Event()
        self._changing = asyncio.Lock()  # a reload, or a worker that is being replaced
        self._reloading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            StartError: the workers cannot start at all.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told_to_stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_on_signal)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, _log_ignored, number)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._run_dir.answering(self._answer_command))
            stack.push_async_callback(self._workers.stop_all)
            await stack.enter_async_context(background(self._watch_for_hangs(), "worker-hangs"))
            async with self._changing:  # a reload waits for it
                await self._workers.start_all()
            for slot in self._workers.slots:
                await stack.enter_async_context(
                    background(self._watch(slot), f"worker-{slot.number}")
                )
            log.info("server.listening", url=self._url, workers=len(self._workers.slots))
            notify("READY=1")
            await self._told_to_stop.wait()
            notify("STOPPING=1")
            log.info("server.stopping")
            if self._reloading is not None:
                self._reloading.cancel()

    async def _watch(self, slot: Slot) -> None:
        """Replace the worker of a place whenever it ends by itself."""
        failures = 0
        while True:
            worker = slot.worker
            if worker is not None:
                how = await worker.ended()
                if slot.worker is not worker:  # it was replaced in a reload
                    continue
                if time.monotonic() - slot.started_at > _STABLE_S:
                    failures = 0
                log.error("worker.died", worker=slot.number, pid=worker.pid, how=how)
                await self._workers.note_death(slot)
            # At once the first time: one death is an accident, several are a state.
            if failures:
                delay_s = min(_BACKOFF_MAX_S, _BACKOFF_INITIAL_S * 2 ** (failures - 1))
                log.warning("worker.waiting", worker=slot.number, seconds=delay_s)
                await asyncio.sleep(delay_s)
            failures += 1
            async with self._changing:
                if slot.worker is None:
                    await self._replace(slot)

    async def _watch_for_hangs(self) -> None:
        """Let another worker accept connections while one hangs."""
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            await self._workers.ping()

    async def _replace(self, slot: Slot) -> None:
        try:
            await self._workers.start(slot)
        except (StartError, OSError) as error:
            self._workers.metrics.restarts["start_failed"] += 1
            log.error(  # noqa: TRY400 - the trace says nothing
                "worker.start_failed", worker=slot.number, error=str(error)
            )

    async def reload(self) -> None:
        """Replace all workers, one after the other, by ones with new code and settings.

        The first new one reads and checks the settings. If it cannot start, nothing has changed.

        Raises:
            ReloadError: a new worker could not start.
        """
        async with self._changing:
            log.info("server.reloading")
            notify_reloading()
            before = self._workers.settings
            try:
                for number, slot in enumerate(self._workers.slots):
                    await self._workers.replace(slot, read_settings=number == 0)
            except (StartError, OSError) as error:
                self._workers.settings = before
                log.error(  # noqa: TRY400 - the trace says nothing
                    "server.reload_failed", error=str(error)
                )
                raise ReloadError(str(error)) from error
            finally:
                notify("READY=1")
            log.info("server.reloaded", workers=len(self._workers.slots))

    def _reload_on_signal(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload_quietly(), name="reload")

    async def _reload_quietly(self) -> None:
        with contextlib.suppress(ReloadError):  # it has been logged
            await self.reload()

    async def _answer_command(self, what: str, _body: object) -> Mapping[str, Any]:
        """Answer a command: see `api.workers.run_dir`."""
        if what != "reload":
            raise ValueError(f"unknown command {what!r}")
        try:
            await self.reload()
        except ReloadError as error:
            return {"error": str(error)}
        return {"error": ""}


def _log_ignored(number: signal.Signals) -> None:
    log.warning("server.signal_ignored", signal=number.name)
