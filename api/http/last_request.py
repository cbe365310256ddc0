"""Which request is the last one of its connection: one that may leave something in the parser.

The parser of aiohttp takes the last trailer of a chunked body for a header of the next request,
which is another client's where a proxy shares its connections. It also drops what follows a request
to change to a protocol that it does not know. So nothing is read after such a request.
"""

from typing import Any, Final

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader

from api.http.request_loop import RequestLoop

_CHUNKED_END: Final = b"\r\n0\r\n\r\n"
"""The end of a chunked body that has no trailers, with the line break before it."""


class LastRequestHandler(RequestLoop):
    """A connection that ends after a request that may leave something in the parser."""

    __slots__ = ("_last", "_received_end", "_suspect")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # A request whose body is not complete, and that may leave something in the parser.
        self._suspect: tuple[RawRequestMessage, StreamReader] | None = None
        self._received_end = b""  # the last bytes that came since then
        self._last: RawRequestMessage | None = None  # the request after which nothing is read

    def may_be_last(self, request: web.BaseRequest) -> bool:
        """Return whether a request is the last one, or may turn out to be when its body is read."""
        if self._last is None and self._suspect is None:
            return False
        message = request._message  # noqa: SLF001 - two requests may share an empty body
        return message is self._last or (self._suspect is not None and message is self._suspect[0])

    def parse(self, data: bytes) -> None:
        """Read requests from received bytes, and none after the last one."""
        if self._last is not None:
            return
        messages = self._messages
        known = len(messages)
        suspects = [] if self._suspect is None else [(known, *self._suspect)]
        super().data_received(data)
        for place in range(known, len(messages)):
            message, body = messages[place]
            # What could not be read is in the queue, too, and ends the connection as it is.
            if isinstance(message, RawRequestMessage) and (message.chunked or message.upgrade):
                suspects.append((place + 1, message, body))
        if suspects:
            self._received_end = (self._received_end + data)[-len(_CHUNKED_END) :]
            self._end_after(*suspects[0])

    def _end_after(self, place: int, message: RawRequestMessage, body: StreamReader) -> None:
        """Make a request the last one of its connection unless it surely leaves nothing behind.

        Args:
            place: how many requests are in the queue up to this one.
            message: its head.
            body: its body, as far as it has come.
        """
        self._suspect = None
        if place == len(self._messages):
            if not body.is_eof():
                self._suspect = (message, body)
                return
            # A parser that is paused may hold a part of the next request.
            clean = self._received_end == _CHUNKED_END and not self._buffer_paused
            if clean and not message.upgrade:
                return
        self._last = message
        while len(self._messages) > place:
            self._messages.pop()
