"""Runs the deliveries of this process: a task for each webhook that it has leased.

Leases are renewed while the tasks run. A task is stopped before its lease ends if it could not be
renewed, so no two processes send the same batch at the same time; a process that dies is replaced
when its leases end. A task ends after a failure and after a few batches, so a receiver that is away
or has much to catch up with does not hold up the others; at most half of the tasks are for webhooks
that failed last time.
"""

import asyncio
from collections import Counter
from typing import Final

import structlog

from api.config import WebhookSettings
from api.webhooks.batch import Batch, Expired, LeaseLost
from api.webhooks.delivery_store import DeliveryStore, Summary
from api.webhooks.retries import delay_s
from api.webhooks.sender import GONE, Outcome, Sender
from tracker import StoreError
from tracker.instrumentation import LogThrottle

LEASE_S: Final = 6.0
"""How long another process waits for one that has died, in seconds."""
_MARGIN_S: Final = 1.0
"""A task ends so long before its lease does."""
_RENEW_EVERY_S: Final = 1.5
_POLL_S: Final = 0.5
"""Events wait so long to be sent together."""
_BATCHES_A_TURN: Final = 20
_GRACE_S: Final = 2.0
"""Requests that are under way when the service stops may take so long."""
_FORGET_EVERY: Final = 120
_SUMMARIZE_EVERY: Final = 10
"""After how many polls this is done again."""
_OUTCOMES: Final = ("delivered", "failed", "expired", "dropped")
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Deliverer:
    """Delivers while it runs.

    Args:
        store: leases, batches and outcomes.
        sender: makes requests.
        settings: limits.
    """

    def __init__(self, store: DeliveryStore, sender: Sender, settings: WebhookSettings) -> None:
        self._store = store
        self._sender = sender
        self._settings = settings
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._failing: set[int] = set()
        self._limits: dict[int, asyncio.Timeout] = {}
        self._is_stopping = False
        self._failed = LogThrottle(_LOG_EVERY_S)
        self.events: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
        """How many events this process has sent, given up or dropped, by outcome."""
        self.summary = Summary()
        """How all webhooks did some seconds ago."""

    async def run(self) -> None:
        """Deliver until the task is cancelled; then end what is under way, and the leases."""
        loop = asyncio.get_running_loop()
        rounds, renew_at = 0, 0.0
        try:
            while True:
                rounds += 1
                try:
                    if loop.time() >= renew_at:
                        renew_at = loop.time() + _RENEW_EVERY_S
                        await self._renew()
                    await self._claim()
                    if rounds % _SUMMARIZE_EVERY == 1:
                        self.summary = await self._store.summary()
                    if rounds % _FORGET_EVERY == 1:
                        await self._store.forget()
                except Exception as error:  # noqa: BLE001 - no error may end the deliveries
                    self._note(error)
                await asyncio.sleep(_POLL_S)
        finally:
            await self._stop()

    async def _renew(self) -> None:
        if not self._tasks:
            return
        asked_at = asyncio.get_running_loop().time()
        kept = await self._store.renew(self._tasks)
        for webhook_id, task in list(self._tasks.items()):
            if webhook_id not in kept:
                task.cancel()
            elif limit := self._limits.get(webhook_id):
                limit.reschedule(asked_at + LEASE_S - _MARGIN_S)

    async def _claim(self) -> None:
        most = self._settings.concurrent_deliveries
        for failing in (False, True):
            free = most - len(self._tasks)
            if failing:
                free = min(free, max(1, most // 2) - len(self._failing))
            if free <= 0:
                continue
            # Measured before the lease begins, so it ends here before it ends in the database.
            asked_at = asyncio.get_running_loop().time()
            for webhook_id in await self._store.claim(free, failing=failing):
                if webhook_id in self._tasks:  # its lease ended, and its task is about to
                    continue
                if failing:
                    self._failing.add(webhook_id)
                work = self._hold(webhook_id, asked_at + LEASE_S - _MARGIN_S)
                self._tasks[webhook_id] = asyncio.create_task(work, name=f"webhook-{webhook_id}")

    async def _hold(self, webhook_id: int, until: float) -> None:
        """Deliver a webhook while this process has its lease."""
        try:
            async with asyncio.timeout_at(until) as limit:
                self._limits[webhook_id] = limit
                await self._take_turn(webhook_id)
                await self._store.release([webhook_id])
        except (LeaseLost, TimeoutError):
            log.warning("webhooks.lease_lost", webhook=webhook_id)
        except Exception as error:  # noqa: BLE001 - the lease ends, and another try follows
            self._note(error)
        finally:
            self._limits.pop(webhook_id, None)
            self._failing.discard(webhook_id)
            del self._tasks[webhook_id]

    async def _take_turn(self, webhook_id: int) -> None:
        for _ in range(_BATCHES_A_TURN):
            batch = await self._store.next_batch(webhook_id)
            self.events["dropped"] = self._store.dropped
            if batch is None:
                return
            if isinstance(batch, Expired):
                await self._store.expired(webhook_id, batch)
                self.events["expired"] += batch.positions
                log.error("webhooks.expired", webhook=webhook_id, positions=batch.positions)
                continue
            outcome = await self._sender.send(
                batch.url, batch.secrets, batch.message_id, batch.body
            )
            if outcome.error is not None:
                await self._fail(batch, outcome)
                return
            await self._store.delivered(batch, outcome)
            self.events["delivered"] += batch.events
            if batch.attempts:
                log.info("webhooks.healthy", webhook=webhook_id, attempts=batch.attempts + 1)
            if batch.is_last or self._is_stopping:
                return

    async def _fail(self, batch: Batch, outcome: Outcome) -> None:
        webhook, attempt = batch.webhook_id, batch.attempts + 1
        if await self._store.age_s(batch) >= self._settings.retry_for_s:
            await self._store.given_up(batch, outcome)
            self.events["failed"] += batch.events
            log.error(
                "webhooks.given_up",
                webhook=webhook,
                message_id=batch.message_id,
                events=batch.events,
                attempts=attempt,
                error=outcome.error,
            )
            return
        wait_s = delay_s(attempt, outcome.retry_after_s, max_s=self._settings.backoff_max_s)
        pause = outcome.status == GONE
        await self._store.retry(batch, outcome, wait_s, pause=pause)
        if pause:
            log.error("webhooks.gone", webhook=webhook, message_id=batch.message_id)
            return
        log.warning(
            "webhooks.failed",
            webhook=webhook,
            message_id=batch.message_id,
            attempt=attempt,
            retry_in_s=round(wait_s, 1),
            error=outcome.error,
        )

    def _note(self, error: Exception) -> None:
        if times := self._failed.due():
            if isinstance(error, StoreError):
                log.warning("webhooks.unavailable", error=str(error), times=times)
            else:
                log.error("webhooks.crashed", times=times, exc_info=error)

    async def _stop(self) -> None:
        self._is_stopping = True
        tasks = list(self._tasks.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=_GRACE_S)
        leased = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if leased:
            try:
                await self._store.release(leased)
            except StoreError as error:
                self._note(error)
