"""The aiohttp middleware: it touches the keys that a request was from or about."""

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tracker._long_requests import (
    NOT_ACTIVITY,
    RECORDERS,
    keep_touching,
    touch_prepared,
    touch_request,
)
from tracker.instrumentation import Log, LogThrottle
from tracker.tracker import Tracker

__all__ = [
    "ActivityRecorder",
    "Identify",
    "activity_middleware",
    "keep_touching",
    "touch_prepared",
    "touch_request",
]

Identify: TypeAlias = Callable[[web.Request], Iterable[tuple[str, object]]]

_LOG_EVERY_S: Final = 60.0

log: Final = Log(__name__)


def activity_middleware(tracker: Tracker, identify: Identify) -> Middleware:
    """Return a middleware that touches the keys that a request was from or about.

    List it before authentication, and before middlewares that turn exceptions of your own into
    responses, so that they run inside it. An exception that is no `web.HTTPException` is a crash,
    which counts as activity.

    It calls `identify` when the handler has returned, so the request is authenticated and its body
    read, and before the response is sent. Every response counts as activity, errors included,
    except 401 and 403. A response that the handler prepares itself, such as a WebSocket, is touched
    at that moment, too, if the application has `tracker.lifespan` or `touch_prepared`. The
    middleware does no I/O and awaits nothing of its own.

    Args:
        tracker: where touches are recorded.
        identify: returns (target name, key) pairs for a request: the authenticated client, and what
            the request was about; nothing if it was not authenticated. An error that it raises is
            logged, at most once a minute, and the request continues.

    Returns:
        The middleware, for `web.Application(middlewares=[...])`.
    """
    recorder = ActivityRecorder(tracker, identify)

    @web.middleware
    async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
        recorder.begin(request)
        status: int | None = None  # of a crash, or of a client that disconnected
        try:
            response = await handler(request)
            # A handler may have returned None: aiohttp turns that into a 500 and says so.
            status = getattr(response, "status", None)
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            recorder.end(request, status)
        return response

    return track


class ActivityRecorder:
    """Records the touches of requests: what `activity_middleware` does, without a middleware.

    For a server that handles requests in its own way and counts every instruction. Call `end` when
    the response is there. If handlers use `touch_request` or `keep_touching`, call `begin` before
    them.

    Args:
        tracker: as for `activity_middleware`.
        identify: as for `activity_middleware`.
    """

    def __init__(self, tracker: Tracker, identify: Identify) -> None:
        self._touch_all = tracker.touch_all
        self._identify = identify
        self._errors = LogThrottle(_LOG_EVERY_S)

    def begin(self, request: web.Request) -> None:
        """Let `touch_request` and `keep_touching` know the request."""
        # Most requests have nothing yet, and `get` would raise and catch an exception then.
        earlier = request.get(RECORDERS, ()) if len(request) else ()
        request[RECORDERS] = (*earlier, self.record)

    def end(self, request: web.Request, status: int | None) -> None:
        """Record the touches of a request, unless its response is 401 or 403.

        Args:
            request: the request.
            status: of its response; None if it has none.
        """
        if status not in NOT_ACTIVITY:
            self.record(request)

    def record(self, request: web.Request) -> None:
        """Record the touches of a request now, whatever becomes of it."""
        try:
            self._touch_all(self._identify(request))
        except Exception:
            if times := self._errors.due():
                log.exception("touch.failed", times=times)
