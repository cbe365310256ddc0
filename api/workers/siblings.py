"""Asks the other workers of the service; the counterpart of `answers`."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from api.http.responses import ApiError
from api.siblings import MISSING_WORKERS, DeviceRevision, LiveNews, Revision
from api.workers.channel import Channel, ChannelError, no_answer
from tracker.instrumentation import Family, LogThrottle, families

DEADLINE_S: Final = 0.1
"""How long a listing waits for all workers, in seconds."""
_PAUSE_S: Final = 1.0
"""How long a worker that has not answered is not asked, in seconds: a long listing asks often."""
_SCRAPE_DEADLINE_S: Final = 2.0
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Sibling:
    """Another worker.

    Args:
        worker: its number.
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, worker: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.worker = worker
        self.channel = Channel(no_answer)
        self.unanswered = 0
        self._not_before = 0.0
        self._monotonic = monotonic
        self._unresponsive = LogThrottle(_LOG_EVERY_S)

    async def ask(self, what: str, body: object, deadline_s: float) -> Any:
        """Ask it; raise ChannelError if it does not answer, or has not answered just now."""
        if self._monotonic() < self._not_before:
            self.unanswered += 1
            raise ChannelError("it did not answer a moment ago")
        try:
            return await self.channel.ask(what, body, deadline_s=deadline_s)
        except ChannelError as error:
            if self.channel.is_open:
                self.unanswered += 1
                self._not_before = self._monotonic() + _PAUSE_S
                if times := self._unresponsive.due():
                    log.warning(
                        "worker.unresponsive", other=self.worker, error=str(error), times=times
                    )
            raise


def _same(channel: Channel) -> Channel:
    return channel


class WorkerSiblings(Collector):
    """The other workers of the service.

    Args:
        parent: asks the parent.

    Attributes:
        worker: the number of this worker.
    """

    worker = 0

    def __init__(self, parent: Channel) -> None:
        self._parent = parent
        self._siblings: dict[str, Sibling] = {}  # by the path of its socket
        self._unanswered = 0  # by those that are gone
        self._warnings: dict[str, str] = {}

    async def update(self, peers: Mapping[str, int], warnings: Mapping[str, str]) -> None:
        """Connect to new siblings and disconnect from those that are gone.

        Args:
            peers: the number of each other worker, by the path of its socket.
            warnings: what readiness should warn of.
        """
        self._warnings = dict(warnings)
        for path in self._siblings.keys() - peers.keys():
            gone = self._siblings.pop(path)
            self._unanswered += gone.unanswered
            gone.channel.close()
        loop = asyncio.get_running_loop()
        for path, worker in peers.items():
            if path in self._siblings:
                continue
            sibling = Sibling(worker)
            try:
                await loop.create_unix_connection(partial(_same, sibling.channel), path)
            except OSError as error:  # it has just ended: the parent will say so
                log.warning("worker.unreachable", other=worker, error=str(error))
                continue
            self._siblings[path] = sibling

    def close(self) -> None:
        """Close all connections."""
        for sibling in self._siblings.values():
            sibling.channel.close()

    async def views(self) -> "WorkerViews | None":
        """Take views of what is pending in all siblings; None if there are none."""
        siblings = self._living()
        if not siblings:
            return None
        due = time.monotonic() + DEADLINE_S
        answers = await _ask_all([(one, "view", None) for one in siblings], DEADLINE_S)
        return WorkerViews(dict(zip(siblings, answers, strict=True)), due)

    def _living(self) -> list[Sibling]:
        return [one for one in self._siblings.values() if one.channel.is_open]

    def live_news(self) -> "WorkerNews":
        """Return a source of news for one group."""
        return WorkerNews(self._living)

    async def revision(self) -> Revision | None:
        """Return what the first worker has polled last; None if that is this one, or unknown."""
        polled = await self._ask_first("revision")
        return None if polled is None else Revision(*polled)

    async def device_revision(self) -> DeviceRevision | None:
        """As `revision`, for changes of devices."""
        polled = await self._ask_first("device_revision")
        return None if polled is None else DeviceRevision(*polled)

    async def _ask_first(self, what: str) -> Any:
        first = min(self._living(), key=lambda one: one.worker, default=None)
        if first is None or first.worker >= self.worker:
            return None
        try:
            return await first.channel.ask(what, deadline_s=DEADLINE_S)
        except ChannelError:
            return None

    async def exposition(self) -> bytes:
        """Return the metrics of the whole service as text.

        Raises:
            ApiError: the parent does not answer.
        """
        try:
            text: bytes = await self._parent.ask("metrics", deadline_s=_SCRAPE_DEADLINE_S)
        except ChannelError as error:
            # The metrics of one worker would look as if counters had gone back.
            raise ApiError(
                503, "unavailable", "the parent of the workers does not answer"
            ) from error
        return text

    def warnings(self) -> Mapping[str, str]:
        """Return what the parent wants to be warned of, by code."""
        return self._warnings

    def collect(self) -> "Sequence[Metric]":
        """Return the metric families."""
        return list(families(_FAMILIES, {"": self}))

    @property
    def unanswered(self) -> int:
        """How many questions siblings have not answered in time."""
        return self._unanswered + sum(one.unanswered for one in self._siblings.values())


