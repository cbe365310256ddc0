"""The built-in load generator: for load at a steady rate, and where wrk is not installed.

`python -m benchmarks.harness.generator` reads a Job from stdin and prints a Load. It parses
only as much HTTP as finds the end of a response; more would make it slower than the service.
"""

import asyncio
import gc
import math
import re
import selectors
import sys
import time
from array import array
from typing import Final, cast

import msgspec
import uvloop

from benchmarks.harness.load import GRACE_S, NUMBER_DIGITS, Job, Load

_REOPEN_EVERY_S: Final = 0.1
_BODILESS: Final = {204, 304}
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)")


class Run:
    """State shared by the connections: the next request, and the responses so far.

    Args:
        job: the load to generate.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._taken = 0
        self._started_at = 0.0
        self._working = job.connections
        self._answered_at = 0.0
        self._latencies_s = array("d")
        self._refused = 0
        self.all_done = asyncio.Event()

    def start(self) -> None:
        """Start the clock."""
        self._started_at = time.monotonic()

    def take(self) -> tuple[float, bytes] | None:
        """Return the due time and bytes of the next request; None if the connection is to close."""
        job = self._job
        due_at = time.monotonic()
        if job.rate_per_s is None:
            over = due_at >= self._started_at + job.seconds
        else:
            over = self._taken >= self._due_in_all
            due_at = self._started_at + self._taken / job.rate_per_s
        if over:
            self._working -= 1
            if not self._working:
                self.all_done.set()
            return None
        number = job.first + self._taken
        self._taken += 1
        return due_at, (b"%0*d" % (NUMBER_DIGITS, number)).join(
            job.requests[number % len(job.requests)]
        )

    def record(self, due_at: float, status: int) -> None:
        """Record the response to a request that was due at that time."""
        self._answered_at = time.monotonic()
        self._latencies_s.append(self._answered_at - due_at)
        self._refused += not 200 <= status <= 299

    def result(self, cpu_s: float) -> Load:
        """Return the result. Requests that were due and have no response by now are errors."""
        responses = len(self._latencies_s)
        wanted = self._taken if self._job.rate_per_s is None else self._due_in_all
        seconds = max(self._job.seconds, self._answered_at - self._started_at)
        ordered = sorted(self._latencies_s)
        return Load(
            requests=responses,
            errors=self._refused + wanted - responses,
            seconds=seconds,
            p50_ms=_percentile_ms(ordered, 0.5),
            p99_ms=_percentile_ms(ordered, 0.99),
            max_ms=_percentile_ms(ordered, 1),
            generator="own",
            generator_busy=cpu_s / (time.monotonic() - self._started_at),
            next_number=self._job.first + wanted,
        )

    @property
    def _due_in_all(self) -> int:
        return round(self._job.seconds * (self._job.rate_per_s or 0))


def _percentile_ms(ordered_s: list[float], share: float) -> float:
    """Return the nearest rank's value."""
    return ordered_s[math.ceil(share * len(ordered_s)) - 1] * 1000 if ordered_s else 0.0


class Connection(asyncio.Protocol):
    """A connection with one request at a time: held until it is due, then in flight.

    Args:
        run: supplies requests, and records responses.
        job: has the service's address.
    """

    def __init__(self, run: Run, job: Job) -> None:
        self._run = run
        self._address = (job.host, job.port)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._received = b""
        self._due_at = 0.0
        self._request: bytes | None = None
        self._in_flight = False

    async def open(self) -> None:
        """Connect; a held request is sent when it is due."""
        await asyncio.get_running_loop().create_connection(lambda: self, *self._address)

    def start(self) -> None:
        """Send the first request when it is due."""
        if self._take():
            self._send_when_due()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Continue with the request that was held when the last connection was lost."""
        self._transport = cast("asyncio.Transport", transport)
        self._received = b""
        if self._request is not None:
            self._send_when_due()

    def data_received(self, data: bytes) -> None:
        """Record a response when it is complete, and take the next request."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._transport is None or not self._in_flight:
            return
        head = self._received[:end].lower()
        status = int(head[9:12])
        length = _LENGTH.search(head)
        if length is None and status not in _BODILESS:
            self._transport.abort()  # a response without an end does not count
            return
        if len(self._received) < end + 4 + (int(length[1]) if length else 0):
            return
        self._received = b""
        self._run.record(self._due_at, status)
        if not self._take() or b"\r\nconnection: close" in head:
            self._transport.close()
        else:
            self._send_when_due()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Open another connection. A request in flight is lost; a held request is kept."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._request is not None and (not self._in_flight or self._take()):
            self._reopening = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        """Connect. Each attempt that fails loses one request."""
        while True:
            try:
                return await self.open()
            except OSError:
                await asyncio.sleep(_REOPEN_EVERY_S)
                if not self._take():
                    return None

    def _take(self) -> bool:
        """Hold the next request; False if there is none."""
        self._in_flight = False
        taken = self._run.take()
        if taken is None:
            self._request = None
            return False
        self._due_at, self._request = taken
        return True

    def _send_when_due(self) -> None:
        wait_s = self._due_at - time.monotonic()
        if wait_s <= 0:
            self._send()
        else:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._send)

    def _send(self) -> None:
        if self._transport is not None and self._request is not None:
            self._in_flight = True
            self._transport.write(self._request)


async def generate(job: Job) -> Load:
    """Run a job. It ends GRACE_S after its duration, even if the service hangs."""
    run = Run(job)
    connections = [Connection(run, job) for _ in range(job.connections)]
    for connection in connections:
        await connection.open()
    cpu_s = time.process_time()
    run.start()
    for connection in connections:
        connection.start()
    try:
        async with asyncio.timeout(job.seconds + GRACE_S):
            await run.all_done.wait()
    except TimeoutError:
        pass  # requests without a response count as errors
    return run.result(time.process_time() - cpu_s)


def _new_loop(job: Job) -> asyncio.AbstractEventLoop:
    """Return uvloop, or for a steady rate asyncio's loop, whose timers are more exact."""
    if job.rate_per_s is None:
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Read a job, run it, print the result."""
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()  # no cycles here; a garbage collection would count as latency
    try:
        with asyncio.Runner(loop_factory=lambda: _new_loop(job)) as runner:
            load = runner.run(generate(job))
    except OSError as error:
        sys.exit(f"cannot connect to {job.host}:{job.port}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(load))


if __name__ == "__main__":
    main()
