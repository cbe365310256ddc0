"""The outermost middleware: request ids, errors as JSON, and the counting of requests."""

import re
import secrets
import time
from collections.abc import Iterator
from itertools import count
from typing import Final

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.http.responses import ApiError, error_response
from api.logs import REQUEST_ID
from tracker import StoreError
from tracker.instrumentation import Histogram, LogThrottle

_BOUNDS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_RETRY_AFTER_S: Final = 2
_LOG_EVERY_S: Final = 10.0
_LOG_REFUSED_EVERY_S: Final = 60.0
_CLIENT_GONE: Final = 499
_SPOKEN: Final = (HttpVersion11, HttpVersion10)
_SERVER: Final = "activity-tracker"
"""Instead of the versions of Python and aiohttp, which are nobody's business."""
_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RequestMetrics(Collector):
    """Watches every request, and tells Prometheus when it asks."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._durations: dict[tuple[str, str, int], Histogram] = {}
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._unavailable = LogThrottle(_LOG_EVERY_S)
        self._refused = LogThrottle(_LOG_REFUSED_EVERY_S)

    def middleware(self) -> Middleware:
        """Make the middleware."""

        @web.middleware
        async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.perf_counter()
            request_id = request.headers.get("X-Request-ID", "")
            if not _ACCEPTABLE_ID(request_id):
                request_id = self._next_id()
            REQUEST_ID.set(request_id)  # each connection is a task, with a context of its own
            self._in_flight += 1
            status = _CLIENT_GONE
            try:
                response = await self._answer(request, handler)
                status = response.status
                if not response.prepared:
                    response.headers["X-Request-ID"] = request_id
                    response.headers["Server"] = _SERVER
                    _forbid_caching(request, response)
                return response
            finally:
                self._in_flight -= 1
                method = request.method if request.method in hdrs.METH_ALL else "other"
                self._count(method, _route(request), status, time.perf_counter() - started)

        return observe

    def refuse(self, error: web.HTTPException) -> web.Response:
        """Return the answer to what never became a request: no HTTP, too large or too slow.

        Args:
            error: what is wrong with it.
        """
        answer = error_response(error)
        answer.headers["X-Request-ID"] = self._next_id()
        answer.headers["Server"] = _SERVER
        self._count("other", "unparsed", answer.status, 0.0)
        if times := self._refused.due():
            log.info("requests.unparsed", times=times, status=answer.status)
        return answer

    def _next_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.version not in _SPOKEN:  # aiohttp would answer HTTP/0.9 and 2.0 in kind
            return error_response(
                ApiError(400, "malformed_request", "HTTP/1.1 is spoken here, and 1.0", close=True)
            )
        try:
            return await handler(request)
        except web.HTTPException as error:
            return error_response(error)
        except StoreError as error:
            if times := self._unavailable.due():
                log.warning("requests.unavailable", times=times, error=str(error))
            return error_response(
                ApiError(
                    503,
                    "unavailable",
                    "the database is away or too slow; try again",
                    retry_after_s=_RETRY_AFTER_S,
                )
            )
        except Exception:
            log.exception("request.crashed", route=_route(request), method=request.method)
            return error_response(
                ApiError(
                    500, "internal_error", "something went wrong; the logs have the request id"
                )
            )

    def _count(self, method: str, route: str, status: int, duration_s: float) -> None:
        key = (method, route, status)
        histogram = self._durations.get(key)
        if histogram is None:
            histogram = self._durations[key] = Histogram(_BOUNDS_S)
        histogram.observe(duration_s)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        durations = HistogramMetricFamily(
            "http_request_duration_seconds",
            "Time from the request's head to its answer; status 499 is a client that left.",
            labels=["method", "route", "status"],
        )
        for (method, route, status), histogram in self._durations.items():
            durations.add_metric([method, route, str(status)], histogram.buckets(), histogram.total)
        yield durations
        in_flight = GaugeMetricFamily("http_requests_in_flight", "Requests in progress.")
        in_flight.add_metric([], self._in_flight)
        yield in_flight


def _forbid_caching(request: web.Request, response: web.StreamResponse) -> None:
    """Let no cache on the way keep a response, unless a handler says that it may.

    A response to one API key is not for another one. Some proxies keep what they are told to keep
    by their own configuration, unless the response forbids it.
    """
    headers = response.headers
    if hdrs.CACHE_CONTROL not in headers:
        headers[hdrs.CACHE_CONTROL] = "no-store"
    if not getattr(request.match_info.handler, "is_public", False):
        headers[hdrs.VARY] = "X-API-Key"


def _route(request: web.Request) -> str:
    """Return the route's template, never the path: it would be another one for each device."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
