"""Health, readiness and metrics for monitoring: without an API key, and without a touch."""

import asyncio
from typing import Literal

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from api.access.authentication import Access, public
from api.handlers.exposition import Exposition
from api.handlers.openapi import Operation
from api.handlers.readiness import Readiness
from api.handlers.readiness_checks import Findings, ReadinessChecks
from api.http.limits import Limits
from api.http.pieces import body_of
from api.http.responses import json_response


class Health(msgspec.Struct, frozen=True):
    """The response of liveness."""

    status: Literal["ok"] = "ok"


class HealthHandlers:
    """Handlers of /api/health and /metrics.

    Args:
        checks: run by readiness.
        exposition: what is scraped.
        access: decides which API keys may read the details.
        limits: limit the unread bytes of clients of /metrics.
    """

    def __init__(
        self, checks: ReadinessChecks, exposition: Exposition, access: Access, limits: Limits
    ) -> None:
        self._checks = checks
        self._exposition = exposition
        self._access = access
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of health, which each port has."""
        return [*self._live_routes(), web.get("/api/health/ready", public(self._ready))]

    def metrics_routes(self, listener: str) -> list[web.RouteDef]:
        """Return the routes whose responses are not for every user of the API.

        Args:
            listener: the listener of these requests; each has its own share of the unread bytes.
        """

        @Operation(responses={200: str}, errors=(503,))
        async def metrics(_request: web.Request) -> web.Response:
            """Show all metrics in Prometheus's text format."""
            return await self._metrics(listener)

        return [web.get("/metrics", public(metrics))]

    def monitor_routes(self, listener: str) -> list[web.RouteDef]:
        """Return the routes of a port for monitoring only: metrics, health and details.

        Args:
            listener: as for `metrics_routes`.
        """
        ready = web.get("/api/health/ready", public(self._ready_with_details))
        return [*self._live_routes(), ready, *self.metrics_routes(listener)]

    def _live_routes(self) -> list[web.RouteDef]:
        live = public(self._live)
        return [web.get("/api/health", live), web.get("/api/health/live", live)]

    @Operation(responses={200: Health})
    async def _live(self, _request: web.Request) -> web.Response:
        """Report that the process responds."""
        return json_response(Health())

    @Operation(responses={200: Readiness, 503: Readiness})
    async def _ready(self, request: web.Request) -> web.Response:
        """Report whether requests can be served, in detail to an API key of no group."""
        detailed, found = await asyncio.gather(
            self._access.is_key_of_all_groups(request), self._checks.run()
        )
        return _readiness(found, detailed=detailed)

    async def _ready_with_details(self, _request: web.Request) -> web.Response:
        return _readiness(await self._checks.run(), detailed=True)

    async def _metrics(self, listener: str) -> web.Response:
        # Many slow clients may share one text in memory, but a new text is made each second.
        share = await self._limits.unsent.take(listener)
        try:
            text = await self._exposition.text()
        except BaseException:
            share.give_back()
            raise
        return body_of(text, share, CONTENT_TYPE_LATEST)


def _readiness(found: Findings, *, detailed: bool) -> web.Response:
    details = found.problems | found.degraded | found.warnings
    readiness = Readiness(
        "not_ready" if found.problems else "ready",
        problems=list(found.problems),
        degraded=list(found.degraded),
        warnings=list(found.warnings),
        details=details if detailed and details else msgspec.UNSET,
    )
    return json_response(readiness, 503 if found.problems else 200)
