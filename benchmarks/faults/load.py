"""Sends heartbeats and uploads at a steady rate, and records what the service acknowledged."""

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import aiohttp

from benchmarks.faults.invariants import KEYS
from benchmarks.harness.testbed import Fleet

HEARTBEATS_PER_S: Final = 100
UPLOADS_PER_S: Final = 25
_PATIENCE_S: Final = 20.0
"""Timeout of a request; far longer than the service's own timeouts."""
_FIRST_CAPTURE_MS: Final = 1_700_000_000_000
UNREACHABLE: Final = "unreachable"
"""The outcome of a request without a response."""


@dataclass(slots=True)
class Phase:
    """The outcomes of the requests that were sent in one phase.

    Attributes:
        heartbeats: the number of heartbeats by status.
        uploads: the number of uploads by status. A 503 without the promised body and header is
            counted under a text that says what is wrong with it.
        latencies_s: latencies of heartbeats with a response, from when they were due, in seconds.
        late_s: how much later than due a heartbeat was sent at most, in seconds. That is no fault
            of the service: the generator did not get to run.
    """

    heartbeats: Counter[int | str] = field(default_factory=Counter)
    uploads: Counter[int | str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    late_s: float = 0.0

    @property
    def p99_s(self) -> float:
        """The 99th percentile of the heartbeats' latencies, 0 without any."""
        ordered = sorted(self.latencies_s)
        return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


class Steady:
    """The load. Each request is sent when it is due, whether or not those before have a response.

    Args:
        session: a client session with the service's URL.
        fleet: the devices that send; all share the first API key.

    Attributes:
        phase: counts the requests that are sent from now on.
        trusting: whether the service's clock is right, so that the table must show each
            acknowledged heartbeat.
        seen: the second in which the last acknowledged heartbeat of each device was sent.
        heard_at: when the last request of each device ended, with or without success, in epoch
            seconds.
        silent: devices that send nothing.
        stored: acknowledged uploads, by device and capture time in milliseconds.
    """

    def __init__(self, session: aiohttp.ClientSession, fleet: Fleet) -> None:
        self.phase = Phase()
        self.trusting = True
        self.seen: dict[str, int] = {}
        self.heard_at: dict[str, float] = {}
        self.silent: set[str] = set()
        self.stored: set[tuple[str, int]] = set()
        self._session = session
        self._devices = fleet.devices
        self._headers = {"X-API-Key": fleet.keys[0]}

    async def run(self) -> None:
        """Send until cancelled. Requests in flight are cancelled, too."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as requests:
            for number in count():
                due = started + number / HEARTBEATS_PER_S
                await asyncio.sleep(due - loop.time())
                upload, rest = divmod(number, HEARTBEATS_PER_S // UPLOADS_PER_S)
                if (device := self._turn(number)) not in self.silent:
                    requests.create_task(self.heartbeat(device, due))
                if not rest and (device := self._turn(upload)) not in self.silent:
                    requests.create_task(self._upload(device, _FIRST_CAPTURE_MS + upload))

    def _turn(self, number: int) -> str:
        return self._devices[number % len(self._devices)]

    async def heartbeat(self, device: str, due: float | None = None) -> None:
        """Send a heartbeat.

        Args:
            device: the id of the device.
            due: when it was due, by the loop's clock; None means now.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() if due is None else due
        phase, trusting, sent_at = self.phase, self.trusting, int(time.time())
        phase.late_s = max(phase.late_s, loop.time() - due)
        status, _, _ = await self._post(f"/api/v1/devices/{device}/heartbeat", device)
        phase.heartbeats[status] += 1
        if status != UNREACHABLE:
            phase.latencies_s.append(loop.time() - due)
        if status == 204 and trusting and self.trusting:
            self.seen[device] = max(sent_at, self.seen.get(device, 0))

    def owed(self) -> dict[str, int]:
        """Return the earliest time that the table must show for each device and the key."""
        return {**self.seen, KEYS: max(self.seen.values(), default=0)}

    async def _upload(self, device: str, captured_ms: int) -> None:
        phase = self.phase
        report = {"device_id": device, "timestamp": captured_ms}
        where = {"latitude": 48.5, "longitude": 2.5, "accuracy": 10}
        status, body, retry_after = await self._post(
            "/api/v1/locations", device, json=report | where
        )
        if status == 200:
            self.stored.add((device, captured_ms))
        elif status == 503 and (body.get("error") != "unavailable" or not retry_after):
            status = "503 without a body" if not body else f"503 {body}, {retry_after}"
        phase.uploads[status] += 1

    async def _post(
        self, path: str, device: str, json: object = None
    ) -> tuple[int | str, dict[str, object], str | None]:
        """Return the status, the body if it is JSON, and Retry-After."""
        patience = aiohttp.ClientTimeout(total=_PATIENCE_S)
        try:
            async with self._session.post(
                path, json=json, headers=self._headers, timeout=patience
            ) as response:
                is_json = response.content_type == "application/json"
                body: dict[str, object] = await response.json() if is_json else {}
        except (aiohttp.ClientError, OSError, TimeoutError):
            return UNREACHABLE, {}, None
        finally:
            self.heard_at[device] = time.time()
        return response.status, body, response.headers.get("Retry-After")
