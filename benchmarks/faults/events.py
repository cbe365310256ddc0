"""Makes events of devices during faults, and receives them by a webhook that fails in turns.

Devices are moved between two groups, by a connection that does not go through the proxy. Whatever
happens meanwhile, each event that was committed must reach the receiver, in the order of its device
and without a gap.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle
from typing import Final

from aiohttp import web

from api.background import background
from api.config import DatabaseSettings
from api.postgres.database import open_database
from api.webhooks.registry import NewWebhook, create_webhook
from benchmarks.faults.invariants import UNREACHABLE
from benchmarks.harness.testbed import Fleet, connected

_MOVES_PER_S: Final = 5
_PATIENCE_S: Final = 1.0
_SLOW_S: Final = 0.3
_HANG_S: Final = 60.0
_MOVE: Final = """
UPDATE devices SET group_id = CASE group_id WHEN 'fleet' THEN 'moved' ELSE 'fleet' END
WHERE device_id = $1::text::uuid
"""
_LAST: Final = """
SELECT device_id::text, event_seq FROM devices WHERE device_id = ANY ($1::text[]::uuid[])
"""


async def _accept(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def _fail(_request: web.Request) -> web.Response:
    return web.Response(status=500)


async def _be_slow(_request: web.Request) -> web.Response:
    await asyncio.sleep(_SLOW_S)
    return web.Response(status=204)


async def _hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(_HANG_S)
    return web.Response(status=500)


async def _send_garbage(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.write(b"\x00\x01 this is no HTTP\r\n\r\n")
    return web.Response(status=500)


async def _disconnect(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)


_RESPONSES: Final[tuple[Callable[[web.Request], Awaitable[web.Response]], ...]] = (
    *(_accept, _accept, _accept, _fail, _be_slow, _accept, _accept, _send_garbage),
    *(_accept, _accept, _be_slow, _disconnect, _accept, _accept, _accept, _hang),
)


class Events:
    """Receives events, and compares them with what is stored.

    Args:
        fleet: the devices that are moved.

    Attributes:
        problems: events that are missing or out of order, as text.
        requests: how many requests were received.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.problems: list[str] = []
        self.requests = 0
        self._fleet = fleet
        self._responses = cycle(_RESPONSES)
        self._last: dict[str, int] = {}

    async def receive(self, request: web.Request) -> web.Response:
        """Receive a batch, and respond to it as it is the turn."""
        self.requests += 1
        events = (await request.json())["events"]
        response = await next(self._responses)(request)
        if response.status == 204:  # the others are sent again
            for event in events:
                self._note(event["device_id"], event["seq"])
        return response

    def _note(self, device: str, seq: int) -> None:
        last = self._last.get(device, 0)
        if seq > last + 1:
            self.problems.append(f"event {seq} of {device} was received after event {last}")
        self._last[device] = max(seq, last)

    async def make(self) -> None:
        """Move one device after another until cancelled; moves that fail are not repeated."""
        for number in count():
            await asyncio.sleep(1 / _MOVES_PER_S)
            with suppress(*UNREACHABLE):
                async with asyncio.timeout(_PATIENCE_S), connected(self._fleet.dsn) as connection:
                    device = self._fleet.devices[number % len(self._fleet.devices)]
                    await connection.execute(_MOVE, device)

    async def stored(self) -> dict[str, int]:
        """Return the number of the last event of each device."""
        async with connected(self._fleet.dsn) as connection:
            rows = await connection.fetch(_LAST, self._fleet.devices)
        return {row[0]: row[1] for row in rows}

    async def unreceived(self, stored: Mapping[str, int], *, within_s: float) -> list[str]:
        """Wait until events have been received; return those that have not, as text.

        Args:
            stored: what `stored` has returned.
            within_s: how long to wait, in seconds.
        """
        deadline = time.monotonic() + within_s
        while missing := [key for key, seq in stored.items() if self._last.get(key, 0) < seq]:
            if time.monotonic() > deadline:
                some = missing[0]
                last = self._last.get(some, 0)
                return [f"{len(missing)} devices: {some} has event {stored[some]}, received {last}"]
            await asyncio.sleep(0.05)
        return []


@asynccontextmanager
async def moving_devices(fleet: Fleet) -> AsyncIterator[Events]:
    """Make events, and receive them by a webhook, while the block runs."""
    events = Events(fleet)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/", events.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with open_database(fleet.dsn, DatabaseSettings(), connections=1) as database:
            await create_webhook(database, NewWebhook(url, None, None))
        async with background(events.make(), "events"):
            yield events
    finally:
        await runner.cleanup()
