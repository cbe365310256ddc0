"""The aiohttp middleware: who was active in this request becomes touches."""

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tracker.instrumentation import Log, LogThrottle
from tracker.tracker import Tracker

Identify: TypeAlias = Callable[[web.Request], Iterable[tuple[str, object]]]

_NOT_ACTIVITY: Final = frozenset({401, 403})
_LOG_EVERY_S: Final = 60.0

log: Final = Log(__name__)


def activity_middleware(tracker: Tracker, identify: Identify) -> Middleware:
    """Make a middleware that touches whoever a request was from or about.

    Authentication, and whatever turns exceptions of your own into answers, belong inside it: list
    them after it. An exception that is no `web.HTTPException` counts as a crash, so as activity.

    It asks `identify` after the handler is done, when authentication has had its say and the body
    has been read, and before the answer leaves. Every answer counts, errors included, except 401
    and 403. It does no I/O and awaits nothing of its own.

    Args:
        tracker: where touches are recorded.
        identify: returns (target name, key) pairs for a request: who was authenticated, and what
            the request was about; nothing for a request that nobody was authenticated for. An
            error that it raises is logged, at most once a minute, and harms no request.
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
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            if answer.status not in _NOT_ACTIVITY:
                record(request)
            raise
        except BaseException:  # a crash is answered with 500; a client that left was here
            record(request)
            raise
        if response.status not in _NOT_ACTIVITY:
            record(request)
        return response

    return track