_FAMILIES: Final[tuple[Family[WorkerSiblings], ...]] = (
    Family(
        CounterMetricFamily,
        "activity_worker_unanswered_questions",
        "Questions that another worker did not answer in time: its touches were not shown.",
        lambda siblings: siblings.unanswered,
    ),
)


async def _ask_all(
    questions: Sequence[tuple[Sibling, str, object]], deadline_s: float
) -> list[Any | None]:
    """Ask all at once; return their answers, None for those that have not answered."""

    async def ask(sibling: Sibling, what: str, body: object) -> Any | None:
        try:
            return await sibling.ask(what, body, deadline_s)
        except ChannelError:
            return None

    if len(questions) == 1:  # spares a task
        return [await ask(*questions[0])]
    return await asyncio.gather(*(ask(*question) for question in questions))


class WorkerViews:
    """Views of what is pending in each sibling.

    Args:
        tokens: what each sibling knows its view by; None if it has not answered.
        due: when the answers have to be there, by the monotonic clock.
    """

    def __init__(self, tokens: Mapping[Sibling, int | None], due: float) -> None:
        self._tokens = tokens
        self._left_s = max(0.01, due - time.monotonic())
        self._missing = {
            one.worker for one, token in tokens.items() if token is None and one.channel.is_open
        }

    @property
    def missing(self) -> Sequence[int]:
        """The workers that have not answered in time."""
        return sorted(self._missing)

    async def latest(self, device_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the second of the latest pending touch of each of these devices that has one."""
        asked = [(one, token) for one, token in self._tokens.items() if token is not None]
        answers = await _ask_all(
            [(one, "latest", (token, device_ids)) for one, token in asked], self._left_s
        )
        found: dict[str, int] = {}
        for (sibling, _), answer in zip(asked, answers, strict=True):
            if answer is None:
                if sibling.channel.is_open:
                    self._missing.add(sibling.worker)
                continue
            for device_id, second in answer.items():
                found[device_id] = max(second, found.get(device_id, 0))
        if self._missing:
            MISSING_WORKERS.set(self.missing)
        return found


class WorkerNews:
    """News of the devices of one group from all siblings.

    Args:
        siblings: returns those that run.
    """

    def __init__(self, siblings: Callable[[], list[Sibling]]) -> None:
        self._siblings = siblings
        self._device_ids: Sequence[str] = ()
        self._told: set[Sibling] = set()  # who know which devices to tell of

    async def news(self, device_ids: Sequence[str]) -> LiveNews:
        """Return what has happened since the last call."""
        if device_ids is not self._device_ids:
            self._device_ids = device_ids
            self._told.clear()
        siblings = self._siblings()
        if not siblings:
            return LiveNews()
        questions = [
            (one, "live", (id(self), None if one in self._told else device_ids)) for one in siblings
        ]
        answers = await _ask_all(questions, DEADLINE_S)
        self._told &= set(siblings)
        seen: dict[str, int] = {}
        targets: list[list[dict[str, Any]]] = []
        missed = False
        for sibling, answer in zip(siblings, answers, strict=True):
            if answer is None or answer["unknown"]:
                self._told.discard(sibling)
                missed = True
                continue
            self._told.add(sibling)
            missed = missed or answer["missed"]
            targets.append(answer["targets"])
            for device_id, second in answer["seen"].items():
                seen[device_id] = max(second, seen.get(device_id, 0))
        return LiveNews(seen, missed, targets)
