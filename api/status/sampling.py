"""The sampler: takes samples of a service and derives its state from the last two."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

import aiohttp
import msgspec
from yarl import URL

from api.handlers.readiness import Readiness
from api.status.client import Sample, open_session, take_sample
from api.status.derived import derive_values, has_restarted
from api.status.findings import Finding, findings
from api.status.values import DerivedValues

_TIMEOUT_S: Final = 5.0
"""For each response. The service waits up to 2 seconds for its database before it responds."""


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a service, as `status` shows it and prints it as JSON."""

    url: str
    at: datetime
    """By the service's own clock, in UTC."""
    state: Literal["ready", "not_ready", "unreachable"]
    problems: dict[str, str]
    degraded: dict[str, str]
    warnings: dict[str, str]
    findings: list[Finding]
    figures: DerivedValues | None
    stale_s: float | None
    """Seconds by which the figures are older than the state; None if both are of one sample."""
    restarted: bool
    """Whether the process has changed since the first sample."""


class Sampler:
    """Takes samples of a service.

    Args:
        url: the service's URL.
    """

    def __init__(self, url: URL) -> None:
        self.state: ServiceState | None = None
        self.since_monotonic_s = time.monotonic()
        """When the first of the samples with this state was taken."""
        self._url = url
        self._last_with_metrics: Sample | None = None
        self._restarted = False

    async def sample(self, session: aiohttp.ClientSession) -> ServiceState:
        """Take one more sample, and return the state.

        Args:
            session: from `open_session`.
        """
        newest = await take_sample(session, self._url, _TIMEOUT_S)
        earlier, known = self._last_with_metrics, self.state
        values, stale_s = derive_values(earlier, newest), None
        if newest.metrics is not None:
            if earlier is not None and earlier.metrics is not None:
                self._restarted |= has_restarted(earlier.metrics, newest.metrics)
            self._last_with_metrics = newest
        found = findings(newest, values)
        if values is None and known is not None and earlier is not None:
            values, stale_s = known.figures, newest.monotonic_s - earlier.monotonic_s
        state = "unreachable" if newest.readiness is None else newest.readiness.status
        if known is None or known.state != state:
            self.since_monotonic_s = newest.monotonic_s
        self.state = ServiceState(
            url=str(self._url.with_user(None)).rstrip("/"),
            at=datetime.fromtimestamp(newest.at, UTC),
            state=state,
            problems=_detailed(newest.readiness, lambda said: said.problems),
            degraded=_detailed(newest.readiness, lambda said: said.degraded),
            warnings=_detailed(newest.readiness, lambda said: said.warnings),
            findings=found,
            figures=values,
            stale_s=stale_s,
            restarted=self._restarted,
        )
        return self.state


def _detailed(
    readiness: Readiness | None, codes: Callable[[Readiness], list[str]]
) -> dict[str, str]:
    """Return the details of each code; its public port gives none."""
    if readiness is None:
        return {}
    details = readiness.details or {}
    return {code: details.get(code, "") for code in codes(readiness)}


async def sample_twice(url: URL, every_s: float) -> ServiceState:
    """Return the state of a service, with rates.

    Args:
        url: the service's URL.
        every_s: seconds between the two samples.
    """
    sampler = Sampler(url)
    async with open_session() as session:
        started_s = time.monotonic()
        state = await sampler.sample(session)
        if state.figures is None:
            return state
        await asyncio.sleep(max(0.0, started_s + every_s - time.monotonic()))
        return await sampler.sample(session)
