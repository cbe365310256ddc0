"""One subscriber: sends it a snapshot, then each tick, as fast as it reads.

A stream has no queue. It waits while the client does not read, then continues with the next tick,
or with a new snapshot if that tick is no longer kept. The stream is a response body for aiohttp: to
the rest of the service, the request ends when the stream begins.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from api.http.pieces import write_pieces
from api.live.events import READY, Hello, event
from api.live.group import Group
from api.live.hub import Hub, LimitReached
from tracker import StoreError

Reason = Literal["unauthorized", "stopping", "unavailable"]
CONTENT_TYPE: Final = "text/event-stream"


class StreamEnded(Exception):
    """The stream has to end.

    Args:
        reason: sent to the client in the `bye` event.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Stream(Payload):
    """The response body for one subscriber.

    Args:
        hub: holds the groups.
        group_id: the group; None is an empty group.
        hello: makes the first event from the time in epoch seconds, the number of devices in the
            snapshot and the number of devices in the group.
        key_id: the API key that the stream is counted for.
        all_groups: whether the client may receive statistics of the whole service.
        check: raises StreamEnded if the client is no longer authorized.
    """

    def __init__(
        self,
        hub: Hub,
        group_id: str | None,
        hello: Callable[[float, int, int], Hello],
        check: Callable[[], Awaitable[None]],
        *,
        key_id: int,
        all_groups: bool,
    ) -> None:
        super().__init__(None, content_type=CONTENT_TYPE)
        self.ended = asyncio.Event()
        self._hub = hub
        self.group_id = group_id
        self._hello = hello
        self._check = check
        self.key_id = key_id
        self._all_groups = all_groups
        self._writer: AbstractStreamWriter | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise TypeError: a stream has no end."""
        del encoding, errors
        raise TypeError("a live stream cannot be read as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send events until the client disconnects or the stream has to end; aiohttp calls this.

        Args:
            writer: of the response body.

        Raises:
            ConnectionError: the client has disconnected.
        """
        self._writer = writer
        try:
            self._hub.find_room(self.key_id)  # there was some before the response began
        except LimitReached:
            await self._bye("unavailable")
            return
        self._hub.streams.add(self)
        try:
            await self._send_snapshots()
        except StoreError:
            await self._bye("stopping" if self._hub.stopping else "unavailable")
        except StreamEnded as end:
            await self._bye(end.reason)
        finally:
            self._hub.streams.discard(self)
            self.ended.set()

    async def _send_snapshots(self) -> None:
        """Send snapshots and their ticks until the stream has to end.

        Raises:
            StreamEnded: the client is no longer authorized, or a bug closed the group.
            StoreError: the database is unavailable.
        """
        while True:
            group = await self._hub.group(self.group_id)
            group.subscribers += 1
            try:
                await self._send_ticks(group)
            finally:
                group.subscribers -= 1
            if group.crashed:
                raise StreamEnded("unavailable")

    async def _send_ticks(self, group: Group) -> None:
        """Send a snapshot and the ticks after it, until the client lags too far.

        Raises:
            StreamEnded: the client is no longer authorized, or the service is stopping.
        """
        snapshot = await group.snapshot()
        now = round(self._hub.clock.now(), 3)
        await self._send(event("hello", self._hello(now, snapshot.devices, snapshot.of)))
        number = snapshot.number + 1
        for chunk in snapshot.chunks:
            await self._send(chunk)
            if not group.has_tick(number):
                return
        await self._send(READY)
        while (tick := await group.tick(number)) is not None:
            await self._send(tick.group + tick.service if self._all_groups else tick.group)
            number += 1

    async def _send(self, data: bytes) -> None:
        if self._hub.stopping:
            raise StreamEnded("stopping")
        await self._check()
        await self._write(data)

    async def _bye(self, reason: Reason) -> None:
        await self._write(event("bye", {"reason": reason}))

    async def _write(self, data: bytes) -> None:
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
