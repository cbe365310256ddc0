"""The body of a stream of events: one after the other, as fast as the client reads."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec

from api.events.feed import EventFeed
from api.events.log import Event, Events
from api.http.responses import ApiError
from api.live.hub import Hub
from api.live.stream_body import StreamBody
from tracker import StoreError

_WAIT_S: Final = 1.0
"""How often it is looked whether the API key is still valid, in seconds."""
_SILENT_S: Final = 15.0
"""After how long a comment is sent, so that both sides notice a connection that is gone."""
_encode: Final = msgspec.json.Encoder().encode


class EventStream(StreamBody):
    """Sends events until the client disconnects, its API key is revoked or the service stops.

    Args:
        hub: counts streams, and ends them when the service stops.
        feed: notifies of new events.
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
        super().__init__(hub, key_id=key_id, group_id=group_id)
        self._feed = feed
        self._read = read
        self._check = check
        self._after = after
        self._sent_at = time.monotonic()

    async def send_events(self) -> None:
        """Send events as they come."""
        await self._write(b": events\n\n")
        # If it may not any more, the client connects again, and gets the reason.
        with suppress(StoreError, ApiError):
            while not self._hub.stopping and await self._check():
                await self._send_new()

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
        await self.send(data)


def _message(event: Event) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        event.event_id.encode(),
        event.type.encode(),
        _encode(event),
    )
