"""The body of a stream of events: one after the other, as fast as the client reads."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from api.events.feed import EventFeed
from api.events.log import Event, Events
from api.http.pieces import write_pieces
from api.http.responses import ApiError
from api.live.hub import Hub, LimitReached
from tracker import StoreError

CONTENT_TYPE: Final = "text/event-stream"
_WAIT_S: Final = 1.0
"""How often it is looked whether the API key is still valid, in seconds."""
_SILENT_S: Final = 15.0
"""After how long a comment is sent, so that both sides notice a connection that is gone."""
_encode: Final = msgspec.json.Encoder().encode


class EventStream(Payload):
    """Sends events until the client disconnects, its API key is revoked or the service stops.

    Args:
        hub: counts streams, and ends them when the service stops.
        feed: tells of new events.
        read: reads the events after a position.
        check: returns whether the client may still read them; raises ApiError or StoreError.
        key_id: the API key that the stream is counted for.
        group_id: the group that it reads; None for all.
        after: the position of the last event that the client has; None for none.
    """

    def __init__(
        self,
        hub: Hub,
        feed: EventFeed,
        read: Callable[[int | None], Awaitable[Events]],
        check: Callable[[], Awaitable[bool]],
        *,
        key_id: int,
        group_id: str | None,
        after: int | None,
    ) -> None:
        super().__init__(None, content_type=CONTENT_TYPE)
        self.ended = asyncio.Event()
        self.key_id = key_id
        self.group_id = group_id
        self._hub = hub
        self._feed = feed
        self._read = read
        self._check = check
        self._after = after
        self._writer: AbstractStreamWriter | None = None
        self._sent_at = time.monotonic()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise TypeError: a stream has no end."""
        del encoding, errors
        raise TypeError("a stream cannot be read as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send events; aiohttp calls this.

        Args:
            writer: of the response body.

        Raises:
            ConnectionError: the client has disconnected.
        """
        self._writer = writer
        try:
            self._hub.find_room(self.key_id)  # there was some before the response began
        except LimitReached:
            return
        self._hub.streams.add(self)
        try:
            await self._write(b": events\n\n")
            while not self._hub.stopping and await self._check():
                await self._send_new()
        except (StoreError, ApiError):
            pass  # the client connects again, and is told why it may not
        finally:
            self._hub.streams.discard(self)
            self.ended.set()

    async def _send_new(self) -> None:
        page = await self._read(self._after)
        self._after = int(page.next_cursor)
        for one in page.events:
            await self._write(_message(one))
        if page.events:
            return
        await self._feed.wait(self.group_id, after=self._after, wait_s=_WAIT_S)
        if time.monotonic() - self._sent_at > _SILENT_S:
            await self._write(b":\n\n")

    async def _write(self, data: bytes) -> None:
        self._sent_at = time.monotonic()
        self._hub.sent_bytes += len(data)
        writer: Any = self._writer
        await write_pieces(writer, data)

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        writer: Any = self._writer
        return writer.transport is not None and not writer.transport.is_closing()

    def abort(self) -> None:
        """Close the connection at once and discard what has not been sent."""
        writer: Any = self._writer
        if writer is not None and writer.transport is not None:
            writer.transport.abort()


def _message(event: Event) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        event.event_id.encode(),
        event.type.encode(),
        _encode(event),
    )
