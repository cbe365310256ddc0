"""The outermost middleware: request ids, errors as JSON, and common response headers.

It also makes the responses to requests that no middleware sees, because they cannot be parsed, are
too large or too slow.
"""

import re
import secrets
import time
from itertools import count
from typing import Final

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from api.http.addressing import is_for_another_host, is_spelled_oddly, misdirected
from api.http.request_metrics import RequestMetrics
from api.http.responses import ApiError, error_response
from api.logs import REQUEST_ID
from api.siblings import MISSING_WORKERS
from tracker import StoreError
from tracker.instrumentation import LogThrottle

_RETRY_AFTER_S: Final = 2
_LOG_EVERY_S: Final = 10.0
_LOG_UNPARSED_EVERY_S: Final = 60.0
_CLIENT_GONE: Final = 499
_SUPPORTED_VERSIONS: Final = (HttpVersion11, HttpVersion10)
_SERVER: Final = "activity-tracker"
"""Replaces aiohttp's `Server` header, which discloses the versions of Python and aiohttp."""
_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RequestMiddleware:
    """The outermost middleware of an application.

    Args:
        metrics: counts all requests.
    """

    def __init__(self, metrics: RequestMetrics) -> None:
        self.metrics = metrics
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._unavailable = LogThrottle(_LOG_EVERY_S)
        self._unparsed = LogThrottle(_LOG_UNPARSED_EVERY_S)

    def middleware(self, allowed_hosts: frozenset[str] = frozenset()) -> Middleware:
        """Return the middleware.

        Args:
            allowed_hosts: hosts that requests may name; empty for any.
        """

        @web.middleware
        async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.perf_counter()
            request_id = request.headers.get("X-Request-ID", "")
            if not _ACCEPTABLE_ID(request_id):
                request_id = self._next_id()
            REQUEST_ID.set(request_id)  # each connection is a task, with a context of its own
            self.metrics.in_flight += 1
            status = _CLIENT_GONE
            try:
                response: web.StreamResponse
                if is_spelled_oddly(request.raw_path):
                    response = error_response(web.HTTPNotFound())
                elif allowed_hosts and is_for_another_host(request, allowed_hosts):
                    response = error_response(misdirected())
                else:
                    response = await self._respond(request, handler)
                status = response.status
                if not response.prepared:
                    response.headers["X-Request-ID"] = request_id
                    response.headers["Server"] = _SERVER
                    _forbid_caching(request, response)
                    if missing := MISSING_WORKERS.get():
                        MISSING_WORKERS.set(())  # the next request of the connection is another one
                        response.headers["X-Missing-Workers"] = ", ".join(map(str, missing))
                return response
            finally:
                self.metrics.in_flight -= 1
                method = request.method if request.method in hdrs.METH_ALL else "other"
                self.metrics.count(method, _route(request), status, time.perf_counter() - started)

        return outermost

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

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.version not in _SUPPORTED_VERSIONS:  # aiohttp would accept HTTP/0.9 and 2.0
            return error_response(
                ApiError(400, "malformed_request", "use HTTP/1.1 or HTTP/1.0", close=True)
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
                    "the database is unavailable or too slow; try again",
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


def _forbid_caching(request: web.Request, response: web.StreamResponse) -> None:
    """Forbid caches to store a response, unless its handler allows it.

    A response to one API key is not for another one. Some proxies are configured to cache
    responses unless the response forbids it.
    """
    headers = response.headers
    if hdrs.CACHE_CONTROL not in headers:
        headers[hdrs.CACHE_CONTROL] = "no-store"
    if not getattr(request.match_info.handler, "is_public", False):
        headers[hdrs.VARY] = "X-API-Key"


def _route(request: web.Request) -> str:
    """Return the template of the route; the path itself would make one label value per device."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
