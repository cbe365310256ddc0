"""The HTTP client of `status`: takes a sample of a service with two requests.

The server may be any program: the size and the time of its responses are bounded.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from api.config import ServerSettings
from api.handlers.readiness import Readiness
from api.printable import printable
from api.status.scrape import Metrics, parse_metrics

_READY: Final = "api/health/ready"
_METRICS: Final = "metrics"
_MOST_BYTES: Final = 4 * 1024 * 1024
"""Ten times the size of the metrics of a busy service; parsing so much takes a second."""
_REDIRECTS: Final = range(300, 400)
_OK: Final = 200
_UNAVAILABLE: Final = 503


class RequestFailed(Exception):
    """A request got no usable response; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.monotonic_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of a service at one moment.

    Args:
        at: when it was taken, in epoch seconds by the service's clock; by the local clock if the
            response has no date.
        monotonic_s: when the metrics arrived, by the local monotonic clock.
        readiness: the service's readiness; None if there was no usable response.
        error: why there is no readiness.
        metrics: the service's metrics; None if there was no usable response.
        metrics_error: why there are no metrics.
    """

    at: float
    monotonic_s: float
    readiness: Readiness | None
    error: str | None
    metrics: Metrics | None
    metrics_error: str | None


def default_url(server: ServerSettings) -> URL:
    """Return the URL at which a service with these settings serves its metrics.

    Args:
        server: where it listens; if it listens on all addresses, the URL has the loopback address.
    """
    if server.monitor_port:
        host, port = server.monitor_host, server.monitor_port
    else:
        host, port = server.host, server.port
    try:
        address = ip_address(host)
    except ValueError:
        return URL.build(scheme="http", host=host, port=port)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - of IP
    return URL.build(scheme="http", host=host, port=port)


def read_url(text: str) -> URL:
    """Return the URL that a user has given; `http://` may be left out.

    Raises:
        ValueError: it is not a usable URL; the message says what is needed.
    """
    wanted = f"{printable(text)!r}: an address like http://127.0.0.1:8080 is needed"
    try:
        url = URL(text if "://" in text else f"http://{text}")
        usable = url.scheme in {"http", "https"} and url.host and url.port
    except ValueError as error:
        raise ValueError(f"{wanted} ({printable(str(error))})") from error
    if not usable or url.query_string or url.fragment or not text.isprintable() or " " in text:
        raise ValueError(wanted)
    path = url.path.rstrip("/").removesuffix(f"/{_METRICS}").removesuffix(f"/{_READY}")
    return url.with_path(path or "/")


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open the HTTP session for samples.

    It stores no cookies and decompresses nothing: a small response may be large when decompressed.
    """
    async with aiohttp.ClientSession(
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


async def take_sample(session: aiohttp.ClientSession, url: URL, timeout_s: float) -> Sample:
    """Take a sample of a service.

    Args:
        session: from `open_session`.
        url: the service's URL.
        timeout_s: how long each response may take, in seconds.
    """
    readiness_response, metrics_response = await asyncio.gather(
        _get(session, url / _READY, timeout_s, (_OK, _UNAVAILABLE)),
        _get(session, url / _METRICS, timeout_s, (_OK,)),
    )
    at = time.time()
    readiness, error, metrics, metrics_error = None, None, None, None
    if isinstance(readiness_response, RequestFailed):
        error = str(readiness_response)
    else:
        at = readiness_response.at or at
        try:
            readiness = msgspec.json.decode(readiness_response.body, type=Readiness)
        except (msgspec.DecodeError, UnicodeDecodeError):
            error = f"{url / _READY} responds, but not as this service does: is the address right?"
    if isinstance(metrics_response, RequestFailed):
        metrics_error = str(metrics_response)
    else:
        try:
            metrics = parse_metrics(metrics_response.body.decode())
        except ValueError:
            metrics_error = f"{url / _METRICS} responds, but not in Prometheus's text format"
    # Rates are computed from the metrics, so their time counts: readiness may take 2 s longer.
    return Sample(at, metrics_response.monotonic_s, readiness, error, metrics, metrics_error)


@dataclass(frozen=True, slots=True)
class _Response:
    body: bytes
    at: float | None
    monotonic_s: float


async def _get(
    session: aiohttp.ClientSession, url: URL, timeout_s: float, expected: tuple[int, ...]
) -> _Response | RequestFailed:
    shown = printable(str(url.with_user(None)))
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.get(url, allow_redirects=False) as response,
        ):
            status = response.status
            if status in _REDIRECTS:
                to = printable(response.headers.get("Location", "elsewhere"))
                return RequestFailed(f"{shown} redirects to {to}: give the final address")
            if status not in expected:
                return RequestFailed(f"{shown} responds with {status}{_hint(url, status)}")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > _MOST_BYTES:
                    return RequestFailed(f"{shown} responds with more than {_MOST_BYTES >> 20} MiB")
            at = _date(response.headers.get("Date", ""))
            return _Response(bytes(body), at, time.monotonic())
    except TimeoutError:
        return RequestFailed(f"{shown} sends no response within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return RequestFailed(f"{shown}: {printable(_reason(error))}")


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no such host ({error.os_error.strerror or error.os_error})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"the TLS handshake failed ({error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno) if error.os_error.errno else str(error)
    return str(error) or type(error).__name__


def _hint(url: URL, status: int) -> str:
    if url.name == _METRICS and status in (401, 404):
        return ": if server.monitor_port is set, metrics are on that port only, and health as well"
    return ", which this service does not: is the address right?"


def _date(header: str) -> float | None:
    try:
        at: datetime = parsedate_to_datetime(header)
        return at.timestamp()
    except (ValueError, OverflowError, OSError):
        return None
