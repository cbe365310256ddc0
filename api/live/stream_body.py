"""The body of a response without an end: events, sent as fast as the client reads.

To the rest of the service the request ends when the stream begins; `Hub` counts the streams, and
ends them when the service stops.
"""

import asyncio
from typing import Any, Final

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from api.http.pieces import write_pieces
from api.live.hub import Hub, LimitReached

CONTENT_TYPE: Final = "text/event-stream"


class StreamBody(Payload):
    """A stream of events; a `Subscriber` of the hub while it is sent.

    Args:
        hub: counts streams.
        key_id: the API key that the stream is counted for.
        group_id: the group that it is about; None for none or all.
    """

    def __init__(self, hub: Hub, *, key_id: int, group_id: str | None) -> None:
        super().__init__(None, content_type=CONTENT_TYPE)
        self.ended = asyncio.Event()
        self.key_id = key_id
        self.group_id = group_id
        self._hub = hub
        self._writer: AbstractStreamWriter | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise TypeError: a stream has no end."""
        del encoding, errors
        raise TypeError("a stream cannot be read as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send events until the stream ends; aiohttp calls this.

        Args:
            writer: of the response body.

        Raises:
            ConnectionError: the client has disconnected.
        """
        self._writer = writer
        try:
            self._hub.find_room(self.key_id)  # there was some before the response began
        except LimitReached:
            await self.turn_away()
            return
        self._hub.streams.add(self)
        try:
            await self.send_events()
        finally:
            self._hub.streams.discard(self)
            self.ended.set()

    async def turn_away(self) -> None:
        """Tell the client that there is no room for it; by default the stream just ends."""

    async def send_events(self) -> None:
        """Send events until the stream has to end."""
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Send bytes, as the client reads them.

        Raises:
            ConnectionError: the client has disconnected.
        """
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
