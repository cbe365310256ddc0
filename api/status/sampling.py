"""Looking at a service again and again: what has become of it since the last look."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Literal

import aiohttp
import msgspec
from yarl import URL

from api.status.client import Look, look
from api.status.derived import Figures, figures, has_restarted
from api.status.findings import Finding, findings

_TIMEOUT_S: Final = 5.0
"""For both answers. Readiness gives the database 2 seconds."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a service."""

    url: str
    at: datetime
    """By the service's own clock, in UTC."""
    state: Literal["ready", "not_ready", "unreachable"]
    problems: dict[str, str]
    warnings: dict[str, str]
    findings: list[Finding]
    figures: Figures | None
    stale_s: float | None
    """Seconds that the figures are older than the state; None if they are of the same look."""
    restarted: bool
    """Whether another process answers than did at first."""


class Watch:
    """Looks at a service.

    Args:
        url: its address.
    """

    def __init__(self, url: URL) -> None:
        self.state: State | None = None
        self.since_monotonic_s = time.monotonic()
        """Since when it has been in this state, as far as we know."""
        self._url = url
        self._counted: Look | None = None
        """The last look that had metrics."""
        self._restarted = False

    async def look(self, session: aiohttp.ClientSession) -> State:
        """Look once more, and return what is known now."""
        newest = await look(session, self._url, _TIMEOUT_S)
        earlier, known = self._counted, self.state
        shown, stale_s = figures(earlier, newest), None
        if newest.metrics is not None:
            if earlier is not None and earlier.metrics is not None:
                self._restarted |= has_restarted(earlier.metrics, newest.metrics)
            self._counted = newest
        wrong = findings(newest, shown)
        if shown is None and known is not None and earlier is not None:
            shown, stale_s = known.figures, newest.monotonic_s - earlier.monotonic_s
        state = "unreachable" if newest.readiness is None else newest.readiness.status
        if known is None or known.state != state:
            self.since_monotonic_s = newest.monotonic_s
        self.state = State(
            url=str(self._url.with_user(None)).rstrip("/"),
            at=datetime.fromtimestamp(newest.at, UTC),
            state=state,
            problems=newest.readiness.problems if newest.readiness else {},
            warnings=newest.readiness.warnings if newest.readiness else {},
            findings=wrong,
            figures=shown,
            stale_s=stale_s,
            restarted=self._restarted,
        )
        return self.state


@asynccontextmanager
async def asking() -> AsyncIterator[aiohttp.ClientSession]:
    """Make what looks are made with; it unpacks nothing, as what is small may come out large."""
    async with aiohttp.ClientSession(
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


async def look_twice(url: URL, every_s: float) -> State:
    """Return the state of a service, with rates.

    Args:
        url: its address.
        every_s: seconds between the looks.
    """
    watch = Watch(url)
    async with asking() as session:
        started_s = time.monotonic()
        state = await watch.look(session)
        if state.figures is None:
            return state
        await asyncio.sleep(max(0.0, started_s + every_s - time.monotonic()))
        return await watch.look(session)
