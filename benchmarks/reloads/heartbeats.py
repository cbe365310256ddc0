"""Heartbeats on connections that are kept and on new ones; what has become of each is recorded."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

_PATIENCE_S: Final = 20.0
_POLL_S: Final = 0.02
_MAX_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """A heartbeat without the response 204; times are of the monotonic clock, in seconds.

    Attributes:
        what: the status, or the error.
        connected_at: when its connection was opened.
        sent_at: when it was sent.
        at: when it had failed.
    """

    what: str
    connected_at: float
    sent_at: float
    at: float


@dataclass(slots=True)
class Outcomes:
    """What has become of heartbeats.

    Attributes:
        answered: the number of responses 204, by whether the connection is kept.
        failures: all others.
        acknowledged: when the last acknowledged heartbeat of each device was sent, in epoch
            seconds.
        slowest_s: the longest time from a request to its response, in seconds.
    """

    answered: Counter[bool] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    acknowledged: dict[str, float] = field(default_factory=dict)
    slowest_s: float = 0.0
    is_over: bool = False

    async def reach(self, answered: int) -> None:
        """Wait until so many were answered."""
        while self.answered.total() < answered:
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def heartbeats(
    url: str, key: str, device_ids: Sequence[str], *, kept: int, pauses: float
) -> AsyncIterator[Outcomes]:
    """Send heartbeats while the block runs; each device sends the next after the response.

    Args:
        url: of the service.
        key: the API key.
        device_ids: the devices.
        kept: how many of them keep their connection; each heartbeat of the others has a new one.
        pauses: the share of responses after which a client pauses, for 0.1 s at most, so that some
            connections are idle.
    """
    outcomes = Outcomes()
    clients = [
        _Client(url, key, device_id, outcomes, is_kept=number < kept)
        for number, device_id in enumerate(device_ids)
    ]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(pauses))
        try:
            yield outcomes
        finally:
            outcomes.is_over = True


class _Client:
    """One device."""

    def __init__(
        self, url: str, key: str, device_id: str, outcomes: Outcomes, *, is_kept: bool
    ) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        lines = [
            f"POST /api/v1/devices/{device_id}/heartbeat HTTP/1.1",
            f"Host: {parts.netloc}",
            f"X-API-Key: {key}",
            "Content-Length: 0",
            *([] if is_kept else ["Connection: close"]),
        ]
        self._request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
        self._device_id = device_id
        self._outcomes = outcomes
        self._is_kept = is_kept
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._connected_at = 0.0

    async def run(self, pauses: float) -> None:
        """Send one heartbeat after the other until they are over."""
        while not self._outcomes.is_over:
            await self._beat()
            if random.random() < pauses:
                await asyncio.sleep(random.uniform(0, _MAX_PAUSE_S))
        self._close()

    async def _beat(self) -> None:
        sent_at, since = time.monotonic(), time.time()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                status = await self._status()
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        now = time.monotonic()
        if status == "204":
            self._outcomes.answered[self._is_kept] += 1
            self._outcomes.acknowledged[self._device_id] = since
            self._outcomes.slowest_s = max(self._outcomes.slowest_s, now - sent_at)
        else:
            self._outcomes.failures.append(Failure(status, self._connected_at, sent_at, now))
            self._close()

    async def _status(self) -> str:
        if self._connection is not None and self._connection[0].at_eof():
            self._close()  # the service has closed it while it was idle, as it may
        if self._connection is None:
            self._connected_at = time.monotonic()
            self._connection = await asyncio.open_connection(*self._address)
        reader, writer = self._connection
        writer.write(self._request)
        header = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"connection: close" in header or not self._is_kept:
            self._close()
        return header.split(b" ", 2)[1].decode()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None
