"""Health, readiness and metrics: for machines that watch, so without a key and without a touch."""

import asyncio
import time
from typing import Final, Literal

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from api.access.authentication import Access, public
from api.access.revocations import Revocations
from api.handlers.exposition import Exposition
from api.handlers.openapi import Operation
from api.handlers.readiness import Readiness
from api.http.limits import Limits
from api.http.pieces import body_of
from api.http.responses import json_response
from api.postgres.database import Database
from api.postgres.revisions import HEAD, SELECT_REVISIONS, is_newer
from tracker import StoreError, StoreMisconfigured, Tracker

_CHECK_DEADLINE_S: Final = 2.0
_CHECK_EVERY_S: Final = 1.0


class Health(msgspec.Struct, frozen=True):
    """That the event loop turns."""

    status: Literal["ok"] = "ok"


class HealthHandlers:
    """Handlers of /api/health and /metrics.

    Args:
        database: asked by readiness.
        tracker: its permanent errors make the service not ready, and a journal with a gap is worth
            a warning; None when tracking is off.
        revocations: so does not knowing of revoked keys.
        exposition: what is scraped.
        access: decides who may read the details.
        limits: bound what clients of /metrics have not read.
    """

    def __init__(
        self,
        database: Database,
        tracker: Tracker | None,
        revocations: Revocations,
        *,
        exposition: Exposition,
        access: Access,
        limits: Limits,
    ) -> None:
        self._database = database
        self._tracker = tracker
        self._revocations = revocations
        self._exposition = exposition
        self._access = access
        self._limits = limits
        self._one_at_a_time = asyncio.Lock()
        self._problems: dict[str, str] = {}
        self._checked_at = float("-inf")

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of health, which belong wherever requests come in."""
        return [*self._live_routes(), web.get("/api/health/ready", public(self._ready))]

    def metrics_routes(self, listener: str) -> list[web.RouteDef]:
        """Return the routes that tell too much to be shown to everybody who may use the API.

        Args:
            listener: where requests come in; each has its own share of what clients have not read.
        """

        @Operation(answers={200: str}, refuses=(503,))
        async def metrics(_request: web.Request) -> web.Response:
            """Show all metrics in Prometheus's text format."""
            return await self._metrics(listener)

        return [web.get("/metrics", public(metrics))]

    def monitor_routes(self, listener: str) -> list[web.RouteDef]:
        """Return the routes of a port that only monitoring reaches: metrics, health, details.

        Args:
            listener: as for `metrics_routes`.
        """
        ready = web.get("/api/health/ready", public(self._ready_with_details))
        return [*self._live_routes(), ready, *self.metrics_routes(listener)]

    def _live_routes(self) -> list[web.RouteDef]:
        live = public(self._live)
        return [web.get("/api/health", live), web.get("/api/health/live", live)]

    @Operation(answers={200: Health})
    async def _live(self, _request: web.Request) -> web.Response:
        """Tell that the event loop turns."""
        return json_response(Health())

    @Operation(answers={200: Readiness, 503: Readiness})
    async def _ready(self, request: web.Request) -> web.Response:
        """Report whether requests can be served, in detail to an API key of no group."""
        detailed, problems = await asyncio.gather(
            self._access.is_key_of_all_groups(request), self._database_problems()
        )
        return self._readiness(problems, detailed=detailed)

    async def _ready_with_details(self, _request: web.Request) -> web.Response:
        return self._readiness(await self._database_problems(), detailed=True)

    def _readiness(self, database: dict[str, str], *, detailed: bool) -> web.Response:
        problems, warnings = database | self._own_problems(), self._warnings()
        found = Readiness(
            "not_ready" if problems else "ready",
            list(problems),
            list(warnings),
            problems | warnings if detailed else {},
        )
        return json_response(found, 503 if problems else 200)

    async def _database_problems(self) -> dict[str, str]:
        """Ask the database, once a second however many ask us: anybody may."""
        async with self._one_at_a_time:
            if time.monotonic() - self._checked_at >= _CHECK_EVERY_S:
                self._problems = await self._ask_database()
                self._checked_at = time.monotonic()
            return self._problems

    async def _ask_database(self) -> dict[str, str]:
        try:
            rows = await self._database.fetch(SELECT_REVISIONS, deadline_s=_CHECK_DEADLINE_S)
        except StoreError as error:
            return {"database": str(error)}
        found = [row[0] for row in rows]
        # A newer one is that of a newer process beside us.
        if HEAD not in found and not any(map(is_newer, found)):
            return {"migrations": f"the schema is at {found}, this code needs {HEAD}"}
        return {}

    def _own_problems(self) -> dict[str, str]:
        problems = {}
        if isinstance(self._revocations.error, StoreMisconfigured):
            problems["revocations"] = str(self._revocations.error)
        if self._tracker is not None:
            for name, flusher in self._tracker.flush_loops.items():
                if flusher.permanent_error is not None:
                    problems[f"flush.{name}"] = str(flusher.permanent_error)
        return problems

    def _warnings(self) -> dict[str, str]:
        """Return what keeps no request from being served.

        Without a journal touches are safe from everything but a crash. A process that is taken out
        of service for it serves nobody, and a disk that is full is mostly full for all processes.
        """
        if self._tracker is None:
            return {}
        return {
            f"journal.{name}": "a crash would lose touches now: the log has said why, "
            f"with journal.degraded ({buffer.journal.missed} missed since the start)"
            for name, buffer in self._tracker.buffers.items()
            if buffer.journal is not None and buffer.journal.degraded
        }

    async def _metrics(self, listener: str) -> web.Response:
        # One body may be kept by many slow clients, but each second brings another one.
        share = await self._limits.unsent.take(listener)
        try:
            text = await self._exposition.text()
        except BaseException:
            share.give_back()
            raise
        return body_of(text, share, CONTENT_TYPE_LATEST)
