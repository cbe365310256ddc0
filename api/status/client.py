"""Asking a service how it is: two requests of bounded size and time, whoever answers them."""

import asyncio
import os
import time
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
"""Ten times what a busy service has; it takes a second to parse."""
_REDIRECTS: Final = range(300, 400)
_OK: Final = 200
_UNAVAILABLE: Final = 503


class NoAnswer(Exception):
    """There is no such answer as was hoped for; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.monotonic_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class Look:
    """How a service was at a moment.

    Args:
        at: when, in epoch seconds by the service's clock; by ours if it does not tell.
        monotonic_s: when the metrics came, by a clock of ours that never jumps.
        readiness: what it says of itself; None if it was not heard.
        error: why not.
        metrics: what it counts; None if it does not say.
        metrics_error: why not.
    """

    at: float
    monotonic_s: float
    readiness: Readiness | None
    error: str | None
    metrics: Metrics | None
    metrics_error: str | None


def default_url(server: ServerSettings) -> URL:
    """Return where a service with these settings is asked how it is: where it shows its metrics.

    Args:
        server: where it listens; loopback stands for all addresses.
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
    """Return the address that somebody has given; `http://` may be left out.

    Raises:
        ValueError: it is none; the message says what is needed.
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


async def look(session: aiohttp.ClientSession, url: URL, timeout_s: float) -> Look:
    """Ask a service how it is.

    Args:
        session: without redirects, cookies or a key to give away.
        url: its address.
        timeout_s: seconds that the answers may take.
    """
    readiness, metrics = await asyncio.gather(
        _ask(session, url / _READY, timeout_s, (_OK, _UNAVAILABLE)),
        _ask(session, url / _METRICS, timeout_s, (_OK,)),
    )
    at = time.time()
    said, error, counted, metrics_error = None, None, None, None
    if isinstance(readiness, NoAnswer):
        error = str(readiness)
    else:
        at = readiness.at or at
        try:
            said = msgspec.json.decode(readiness.body, type=Readiness)
        except (msgspec.DecodeError, UnicodeDecodeError):
            error = f"{url / _READY} answers, but not as this service does: is the address right?"
    if isinstance(metrics, NoAnswer):
        metrics_error = str(metrics)
    else:
        try:
            counted = parse_metrics(metrics.body.decode())
        except ValueError:
            metrics_error = f"{url / _METRICS} answers, but not in Prometheus's text format"
    # Readiness may take two seconds longer at one look than at the next; rates are of the metrics.
    return Look(at, metrics.monotonic_s, said, error, counted, metrics_error)


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    at: float | None
    monotonic_s: float


async def _ask(
    session: aiohttp.ClientSession, url: URL, timeout_s: float, expected: tuple[int, ...]
) -> _Answer | NoAnswer:
    shown = printable(str(url.with_user(None)))
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status in _REDIRECTS:
                to = printable(answer.headers.get("Location", "elsewhere"))
                return NoAnswer(f"{shown} leads to {to}: give the address where that ends")
            if answer.status not in expected:
                return NoAnswer(f"{shown} answers {answer.status}{_hint(url, answer.status)}")
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > _MOST_BYTES:
                    return NoAnswer(f"{shown} answers with more than {_MOST_BYTES >> 20} MiB")
            at = _date(answer.headers.get("Date", ""))
            return _Answer(bytes(body), at, time.monotonic())
    except TimeoutError:
        return NoAnswer(f"{shown} gives no answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return NoAnswer(f"{shown}: {printable(_reason(error))}")


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no such host ({error.os_error.strerror or error.os_error})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"no TLS is to be had there ({error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno) if error.os_error.errno else str(error)
    return str(error) or type(error).__name__


def _hint(url: URL, status: int) -> str:
    if url.name == _METRICS and status in (401, 404):
        return ": with server.monitor_port set, metrics are on that port alone, and health as well"
    return ", which this service does not: is the address right?"


def _date(header: str) -> float | None:
    try:
        at: datetime = parsedate_to_datetime(header)
        return at.timestamp()
    except (ValueError, OverflowError, OSError):
        return None
