"""The workers of one service: each starts in its place, knows the others, and ends."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from api.config import Settings
from api.workers.process import StartError, WorkerProcess, spawn
from api.workers.run_dir import RunDirectory
from api.workers.service_metrics import ServiceMetrics
from api.workers.settings import dump_settings, has_changed
from api.workers.slots import Slot

_SPARE_STOP_S: Final = 10.0
"""How much longer than its settings say a worker may take to end, before it is killed."""
_FIXED: Final = ("host", "port", "monitor_host", "monitor_port", "run_dir")
"""Settings of `[server]` that the parent has used already, so that a reload cannot change them."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class WorkerGroup:
    """Starts and ends workers, and notifies each of the others.

    Args:
        settings: all settings.
        config: the file that they are from; None for the default.
        dsn: where the database is.
        slots: the workers' places, with their sockets.
        run_dir: where they talk to each other.
        workers_setting: `server.workers`; None if the command line has taken its place.
    """

    def __init__(
        self,
        settings: Settings,
        config: str | None,
        dsn: str,
        slots: Sequence[Slot],
        run_dir: RunDirectory,
        *,
        workers_setting: int | None = None,
    ) -> None:
        self.settings = dump_settings(settings)
        """The settings that a worker starts with."""
        self.slots = slots
        self.metrics = ServiceMetrics(len(slots))
        self._config = config
        self._dsn = dsn
        self._run_dir = run_dir
        self._workers_setting = workers_setting
        self._retired: set[WorkerProcess] = set()

    async def start_all(self) -> None:
        """Start all workers; the first one alone, so that what is wrong is said once.

        Raises:
            StartError: the workers cannot start at all.
        """
        first, *others = self.slots
        await self.start(first)
        starting = [asyncio.create_task(self.start(slot)) for slot in others]
        try:
            for task in starting:
                await task
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise

    async def start(self, slot: Slot, *, read_settings: bool = False) -> None:
        """Start a worker; it accepts connections when this returns.

        Args:
            slot: its place.
            read_settings: let it read the settings again, and bring the schema up to date.

        Raises:
            StartError: it cannot start.
        """

        def answers(what: str, body: Any) -> Any:
            if what == "metrics":
                return self.scrape()
            if what == "last_metrics":
                return worker.note_last_metrics(body)
            raise ValueError(f"unknown question {what!r}")

        worker = await spawn(
            slot.number, [one for each in self.slots for one in each.all_sockets], answers
        )
        slot.starting = worker
        try:
            found = await worker.start(
                {
                    "worker": slot.number,
                    "workers": len(self.slots),
                    "workers_setting": self._workers_setting,
                    "config": self._config,
                    "settings": None if read_settings else self.settings,
                    "dsn": self._dsn,
                    "run_dir": str(self._run_dir.path),
                    "sockets": {one.number: one.descriptors for one in self.slots},
                }
            )
            if read_settings:
                self._check_unchanged(found)
                self.settings = found
            # The others have to ask it before it has anything to say.
            await self._tell_peers()
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

    async def note_death(self, slot: Slot) -> None:
        """Note that the worker of a place has ended by itself, and notify the others."""
        worker, slot.worker = slot.worker, None
        if worker is not None:
            self.metrics.restarts["died"] += 1
            self._forget(worker)
            await self._tell_peers(died=True)

    async def replace(self, slot: Slot, *, read_settings: bool) -> None:
        """Start a new worker in a place, then end the old one.

        Args:
            slot: the place.
            read_settings: see `start`.

        Raises:
            StartError: the new one cannot start; the old one stays.
        """
        old = slot.worker
        if old is not None:
            self._retired.add(old)
        try:
            await self.start(slot, read_settings=read_settings)
        except BaseException:
            slot.worker = old
            if old is not None:
                self._retired.discard(old)
            raise
        self.metrics.restarts["reload"] += 1
        if old is not None:
            await self._retire(old, let_go=True)

    async def stop_all(self) -> None:
        """End all workers; those that are starting are killed."""
        for slot in self.slots:
            if slot.starting is not None:
                slot.starting.kill()
        await asyncio.gather(*(self._retire(one, let_go=False) for one in self._running()))

    async def ping(self) -> None:
        """Find out which workers hang; another one accepts their connections meanwhile.

        What waits in the queue of a socket would wait for the worker that hangs otherwise.
        """
        asked = [(slot, slot.worker) for slot in self.slots if slot.worker is not None]
        before = [worker.hangs for _, worker in asked]
        await asyncio.gather(*(worker.ping() for _, worker in asked))
        changed = [
            worker
            for (slot, worker), hung in zip(asked, before, strict=True)
            if worker.hangs != hung and slot.worker is worker
        ]
        for worker in changed:
            if worker.hangs:
                log.error("worker.hangs", worker=worker.number, pid=worker.pid)
            else:
                log.info("worker.healthy", worker=worker.number, pid=worker.pid)
        if changed:
            await self._tell_peers()

    async def scrape(self) -> bytes:
        """Return the metrics of the whole service in Prometheus's text format."""
        workers = self._running()
        await asyncio.gather(*(worker.scrape() for worker in workers))
        vacant = sum(slot.worker is None for slot in self.slots)
        return self.metrics.text(workers, vacant=vacant)

    async def _retire(self, worker: WorkerProcess, *, let_go: bool) -> None:
        server, tracker = self.settings["server"], self.settings["tracker"]
        deadline_s = (
            _SPARE_STOP_S + tracker["shutdown_deadline_s"] + 2 * server["shutdown_timeout_s"]
        )
        if not let_go:
            deadline_s += server["drain_s"]
        await worker.stop(let_go=let_go, deadline_s=deadline_s)
        await worker.ended()
        self._retired.discard(worker)
        self._forget(worker)
        if let_go:
            await self._tell_peers(died=not worker.has_told_all)

    def _check_unchanged(self, settings: Mapping[str, Any]) -> None:
        """Raise StartError if settings differ that the parent has used already."""
        for section, names in (("server", _FIXED), ("database", ("url", "data_dir"))):
            for name in names:
                # The embedded server belongs to the parent; any other may change.
                is_fixed = section == "server" or not self.settings["database"]["url"]
                if is_fixed and settings[section][name] != self.settings[section][name]:
                    raise StartError(has_changed(f"{section}.{name}"))

    def _running(self) -> list[WorkerProcess]:
        """Return all workers that may have touches which are not in the table."""
        current = [slot.worker for slot in self.slots if slot.worker is not None]
        return list(dict.fromkeys([*current, *self._retired]))

    async def _tell_peers(self, *, died: bool = False) -> None:
        """Tell all workers, and those that are about to accept, about each other."""
        starting = [one.starting for one in self.slots if one.starting and one.starting.path]
        workers = [*self._running(), *starting]
        accepting = [one.worker for one in self.slots if one.worker and not one.worker.hangs]
        stand_in = accepting[0] if accepting else None
        vacant = [one.number for one in self.slots if one.worker is None or one.worker.hangs]
        ready = {one.number for one in self.slots if one.worker} | {one.number for one in starting}
        warnings = {}
        if len(ready) < len(self.slots):
            warnings["workers"] = f"{len(ready)} of {len(self.slots)} workers run; the log says why"
        await asyncio.gather(
            *(
                worker.tell_peers(
                    {other.path: other.number for other in workers if other is not worker},
                    warnings,
                    died=died,
                    # No connection should wait in the queue of a worker that is not there.
                    vacant=vacant if worker is stand_in else [],
                )
                for worker in workers
            )
        )

    def _forget(self, worker: WorkerProcess) -> None:
        """Keep what a worker that has ended has counted, and remove its socket."""
        self.metrics.keep(worker)
        self._run_dir.remove_socket(worker.path)
