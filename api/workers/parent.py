"""The parent of the workers: starts, watches, replaces and reloads them, and sums their metrics."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from api.background import background
from api.config import Settings
from api.supervisor import tell_reloading, tell_supervisor
from api.workers.process import StartError, WorkerProcess, spawn
from api.workers.run_dir import RunDirectory
from api.workers.service_metrics import ServiceMetrics
from api.workers.share import dump_settings
from api.workers.slots import Slot

_BACKOFF_MAX_S: Final = 30.0
_BACKOFF_INITIAL_S: Final = 0.25
_STABLE_S: Final = 10.0
"""After so long a worker's death counts as the first one again."""
_SPARE_STOP_S: Final = 10.0
"""How much longer than its settings say a worker may take to end, before it is killed."""
_FIXED: Final = ("host", "port", "monitor_host", "monitor_port", "workers", "run_dir")
"""Settings of `[server]` that the parent has used already, so that a reload cannot change them."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ReloadError(Exception):
    """A reload has failed; the workers that ran still run."""


class Parent:
    """Keeps the workers of one service running.

    Args:
        settings: all settings.
        config: the file that they are from; None for the default.
        dsn: where the database is.
        slots: the workers' places, with their sockets.
        run_dir: where they talk to each other.
    """

    def __init__(
        self,
        settings: Settings,
        config: str | None,
        dsn: str,
        slots: Sequence[Slot],
        run_dir: RunDirectory,
    ) -> None:
        self._settings = dump_settings(settings)
        self._url = settings.server.url
        self._config = config
        self._dsn = dsn
        self._slots = slots
        self._run_dir = run_dir
        self._metrics = ServiceMetrics(len(slots))
        self._told_to_stop = asyncio.Event()
        self._changing = asyncio.Lock()  # a reload, or a worker that is being replaced
        self._retired: set[WorkerProcess] = set()
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
            stack.push_async_callback(self._stop_all)
            async with self._changing:  # a reload waits for it
                await self._start_all()
            for slot in self._slots:
                await stack.enter_async_context(
                    background(self._watch(slot), f"worker-{slot.number}")
                )
            log.info("server.listening", url=self._url, workers=len(self._slots))
            tell_supervisor("READY=1")
            await self._told_to_stop.wait()
            tell_supervisor("STOPPING=1")
            log.info("server.stopping")
            if self._reloading is not None:
                self._reloading.cancel()

    async def _start_all(self) -> None:
        """Start all workers; the first one alone, so that what is wrong is said once."""
        first, *others = self._slots
        await self._start(first)
        starting = [asyncio.create_task(self._start(slot)) for slot in others]
        try:
            for task in starting:
                await task
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise

    async def _start(self, slot: Slot, *, read_settings: bool = False) -> WorkerProcess:
        """Start a worker; it accepts connections when this returns.

        Args:
            slot: its place.
            read_settings: let it read the settings again, and bring the schema up to date.

        Raises:
            StartError: it cannot start.
        """

        def answers(what: str, body: Any) -> Any:
            if what == "metrics":
                return self.metrics()
            if what == "last_metrics":
                return worker.note_last_metrics(body)
            raise ValueError(f"unknown question {what!r}")

        worker = await spawn(
            slot.number, [one for each in self._slots for one in each.all_sockets], answers
        )
        slot.starting = worker
        try:
            found = await worker.start(
                {
                    "worker": slot.number,
                    "workers": len(self._slots),
                    "config": self._config,
                    "settings": None if read_settings else self._settings,
                    "dsn": self._dsn,
                    "run_dir": str(self._run_dir.path),
                    "sockets": {one.number: one.descriptors for one in self._slots},
                }
            )
            if read_settings:
                self._check_unchanged(found)
                self._settings = found
            # The others have to ask it before it has anything to say.
            await self._tell_peers(also=worker)
            await worker.accept()
        except BaseException:
            worker.kill()
            await worker.ended()
            raise
        finally:
            slot.starting = None
        slot.worker = worker
        slot.started_at = time.monotonic()
        await self._tell_peers()
        log.info("worker.ready", worker=slot.number, pid=worker.pid)
        return worker

    def _check_unchanged(self, settings: Mapping[str, Any]) -> None:
        """Raise StartError if settings differ that the parent has used already."""
        for section, names in (("server", _FIXED), ("database", ("url", "data_dir"))):
            for name in names:
                # The embedded server belongs to the parent; any other may change.
                is_fixed = section == "server" or not self._settings["database"]["url"]
                if is_fixed and settings[section][name] != self._settings[section][name]:
                    raise StartError(
                        f"{section}.{name} has changed, which takes a restart; a reload cannot "
                        "change it"
                    )

    def _running(self) -> list[WorkerProcess]:
        """Return all workers that may have touches which are not in the table."""
        current = [slot.worker for slot in self._slots if slot.worker is not None]
        return list(dict.fromkeys([*current, *self._retired]))

    async def _tell_peers(self, *, also: WorkerProcess | None = None, died: bool = False) -> None:
        workers = [*self._running(), *([also] if also is not None else [])]
        ready = sum(slot.worker is not None for slot in self._slots)
        asked = len(self._slots)
        vacant = [slot.number for slot in self._slots if slot.worker is None]
        stand_in = next((slot.worker for slot in self._slots if slot.worker is not None), None)
        warnings = {}
        if ready < asked and also is None:
            warnings["workers"] = f"{ready} of {asked} workers run; the log says why"
        await asyncio.gather(
            *(
                worker.tell_peers(
                    {other.path: other.number for other in workers if other is not worker},
                    warnings,
                    died=died,
                    # Nobody should wait in the queue of a worker that is not there.
                    vacant=vacant if worker is stand_in else [],
                )
                for worker in workers
            )
        )

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
                slot.worker = None
                self._metrics.restarts["died"] += 1
                log.error("worker.died", worker=slot.number, pid=worker.pid, how=how)
                self._metrics.keep(worker)
                self._run_dir.remove_socket(worker.path)
                await self._tell_peers(died=True)
            # At once the first time: one death is an accident, several are a state.
            if failures:
                delay_s = min(_BACKOFF_MAX_S, _BACKOFF_INITIAL_S * 2 ** (failures - 1))
                log.warning("worker.waiting", worker=slot.number, seconds=delay_s)
                await asyncio.sleep(delay_s)
            failures += 1
            async with self._changing:
                if slot.worker is None:
                    await self._replace(slot)

    async def _replace(self, slot: Slot) -> None:
        try:
            await self._start(slot)
        except (StartError, OSError) as error:
            self._metrics.restarts["start_failed"] += 1
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
            tell_reloading()
            before = self._settings
            try:
                for number, slot in enumerate(self._slots):
                    await self._reload_slot(slot, is_first=number == 0)
            except (StartError, OSError) as error:
                self._settings = before
                log.error(  # noqa: TRY400 - the trace says nothing
                    "server.reload_failed", error=str(error)
                )
                raise ReloadError(str(error)) from error
            finally:
                tell_supervisor("READY=1")
            log.info("server.reloaded", workers=len(self._slots))

    async def _reload_slot(self, slot: Slot, *, is_first: bool) -> None:
        old = slot.worker
        if old is not None:
            self._retired.add(old)
        try:
            await self._start(slot, read_settings=is_first)
        except BaseException:
            slot.worker = old
            if old is not None:
                self._retired.discard(old)
            raise
        self._metrics.restarts["reload"] += 1
        if old is not None:
            await self._retire(old, let_go=True)

    async def _retire(self, worker: WorkerProcess, *, let_go: bool) -> None:
        server, tracker = self._settings["server"], self._settings["tracker"]
        deadline_s = (
            _SPARE_STOP_S + tracker["shutdown_deadline_s"] + 2 * server["shutdown_timeout_s"]
        )
        if not let_go:
            deadline_s += server["drain_s"]
        await worker.stop(let_go=let_go, deadline_s=deadline_s)
        await worker.ended()
        self._retired.discard(worker)
        self._metrics.keep(worker)
        self._run_dir.remove_socket(worker.path)
        if let_go:
            await self._tell_peers(died=not worker.has_told_all)

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

    async def _stop_all(self) -> None:
        for slot in self._slots:
            if slot.starting is not None:
                slot.starting.kill()
        await asyncio.gather(*(self._retire(one, let_go=False) for one in self._running()))

    async def metrics(self) -> bytes:
        """Return the metrics of the whole service in Prometheus's text format."""
        workers = self._running()
        await asyncio.gather(*(worker.scrape() for worker in workers))
        vacant = sum(slot.worker is None for slot in self._slots)
        return self._metrics.text(workers, vacant=vacant)


def _log_ignored(number: signal.Signals) -> None:
    log.warning("server.signal_ignored", signal=number.name)
