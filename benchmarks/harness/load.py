"""Puts load on an HTTP service from a separate process: wrk, or the built-in generator.

Numbers make requests unique. Requests are numbered from `first`; number n is
`requests[n % len(requests)]`, and NUMBER in its path or body is replaced by n in nine digits. With
`"timestamp": 1700%N%` in the body, every upload makes a row of its own. The next run starts at
`next_number`.

wrk differs: it rounds `seconds` up to a whole number, counts 3xx as success, does not count
requests in flight at the end, and corrects its percentiles for requests that a stall delayed
(`stats_correct` in its source). Compare percentiles of one generator only.
"""

import asyncio
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

NUMBER: Final = b"%N%"
NUMBER_DIGITS: Final = 9
"""All numbers have this length, so that the Content-Length is the same."""
GRACE_S: Final = 2.0
"""How long the built-in generator waits for the last responses."""
_WRK_TIMEOUT_S: Final = 10
_STARTED_WITHIN_S: Final = 30
_BUSY: Final = 0.9
_HERE: Final = Path(__file__).parent


class LoadFailedError(Exception):
    """The generator could not run; the message has its output."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request; its response must have a Content-Length or no body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    def encode(self, host: str) -> list[bytes]:
        """Return the bytes to send to a host, as pieces to join with the number."""
        length = len(self.body) + self.body.count(NUMBER) * (NUMBER_DIGITS - len(NUMBER))
        headers = {"Host": host, "Content-Length": str(length), **self.headers}
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return ("\r\n".join(lines).encode() + b"\r\n\r\n" + self.body).split(NUMBER)


@dataclass(frozen=True, slots=True)
class Job:
    """The input of the built-in generator.

    Attributes:
        host: the service's host.
        port: its port.
        requests: pieces of requests, see Request.encode.
        connections: the number to keep open; each has one request in flight at most.
        seconds: how long to send, in seconds.
        first: the number of the first request.
        rate_per_s: requests due per second; None sends each after the response before.
    """

    host: str
    port: int
    requests: Sequence[Sequence[bytes]]
    connections: int
    seconds: float
    first: int
    rate_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one run.

    Attributes:
        requests: responses with any status.
        errors: responses that are not 2xx, and requests without a response.
        seconds: from the first request to the end, or to the last response if that came later.
        p50_ms: median latency of the responses; 0 without any, as those below.
        p99_ms: the 99th percentile.
        max_ms: the maximum.
        generator: "wrk" or "own".
        generator_busy: CPU seconds that the generator used per second; 1 is a whole core.
        next_number: `first` of a next run that repeats no number.
    """

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    generator: str
    generator_busy: float
    next_number: int

    @property
    def requests_per_s(self) -> float:
        """Responses per second."""
        return self.requests / self.seconds


class _WrkSummary(msgspec.Struct):
    """What wrk.lua prints."""

    responses: int
    sent: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: float
    next_number: int
    refused: int
    unconnected: int
    broken: int
    late: int


async def load(
    url: str,
    requests: Sequence[Request],
    *,
    connections: int,
    seconds: float,
    first: int = 0,
    own: bool = False,
) -> Load:
    """Send requests, each as soon as its connection has the response before.

    Args:
        url: the service's address; its path is ignored.
        requests: the requests to send, in rotation.
        connections: the number to keep open; each has one request in flight.
        seconds: how long to send, in seconds.
        first: the number of the first request.
        own: use the built-in generator even if wrk is installed.

    Raises:
        LoadFailedError: no service listens at the URL, or the generator failed.
    """
    job = _job(url, requests, connections=connections, seconds=seconds, first=first)
    wrk = None if own else shutil.which("wrk")
    return await (_by_wrk(wrk, url, job) if wrk else _by_own(job))


