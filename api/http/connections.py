"""One connection of a client: the limits of its headers, and its timeouts.

aiohttp limits lines, the number of headers, idle connections and pipelined requests. This adds a
limit for the size of all headers, and timeouts for the header, the body, and a client that does not
read its response. A client that is fast enough costs only the first timer. Which request is the
last of a connection is decided in `last_request`.
"""

import asyncio
from typing import Final, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.payload import Payload
from aiohttp.streams import StreamReader

from api.config import ServerSettings
from api.http.last_request import LastRequestHandler
from api.http.listener import Listener
from api.http.middleware import RequestMiddleware
from api.http.pieces import PIECE_BYTES
from api.http.responses import ApiError

_LINGER_S: Final = 5.0
"""How long an unwanted body is read, so that the client gets to read the response."""
_UNREAD_BYTES: Final = 65_536
"""How much of a body is buffered before a handler reads it; many bodies are never read."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class BodyTooSlow(web.RequestPayloadError):
    """A body has not come within its time."""


class Connection(LastRequestHandler):
    """A connection of a client.

    Args:
        listener: where it came in.
        limits: of sizes and times.
        requests: counts what is rejected before a handler sees it.
        server: what answers it.
    """

    __slots__ = (
        *("_listener", "_limits", "_requests"),
        *(
            "_most_head_bytes",
            "_head_bytes",
            "_head_due",
            "_body",
            "_body_due",
            "_sent_due",
            "_wire",
            "_streams",
        ),
    )

    def __init__(
        self,
        listener: Listener,
        limits: ServerSettings,
        requests: RequestMiddleware,
        server: web.Server,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # aiohttp then writes no access log
            keepalive_timeout=limits.keepalive_timeout_s,
            lingering_time=_LINGER_S,
            max_line_size=limits.max_header_line_bytes,
            max_field_size=limits.max_header_line_bytes,
            auto_decompress=False,  # `read_body` does, see `create_app`
            read_bufsize=_UNREAD_BYTES,
        )
        self._listener = listener
        self._limits = limits
        self._requests = requests
        self._most_head_bytes = limits.max_header_bytes
        self._head_bytes = 0  # of a head that is not complete
        self._head_due: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None  # of the last request, if it did not come at once
        self._body_due: asyncio.TimerHandle | None = None
        self._sent_due: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None  # aiohttp drops it before all is sent
        self._streams = False  # a response without an end is being sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and start the timeout of its first header."""
        super().connection_made(transport)
        self._wire = self.transport
        self._listener.enter(self)
        if self._wire is not None:
            self._wire.set_write_buffer_limits(PIECE_BYTES)
            self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting the connection, and cancel its timers."""
        self._wire = None
        self._listener.leave(self)
        for timer in (self._head_due, self._body_due, self._sent_due):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def abort(self, reason: str) -> None:
        """Close the connection at once and discard what has not been sent or read.

        Args:
            reason: as the metric's documentation names it.
        """
        self._listener.closed[reason] += 1
        self._listener.leave(self)
        self.force_close()
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    def data_received(self, data: bytes) -> None:
        """Process received bytes: a part of a header or a body, or several requests."""
        if self._close or self._force_close or self._last is not None:
            return
        is_head = not (self._request_in_progress or self._messages) and (
            self._body is None or self._body.is_eof()
        )
        room = self._most_head_bytes - self._head_bytes
        if is_head and len(data) > room:
            self.parse(data[:room])
            if not self._messages:
                self._refuse(431, "headers_too_large", "the request's headers are too large")
                return
            data = data[room:]
        self.parse(data)
        if self._messages:
            self._requests_came()
        elif is_head and data:
            self._head_bytes += len(data)
            if self._head_due is None:
                self._await_head()

    def _requests_came(self) -> None:
        if not self._paused:  # a client that does not read may lose its place, whatever it requests
            self._listener.waiting.pop(self, None)
        self._head_bytes = 0
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None
        body = self._messages[-1][1]  # no other can be incomplete
        if not body.is_eof() and body is not self._body:
            self._forget_body()
            self._body = body
            self._body_due = self._loop.call_later(
                self._limits.body_timeout_s, self._body_is_late, body
            )

    def _await_head(self) -> None:
        self._head_due = self._loop.call_later(self._limits.header_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if (
            self._current_request is not None
        ):  # its response was about to be sent when the head began
            self._await_head()
            return
        self._head_due = None
        self._listener.closed["slow_header"] += 1
        if self._head_bytes:
            self._refuse(408, "request_timeout", "the request's headers took too long")
        else:
            self.force_close()  # a response to no request would be taken for that to the next one

    def _body_is_late(self, body: StreamReader) -> None:
        self._body_due = None
        if not body.is_eof():
            self._listener.closed["slow_body"] += 1
            body.set_exception(BodyTooSlow())

    def _forget_body(self) -> None:
        if self._body_due is not None:
            self._body_due.cancel()
            self._body_due = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Respond to a request that is incomplete, and read no more.

        Nothing else is being answered, or the head would not be awaited.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        answer = self._requests.reject(ApiError(status, code, message))
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        body = cast("bytes", answer.body)
        lines += [f"Content-Length: {len(body)}", "", ""]
        transport.write("\r\n".join(lines).encode() + body)
        # Closing with something unread would reset the connection, and the response might be lost.
        transport.write_eof()
        self.close()

    async def start(self) -> None:
        """Answer requests in order; at the end, limit the wait for the client to close."""
        try:
            await super().start()
        finally:
            if self._wire is not None and self._sent_due is None:
                self._await_sent()

    def pause_writing(self) -> None:
        """Start the timeout of the response; the connection may be closed for a new one."""
        super().pause_writing()
        if self._wire is not None:
            self._listener.waiting[self] = None
            if self._sent_due is None:
                self._await_sent()

    def resume_writing(self) -> None:
        """Stop the timeout of the response: the client has read enough of it."""
        super().resume_writing()
        if self.transport is None or self.transport.is_closing():
            return  # the last bytes are awaited no longer than those before
        if self._messages or self._streams:
            self._listener.waiting.pop(self, None)
        if self._sent_due is not None:
            self._sent_due.cancel()
            self._sent_due = None

    def _await_sent(self) -> None:
        self._sent_due = self._loop.call_later(
            self._limits.response_timeout_s, self.abort, "slow_response"
        )

    def about_to_send(
        self, request: web.BaseRequest, response: web.StreamResponse
    ) -> web.StreamResponse:
        """Return what is sent; an error that no layer has seen becomes a JSON error."""
        if type(response) is not web.Response and isinstance(response, web.HTTPException):
            response = self._requests.reject(response)
        if self._body is request.content:  # and not that of a request that was sent ahead
            if hdrs.EXPECT in request.headers and not request.content.is_eof():
                response.force_close()  # it may never come, and the next request be taken for it
            self._forget_body()
        # After an upgrade that is not served, nothing would limit what follows.
        if self._upgraded or self._listener.lets_go or self.may_be_last(request):
            response.force_close()
        return response

    def send_whole(self, data: bytes) -> bool:
        """Send all of a response, and return whether the client is still there."""
        self._await_next()
        return super().send_whole(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response that is not there as a whole."""
        if isinstance(resp, web.Response) and isinstance(resp.body, Payload):
            return await self._stream(request, resp, start_time)
        self._await_next()
        return await super().finish_response(request, resp, start_time)

    async def _stream(
        self, request: web.BaseRequest, resp: web.Response, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response that may take hours; the connection counts as in use meanwhile."""
        self._streams = True
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._streams = False
            self._await_next()

    def _await_next(self) -> None:
        if not self._messages and self._wire is not None:
            self._listener.waiting[self] = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to a request that cannot be parsed, without the parser's own message."""
        del message
        if isinstance(exc, LineTooLong):
            error = ApiError(431, "headers_too_large", "a line of the request's head is too long")
        elif isinstance(exc, HttpProcessingError):
            error = ApiError(400, "malformed_request", "this is no proper HTTP/1.1 request")
        else:
            log.error("request.crashed_outside", status=status, exc_info=exc)
            error = ApiError(500, "internal_error", "something went wrong")
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another response has been sent already")
        answer = self._requests.reject(error)
        answer.force_close()
        return answer
