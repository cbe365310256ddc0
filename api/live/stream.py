"""One watcher: it is sent a picture, then what each tick tells, as fast as it reads.

It has no queue: while it does not read nothing is fetched for it, and it goes on where it was. If
that is too long ago it gets a new picture. aiohttp sends it as the body of an answer, so that for
all the rest of the service the request is over when the stream begins.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from api.live.events import READY, Hello, event
from api.live.group import Group
from api.live.hub import Hub
from tracker import StoreError

Reason = Literal["unauthorized", "stopping", "unavailable"]
CONTENT_TYPE: Final = "text/event-stream"


class Ended(Exception):
    """A stream must end.

    Args:
        reason: what the watcher is told.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Stream(Payload):
    """The events for one watcher.

    Args:
        hub: where groups are.
        group_id: what is watched; None is a group that nobody is in.
        hello: makes the first event, of the time, and how many devices are shown, of how many.
        all_groups: whether the watcher may know how the service is doing.
        check: raises Ended if the watcher may not watch any longer.
    """

    def __init__(
        self,
        hub: Hub,
        group_id: str | None,
        hello: Callable[[float, int, int], Hello],
        check: Callable[[], Awaitable[None]],
        *,
        all_groups: bool,
    ) -> None:
        super().__init__(None, content_type=CONTENT_TYPE)
        self.ended = asyncio.Event()
        self._hub = hub
        self._group_id = group_id
        self._hello = hello
        self._check = check
        self._all_groups = all_groups
        self._writer: AbstractStreamWriter | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Refuse: it has no end."""
        del encoding, errors
        raise TypeError("a live stream cannot be read as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send events until the watcher leaves or may watch no longer; aiohttp calls this.

        Args:
            writer: of the answer's body.

        Raises:
            ConnectionError: the watcher has left.
        """
        self._writer = writer
        if self._hub.is_full:  # it was not when it was asked
            await self._bye("unavailable")
            return
        self._hub.streams.add(self)
        try:
            await self._watch()
        except StoreError:
            await self._bye("stopping" if self._hub.stopping else "unavailable")
        except Ended as end:
            await self._bye(end.reason)
        finally:
            self._hub.streams.discard(self)
            self.ended.set()

    async def _watch(self) -> None:
        """Send what happens in the group, one picture after the other.

        Raises:
            Ended: the watcher may not watch any longer, or a bug ended the group.
            StoreError: nobody knows.
        """
        while True:
            group = await self._hub.group(self._group_id)
            group.watchers += 1
            try:
                await self._follow(group)
            finally:
                group.watchers -= 1
            if group.crashed:
                raise Ended("unavailable")

    async def _follow(self, group: Group) -> None:
        """Send a picture and all ticks since, until the watcher lags too far or the group is over.

        Raises:
            Ended: the watcher may not watch any longer.
            StoreError: nobody knows.
        """
        picture = await group.picture()
        now = round(self._hub.clock.now(), 3)
        await self._send(event("hello", self._hello(now, picture.devices, picture.of)))
        number = picture.number + 1
        for piece in picture.pieces:
            await self._send(piece)
            if not group.remembers(number):
                return
        await self._send(READY)
        while (told := await group.told(number)) is not None:
            await self._send(told.group + told.service if self._all_groups else told.group)
            number += 1

    async def _send(self, data: bytes) -> None:
        if self._hub.stopping:
            raise Ended("stopping")
        await self._check()
        await self._write(data)

    async def _bye(self, reason: Reason) -> None:
        await self._write(event("bye", {"reason": reason}))

    async def _write(self, data: bytes) -> None:
        self._hub.sent_bytes += len(data)
        writer: Any = self._writer
        await writer.write(data)
        await writer.drain()

    @property
    def is_open(self) -> bool:
        """Whether the watcher is there, as far as is known."""
        writer: Any = self._writer
        return writer.transport is not None and not writer.transport.is_closing()

    def abort(self) -> None:
        """End here and now, whatever has not been sent."""
        writer: Any = self._writer
        if writer is not None and writer.transport is not None:
            writer.transport.abort()
