"""Load on an HTTP service from a separate process: by wrk when it is installed, else by our own.

Numbers instead of state make requests unique: requests are numbered from `first`, number n is
`requests[n % len(requests)]`, and NUMBER in its path or body becomes n in nine digits. A body says
`"timestamp": 1700%N%` and every upload makes a row of its own; the next run goes on at
`next_number`.

What wrk does differently: it rounds `seconds` up to whole ones, counts 3xx as good, leaves what is
in flight at the end uncounted, and corrects its percentiles for requests that a stall kept from
being sent (`stats_correct` in its source). Compare percentiles of one generator only.
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
"""All numbers are equally long, so that a Content-Length fits them all."""
GRACE_S: Final = 2.0
"""How long our own generator waits for the last answers."""
_WRK_TIMEOUT_S: Final = 10
_STARTED_WITHIN_S: Final = 30
_BUSY: Final = 0.9
_HERE: Final = Path(__file__).parent


class LoadFailedError(Exception):
    """The generator could not run; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to make; its answer must have a Content-Length or no body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    def encode(self, host: str) -> list[bytes]:
        """Return the bytes to send to a host, in pieces that are to be joined by a number."""
        length = len(self.body) + self.body.count(NUMBER) * (NUMBER_DIGITS - len(NUMBER))
        headers = {"Host": host, "Content-Length": str(length), **self.headers}
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return ("\r\n".join(lines).encode() + b"\r\n\r\n" + self.body).split(NUMBER)


@dataclass(frozen=True, slots=True)
class Job:
    """What our own generator is told.

    Attributes:
        host: the service's host.
        port: its port.
        requests: pieces of requests, see Request.encode.
        connections: how many to keep open; each has one request in flight at most.
        seconds: how long to send.
        first: the number of the first request.
        rate_per_s: how many fall due in a second; None is as fast as they are answered.
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
    """What one run saw.

    Attributes:
        requests: answers, whatever their status.
        errors: answers that are not 2xx, and requests that were not answered.
        seconds: from the first request to the end, or to the last answer if that came later.
        p50_ms: median latency of the answers; like those below 0 if there was none.
        p99_ms: the 99th percentile.
        max_ms: the slowest.
        generator: "wrk" or "own".
        generator_busy: CPU seconds that the generator used for each second, 1 being a whole core.
        next_number: what `first` should be for a run that repeats no number.
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
        """Answers in a second."""
        return self.requests / self.seconds


class _WrkSummary(msgspec.Struct):
    """What wrk.lua prints."""

    answers: int
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
    """Send requests as fast as they are answered.

    Args:
        url: where the service answers; its path is not used.
        requests: what to send, in turns.
        connections: how many to keep open; each sends a request when the one before is answered.
        seconds: how long.
        first: the number of the first request.
        own: use our own generator even if wrk is installed.

    Raises:
        LoadFailedError: nobody answers at the URL, or the generator failed.
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
    """Send requests at a rate, whether or not those before are answered.

    The k-th request is due `k / rate_per_s` after the start and waits for a free connection if it
    has to. Its latency counts from when it was due, so that a service that stalls cannot hide it by
    keeping the generator from sending ("coordinated omission", Gil Tene).

    Args:
        url: where the service answers; its path is not used.
        requests: what to send, in turns.
        connections: how many to keep open: more than are in flight when all is well; below 1,000.
        seconds: how long.
        rate_per_s: how many requests fall due in a second.
        first: the number of the first request.

    Raises:
        LoadFailedError: nobody answers at the URL, or the generator failed.
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
        told=msgspec.msgpack.encode(job),
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
    # A connection that the service closes is no error to wrk, so count what was never answered;
    # one for each connection was still in flight, unless the service answers nobody.
    lost = saw.sent - saw.answers - (job.connections if saw.answers else 0)
    return Load(
        requests=saw.answers,
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
    """Return requests as wrk.lua reads them, whose Lua comes without a parser.

    First how many requests, pieces and bytes there are, then for each request how many pieces and
    their lengths, and after the end of the line all pieces.
    """
    everything = b"".join(piece for pieces in requests for piece in pieces)
    counts = [len(requests), sum(len(pieces) for pieces in requests), len(everything)]
    for pieces in requests:
        counts += [len(pieces), *(len(piece) for piece in pieces)]
    return " ".join(map(str, counts)).encode() + b"\n" + everything


async def _run(*command: str, within_s: float, told: bytes = b"") -> bytes:
    """Return what a generator prints; it is gone when this returns or raises."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_HERE.parents[1],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us: we end it
    )
    try:
        async with asyncio.timeout(within_s):
            stdout, stderr = await process.communicate(told)
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
