"""Touches of requests that last: streams and WebSockets, which may go on for hours.

Such a request is touched when its response is prepared and when it ends. What happens in between
only the handler knows: it calls `touch_request` for each message, or has `keep_touching` do so at
an interval.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

NOT_ACTIVITY: Final = frozenset({401, 403})
"""Statuses of responses to requests that touch nothing."""
RECORDERS: Final = web.RequestKey("tracker_recorders", tuple)
"""What records the touches of a request, one function for each middleware around its handler."""


def touch_request(request: web.Request) -> None:
    """Record the touches of a request again, such as for a message of its WebSocket.

    Args:
        request: a request that is being handled inside `activity_middleware`; any other is ignored.
    """
    for record in request.get(RECORDERS, ()):
        record(request)


@contextmanager
def keep_touching(request: web.Request, *, every_s: float = 60.0) -> Iterator[None]:
    """Record the touches of a request again and again while the block runs.

    An open connection may be that of a client that is gone. Set a `heartbeat` on the WebSocket, or
    use `touch_request` for messages instead.

    Args:
        request: as for `touch_request`.
        every_s: time between touches, in seconds.
    """
    loop = asyncio.get_running_loop()

    timer: asyncio.TimerHandle

    def again() -> None:
        nonlocal timer
        touch_request(request)
        timer = loop.call_later(every_s, again)

    timer = loop.call_later(every_s, again)
    try:
        yield
    finally:
        timer.cancel()


async def touch_prepared(request: web.Request, response: web.StreamResponse) -> None:
    """Record the touches of a request whose handler is about to send a stream or a WebSocket.

    `tracker.lifespan` adds it to the application. Without it, add it yourself:
    `app.on_response_prepare.append(touch_prepared)`.

    Args:
        request: the request.
        response: what is about to be sent.
    """
    # A plain response is prepared when the middleware has recorded the request already.
    if not isinstance(response, web.Response) and response.status not in NOT_ACTIVITY:
        touch_request(request)
