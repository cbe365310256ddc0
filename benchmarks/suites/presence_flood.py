"""Measures a large group that vanishes and returns: requests to a receiver, and heartbeats.

All its devices fall silent and are touched again within a minute, in another order, as a flush of
another process does it. Devices of another group send heartbeats all the time.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from api.background import background
from api.config import DatabaseSettings
from api.postgres.database import open_database
from api.webhooks.registry import NewWebhook, create_webhook
from benchmarks.harness.contender import CONNECTIONS, Contender, check_load, contender
from benchmarks.harness.load import Request, paced
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Fleet, Testbed, connected
from benchmarks.suites.presence_events import ALLOW_ALL, TOUCH, receiving

DEVICES: Final = 100_000
_OTHERS: Final = 1000
_RATE_PER_S: Final = 1000
"""Heartbeats of the other group."""
_HALF_S: Final = 25
"""How long it takes until all are silent, and then until all have returned."""
_SOON_S: Final = 10
"""From when their rows are changed until the first falls silent."""
_TIMEOUT_S: Final = 30
_ROUND_S: Final = 10
_ROUNDS: Final = 8
"""While they vanish and return, and as many when nothing happens, half of them before."""
_BATCHES_PER_S: Final = 5
_SUMMARIZED_WITHIN_S: Final = 180
STEPS: Final = 2 * _ROUNDS
_MAX_REQUESTS: Final = 200
_MOVE: Final = "UPDATE devices SET group_id = 'others' WHERE device_id = ANY ($1::text[]::uuid[])"
_LET_ALL_BE_ONLINE: Final = """
UPDATE devices SET is_online = true, last_seen_at = now(), presence_since = now(), event_seq = 0
"""
_LET_ALL_FALL_SILENT: Final = """
UPDATE devices SET last_seen_at = date_trunc('second', now())
    + make_interval(secs => $1::integer + floor(random() * $2::integer))
WHERE group_id = 'fleet'
"""
_SET_TIMEOUT: Final = """
INSERT INTO group_settings (group_id, offline_after_s) VALUES ('fleet', $1)
ON CONFLICT (group_id) DO UPDATE SET offline_after_s = $1, changed_at = now()
"""
_STORED: Final = """
SELECT type, count(DISTINCT device_id) FROM device_events WHERE group_id = 'fleet' GROUP BY type
"""
_ONLINE: Final = "SELECT count(*) FROM devices WHERE is_online AND group_id = 'fleet'"


class _Receiver:
    """Counts requests, and keeps events."""

    def __init__(self) -> None:
        self.requests = 0
        self.events: list[dict[str, Any]] = []

    def receive(self, events: list[dict[str, Any]]) -> None:
        self.requests += 1
        self.events += events

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type_]


async def vanishing(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run this part.

    Args:
        testbed: where the database is created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: an event or a state is missing, or a heartbeat failed.
    """
    receiver = _Receiver()
    async with testbed.fleet(DEVICES + _OTHERS) as fleet, receiving(receiver.receive) as url:
        await _prepare(fleet, url)
        async with contender("ours", fleet, **ALLOW_ALL) as one:
            others = Fleet(fleet.dsn, fleet.devices[DEVICES:], fleet.keys)
            beats = Contender(one.name, one.url, others, one.pid).heartbeats()

            async def measure(rounds: int) -> list[float]:
                p99s = []
                for _ in range(rounds):
                    p99s.append(await _p99_ms(one, beats, report))
                    advance()
                return p99s

            await _p99_ms(one, beats, report)  # a warm-up
            quiet = await measure(_ROUNDS // 2)
            leaving = _vanish_and_return(fleet.dsn, fleet.devices[:DEVICES])
            async with background(leaving, "fleet"):
                during = await measure(_ROUNDS)
            await _wait_for_the_end(receiver)
            quiet += await measure(_ROUNDS // 2)
        await _check(fleet.dsn, receiver)
    what = f"{DEVICES:,} devices vanish and return within a minute"
    report.state(
        "presence", f"{what}, requests to a receiver", [receiver.requests], "", goal=_MAX_REQUESTS
    )
    report.compare(
        *("presence", f"{what}, p99 of heartbeats, meanwhile / quiet"),
        *(Measured("meanwhile", during, "ms"), Measured("quiet", quiet, "ms")),
        goal=1.5,
        better="lower",
    )


async def _prepare(fleet: Fleet, url: str) -> None:
    async with connected(fleet.dsn) as db:
        await db.execute(_MOVE, fleet.devices[DEVICES:])
        await db.execute(_LET_ALL_BE_ONLINE)
        await db.execute("TRUNCATE event_outbox")
        await db.execute("VACUUM (FREEZE, ANALYZE) devices")
    types = ["device.online", "device.offline"]
    async with open_database(fleet.dsn, DatabaseSettings(), connections=1) as database:
        await create_webhook(database, NewWebhook(url, "fleet", types))


async def _vanish_and_return(dsn: str, devices: list[str]) -> None:
    each = len(devices) // (_HALF_S * _BATCHES_PER_S)
    devices = random.sample(devices, len(devices))
    async with connected(dsn) as db:
        await db.execute(_LET_ALL_FALL_SILENT, _SOON_S - _TIMEOUT_S, _HALF_S)
        await db.execute(_SET_TIMEOUT, _TIMEOUT_S)
        await asyncio.sleep(_SOON_S + _HALF_S)
        while await db.fetchval(_ONLINE):
            await asyncio.sleep(0.5)
        await db.execute(_SET_TIMEOUT, None)
        began = time.monotonic()
        for number, at in enumerate(range(0, len(devices), each)):
            await asyncio.sleep(max(0.0, began + number / _BATCHES_PER_S - time.monotonic()))
            await db.execute(TOUCH, devices[at : at + each])


async def _p99_ms(one: Contender, beats: list[Request], report: Report) -> float:
    seen = await paced(
        one.url, beats, connections=CONNECTIONS, seconds=_ROUND_S, rate_per_s=_RATE_PER_S
    )
    return check_load(one, seen, report).p99_ms


async def _wait_for_the_end(receiver: _Receiver) -> None:
    """Wait until the receiver knows that the outage is over.

    Raises:
        BenchmarkFailedError: it does not, in three minutes.
    """
    try:
        async with asyncio.timeout(_SUMMARIZED_WITHIN_S):
            while not receiver.of("group.online"):
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise BenchmarkFailedError(f"no end after {receiver.requests:,} requests") from None


async def _check(dsn: str, receiver: _Receiver) -> None:
    """Check that each device has both events and is online, and that the receiver knows of all.

    Raises:
        BenchmarkFailedError: that is not so.
    """
    async with connected(dsn) as db:
        stored: dict[str, int] = {row[0]: row[1] for row in await db.fetch(_STORED)}
        online = await db.fetchval(_ONLINE)
    if online != DEVICES or stored != {"device.offline": DEVICES, "device.online": DEVICES}:
        raise BenchmarkFailedError(f"stored events: {stored}; {online:,} devices are online")
    (went,), (came,) = receiver.of("group.offline"), receiver.of("group.online")
    gone = Counter(event["device_id"] for event in receiver.of("device.offline"))
    back = Counter(event["device_id"] for event in receiver.of("device.online"))
    if gone != back or went["devices"] != DEVICES or came["offline"]:
        raise BenchmarkFailedError(
            f"sent: {gone.total():,} offline, {back.total():,} online, {went}, {came}"
        )
