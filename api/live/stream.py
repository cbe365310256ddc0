"""One subscriber: sends it a snapshot, then each tick, as fast as it reads.

A stream has no queue. It waits while the client does not read, then continues with the next tick,
or with a new snapshot if that tick is no longer kept. The stream is a response body for aiohttp: to
the rest of the service, the request ends when the stream begins.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

from api.live.events import READY, Hello, event
from api.live.group import Group
from api.live.hub import Hub
from api.live.stream_body import StreamBody
from tracker import StoreError

Reason = Literal["unauthorized", "stopping", "unavailable"]


class StreamEnded(Exception):
    """The stream has to end.

    Args:
        reason: sent to the client in the `bye` event.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Stream(StreamBody):
    """The response body for one subscriber of a group.

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
        super().__init__(hub, key_id=key_id, group_id=group_id)
        self._hello = hello
        self._check = check
        self._all_groups = all_groups

    async def turn_away(self) -> None:
        """Tell the client that there is no room for it."""
        await self._bye("unavailable")

    async def send_events(self) -> None:
        """Send events until the stream has to end, and say why it ends."""
        try:
            await self._send_snapshots()
        except StoreError:
            await self._bye("stopping" if self._hub.stopping else "unavailable")
        except StreamEnded as end:
            await self._bye(end.reason)

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
        await self.send(data)

    async def _bye(self, reason: Reason) -> None:
        await self.send(event("bye", {"reason": reason}))
