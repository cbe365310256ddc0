"""The outermost layer: request ids, errors as JSON, and common response headers.

It also makes the responses to requests that no middleware sees, because they cannot be parsed, are
too large or too slow.
"""

import re
import secrets
import time
from collections.abc import MutableMapping
from itertools import count
from typing import Final

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from multidict import istr

from api.http.addressing import is_for_another_host, is_spelled_oddly, misdirected
from api.http.application import Handler, Layer
from api.http.request_metrics import RequestMetrics
from api.http.responses import ApiError, error_response
from api.logs import REQUEST_ID
from api.siblings import MISSING_WORKERS
from tracker import StoreError
from tracker.aiohttp import ActivityRecorder
from tracker.instrumentation import LogThrottle

_RETRY_AFTER_S: Final = 2
_LOG_EVERY_S: Final = 10.0
_LOG_UNPARSED_EVERY_S: Final = 60.0
_CLIENT_GONE: Final = 499
_SUPPORTED_VERSIONS: Final = (HttpVersion11, HttpVersion10)
_SERVER: Final = "activity-tracker"
"""Replaces aiohttp's `Server` header, which discloses the versions of Python and aiohttp."""
_REQUEST_ID: Final = istr("X-Request-ID")
_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RequestMiddleware:
    """The outermost layer of an application.

    Args:
        metrics: counts all requests.
    """

    def __init__(self, metrics: RequestMetrics) -> None:
        self.metrics = metrics
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._unavailable = LogThrottle(_LOG_EVERY_S)
        self._unparsed = LogThrottle(_LOG_UNPARSED_EVERY_S)

    def layer(
        self,
        allowed_hosts: frozenset[str] = frozenset(),
        recorder: ActivityRecorder | None = None,
    ) -> Layer:
        """Return the layer.

        Args:
            allowed_hosts: hosts that requests may name; empty for any.
            recorder: records the touches of requests; None if nothing is tracked.
        """

        def wrap(route: web.AbstractRoute, handler: Handler) -> Handler:
            label = _label(route)
            is_public = getattr(route.handler, "is_public", False)
            metrics = self.metrics

            async def outermost(request: web.Request) -> web.StreamResponse:
                started = time.perf_counter()
                request_id = request.headers.get(_REQUEST_ID)
                if request_id is None or not _ACCEPTABLE_ID(request_id):
                    request_id = self._next_id()
                REQUEST_ID.set(request_id)  # each connection is a task, with a context of its own
                metrics.in_flight += 1
                status = _CLIENT_GONE
                response: web.StreamResponse
                try:
                    try:
                        if allowed_hosts or _needs_a_look(request):
                            _reject_unserved(request, allowed_hosts)
                        response = await handler(request)
                    except Exception as error:  # noqa: BLE001 - each gets its response
                        response = self._failed(error, request.method, label)
                    status = response.status
                    if not response.prepared:
                        headers = response.headers
                        headers[_REQUEST_ID] = request_id
                        headers[hdrs.SERVER] = _SERVER
                        _forbid_caching(headers, is_public=is_public)
                        if missing := MISSING_WORKERS.get():
                            MISSING_WORKERS.set(())  # the next request of the connection is another
                            headers["X-Missing-Workers"] = ", ".join(map(str, missing))
                    return response
                finally:
                    metrics.in_flight -= 1
                    if recorder is not None:
                        recorder.end(request, status)
                    method = request.method if request.method in hdrs.METH_ALL else "other"
                    metrics.count(method, label, status, time.perf_counter() - started)

            return outermost

        return wrap

    def reject(self, error: web.HTTPException) -> web.Response:
        """Return the response to a request that could not be parsed, or was too large or too slow.

        Args:
            error: what is wrong with the request.
        """
        response = error_response(error)
        response.headers["X-Request-ID"] = self._next_id()
        response.headers["Server"] = _SERVER
        self.metrics.count("other", "unparsed", response.status, 0.0)
        if times := self._unparsed.due():
            log.info("requests.unparsed", times=times, status=response.status)
        return response

    def _next_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    def _failed(self, error: Exception, method: str, label: str) -> web.Response:
        """Return the response to a request whose handler has raised an exception.

        Args:
            error: the exception, which is being handled.
            method: of the request.
            label: of its route.

        Raises:
            HTTPException: the exception, if it is no error.
        """
        if isinstance(error, web.HTTPException):
            return error_response(error)
        if isinstance(error, StoreError):
            if times := self._unavailable.due():
                log.warning("requests.unavailable", times=times, error=str(error))
            return error_response(
                ApiError(
                    503,
                    "unavailable",
                    "the database is unavailable or too slow; try again",
                    retry_after_s=_RETRY_AFTER_S,
                )
            )
        log.error("request.crashed", route=label, method=method, exc_info=error)
        return error_response(
            ApiError(500, "internal_error", "something went wrong; the logs have the request id")
        )


def _needs_a_look(request: web.Request) -> bool:
    """Return whether a request may be one that is not served, whatever its host."""
    target = request.raw_path
    return "%" in target or "#" in target or request.version is not HttpVersion11


def _reject_unserved(request: web.Request, allowed_hosts: frozenset[str]) -> None:
    """Raise the error of a request whose path, host or version is not served."""
    if is_spelled_oddly(request.raw_path):
        raise web.HTTPNotFound
    if allowed_hosts and is_for_another_host(request, allowed_hosts):
        raise misdirected()
    if request.version not in _SUPPORTED_VERSIONS:  # aiohttp would accept HTTP/0.9 and 2.0
        raise ApiError(400, "malformed_request", "use HTTP/1.1 or HTTP/1.0", close=True)


def _forbid_caching(headers: MutableMapping[str, str], *, is_public: bool) -> None:
    """Forbid caches to store a response, unless its handler allows it.

    A response to one API key is not for another one. Some proxies are configured to cache
    responses unless the response forbids it.
    """
    if hdrs.CACHE_CONTROL not in headers:
        headers[hdrs.CACHE_CONTROL] = "no-store"
    if not is_public:
        headers[hdrs.VARY] = "X-API-Key"


def _label(route: web.AbstractRoute) -> str:
    """Return the template of a route; the path itself would make one label value per device."""
    return "unmatched" if route.resource is None else route.resource.canonical
