"""A reader of server-sent events that shares nothing with what writes them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp

PATIENCE_S = 30
"""How long a test waits for what should be there in a second or two, on a busy machine."""


@dataclass
class Live:
    """A live stream, and what a page would show by it."""

    answer: aiohttp.ClientResponse
    hello: dict[str, Any] = field(default_factory=dict)
    devices: dict[int, dict[str, Any]] = field(default_factory=dict)
    service: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    ready: bool = False
    hellos: int = 0
    ticks: int = 0
    bye: str = ""
    """Why it ended, if it said so."""
    now: float = 0.0
    stale: bool = False
    over: bool = False

    def named(self, device_id: str) -> dict[str, Any]:
        """Return what is shown of a device; nothing if it is not shown."""
        return next((one for one in self.devices.values() if one["device_id"] == device_id), {})

    async def event(self) -> tuple[str, dict[str, Any]]:
        """Return the next event, which is as strictly written as it should be; "" at the end."""
        lines = []
        read = partial(self.answer.content.readuntil, b"\n", max_size=1 << 20)
        while (line := await read()) != b"\n":
            if not line:
                self.over = True
                return "", {}
            lines.append(line.decode().removesuffix("\n"))
        (name, data) = lines
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def take(self) -> str:  # noqa: C901, PLR0912 - one case for each kind of event
        """Take the next event in, and return its name."""
        name, data = await self.event()
        match name:
            case "hello":
                self.hello, self.devices, self.ready = data, {}, False
                self.hellos += 1
            case "devices":
                assert 0 < len(data["devices"]) <= 500
                self.devices |= {one["n"]: one for one in data["devices"]}
            case "ready":
                self.ready = True
            case "tick":
                assert self.ready
                self.ticks += 1
                self.now = data["now"]
                self.stale = data.get("stale", False)
                self.hello["of"] = data.get("of", self.hello["of"])
                for second, numbers in data.get("seen", []):
                    for n in numbers:
                        self.devices[n]["seen"] = second
                for presence, since, numbers in data.get("presence", []):
                    for n in numbers:
                        self.devices[n] |= {"presence": presence, "presence_since": since}
                for n, *location in data.get("moved", []):
                    self.devices[n]["location"] = location
                for n in data.get("gone", []):
                    del self.devices[n]
            case "events":
                self.events += data["events"]
                for type_, count in data["counts"].items():
                    self.counts[type_] = self.counts.get(type_, 0) + count
            case "service":
                self.service = {one["name"]: one for one in data["targets"]}
            case "bye":
                self.bye = data["reason"]
            case _:
                assert not name
        return name

    async def until(self, condition: Callable[["Live"], Any]) -> None:
        """Take events in until a condition holds, or the stream ends, which it must not."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self):
                assert not self.over
                await self.take()

    async def ends(self) -> str:
        """Take events in until the stream ends, and return why."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.over:
                await self.take()
        return self.bye


@asynccontextmanager
async def live(
    session: Any, key: str, group_id: str = "family", url: str = "", **options: Any
) -> AsyncIterator[Live]:
    """Watch a group while the block runs; what it has to begin with is taken in.

    Args:
        session: an aiohttp client.
        key: the API key.
        group_id: the group.
        url: what the path is below.
        options: of the request.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_read=PATIENCE_S)
    async with session.get(
        f"{url}/api/v1/live?group_id={group_id}",
        headers={"X-API-Key": key},
        timeout=timeout,
        **options,
    ) as response:
        assert response.status == 200, await response.text()
        stream = Live(response)
        await stream.until(lambda seen: seen.ready)
        yield stream
        response.close()
