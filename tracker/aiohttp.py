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

__all__ = ["Identify", "activity_middleware", "keep_touching", "touch_prepared", "touch_request"]

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
            logged, at most once a minute, and the request goes on.

    Returns:
        The middleware, for `web.Application(middlewares=[...])`.
    """
    touch = tracker.touch
    errors = LogThrottle(_LOG_EVERY_S)

    def record(request: web.Request) -> None:
        try:
            for target, key in identify(request):
                touch(target, key)
        except Exception:
            if times := errors.due():
                log.exception("touch.failed", times=times)

    @web.middleware
    async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[RECORDERS] = (*request.get(RECORDERS, ()), record)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            if error.status not in NOT_ACTIVITY:
                record(request)
            raise
        except BaseException:  # a crash becomes a 500; a client that disconnected was active
            record(request)
            raise
        # A handler may have returned None: aiohttp turns that into a 500 and says so.
        if getattr(response, "status", None) not in NOT_ACTIVITY:
            record(request)
        return response

    return track