async def paced(
    url: str,
    requests: Sequence[Request],
    *,
    connections: int,
    seconds: float,
    rate_per_s: float,
    first: int = 0,
) -> Load:
    """Send requests at a steady rate, whether or not those before have a response.

    The k-th request is due `k / rate_per_s` after the start and waits for a free connection if it
    has to. Its latency counts from when it was due, so that a service that stalls cannot hide it by
    keeping the generator from sending ("coordinated omission", Gil Tene).

    Args:
        url: the service's address; its path is ignored.
        requests: the requests to send, in rotation.
        connections: the number to keep open; more than are usually in flight, below 1,000.
        seconds: how long to send, in seconds.
        rate_per_s: requests due per second.
        first: the number of the first request.

    Raises:
        LoadFailedError: no service listens at the URL, or the generator failed.
    """
    job = _job(url, requests, connections=connections, seconds=seconds, first=first)
    return await _by_own(replace(job, rate_per_s=rate_per_s))


def bottleneck(saw: Load) -> str | None:
    """Return a sentence if a run may have measured the generator rather than the service."""
    if saw.generator_busy <= _BUSY:
        return None
    advice = "install wrk, or lower the rate" if saw.generator == "own" else "give wrk more cores"
    return f"the load generator was busy {saw.generator_busy * 100:.0f} % of the time: {advice}"


def _job(
    url: str, requests: Sequence[Request], *, connections: int, seconds: float, first: int
) -> Job:
    parts = urlsplit(url)
    return Job(
        host=parts.hostname or "",
        port=parts.port or 80,
        requests=[request.encode(parts.netloc) for request in requests],
        connections=connections,
        seconds=seconds,
        first=first,
    )


async def _by_own(job: Job) -> Load:
    said = await _run(
        *(sys.executable, "-m", "benchmarks.harness.generator"),
        stdin=msgspec.msgpack.encode(job),
        within_s=_STARTED_WITHIN_S + job.seconds + GRACE_S,
    )
    return msgspec.json.decode(said, type=Load)


async def _by_wrk(wrk: str, url: str, job: Job) -> Load:
    seconds = math.ceil(job.seconds)
    with tempfile.NamedTemporaryFile(prefix="load-") as file:
        file.write(_for_lua(job.requests))
        file.flush()
        said = await _run(
            *(wrk, "--threads", "1", "--connections", str(job.connections)),
            *("--duration", f"{seconds}s", "--timeout", f"{_WRK_TIMEOUT_S}s"),
            *("--script", str(_HERE / "wrk.lua"), url, "--", file.name, str(job.first)),
            within_s=_STARTED_WITHIN_S + seconds,
        )
    saw = msgspec.json.decode(said.splitlines()[-1], type=_WrkSummary)
    # wrk reports no error if the service closes a connection, so count requests without a response;
    # one on each connection was still in flight, unless there was no response at all.
    lost = saw.sent - saw.responses - (job.connections if saw.responses else 0)
    return Load(
        requests=saw.responses,
        errors=saw.refused + saw.late + saw.unconnected + max(saw.broken, lost),
        seconds=saw.seconds,
        p50_ms=saw.p50_ms,
        p99_ms=saw.p99_ms,
        max_ms=saw.max_ms,
        generator="wrk",
        generator_busy=saw.cpu_s / saw.seconds,
        next_number=saw.next_number,
    )


def _for_lua(requests: Sequence[Sequence[bytes]]) -> bytes:
    """Return requests in the format of wrk.lua, which has no parser for a standard one.

    The first line has the numbers of requests, pieces and bytes, then for each request the number
    and the lengths of its pieces. All pieces follow after the line.
    """
    everything = b"".join(piece for pieces in requests for piece in pieces)
    counts = [len(requests), sum(len(pieces) for pieces in requests), len(everything)]
    for pieces in requests:
        counts += [len(pieces), *(len(piece) for piece in pieces)]
    return " ".join(map(str, counts)).encode() + b"\n" + everything


async def _run(*command: str, within_s: float, stdin: bytes = b"") -> bytes:
    """Return the output of a generator; its process has ended when this returns or raises."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_HERE.parents[1],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # this process handles Ctrl-C and ends it
    )
    try:
        async with asyncio.timeout(within_s):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError as error:
        raise LoadFailedError(f"the load generator did not end within {within_s:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = (stderr or stdout).decode(errors="replace").strip()
        raise LoadFailedError(f"the load generator failed: {said}")
    return stdout
