"""Health, readiness and metrics: for machines that watch, so without a key and without a touch."""

from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.answers import json_answer
from api.auth import public
from api.database import Database
from api.migrate import HEAD
from tracker import StoreError, Tracker

_CHECK_DEADLINE_S: Final = 2.0


class HealthHandlers:
    """Handlers of /api/health and /metrics.

    Args:
        database: asked by readiness.
        tracker: its permanent errors make the service not ready; None when tracking is off.
        registry: what is scraped.
    """

    def __init__(
        self, database: Database, tracker: Tracker | None, registry: CollectorRegistry
    ) -> None:
        self._database = database
        self._tracker = tracker
        self._registry = registry

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        live, ready, metrics = public(self._live), public(self._ready), public(self._metrics)
        return [
            web.get("/api/health", live),
            web.get("/api/health/live", live),
            web.get("/api/health/ready", ready),
            web.get("/metrics", metrics),
        ]

    async def _live(self, _request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def _ready(self, _request: web.Request) -> web.Response:
        problems = {**await self._database_problems(), **self._flush_problems()}
        if problems:
            return json_answer({"status": "not_ready", "problems": problems}, 503)
        return json_answer({"status": "ready", "problems": {}})

    async def _database_problems(self) -> dict[str, str]:
        try:
            rows = await self._database.fetch(
                "SELECT version_num FROM alembic_version", deadline_s=_CHECK_DEADLINE_S
            )
        except StoreError as error:
            return {"database": str(error)}
        found = [row[0] for row in rows]
        if found != [HEAD]:
            return {"migrations": f"the schema is at {found}, this code needs {HEAD}"}
        return {}

    def _flush_problems(self) -> dict[str, str]:
        if self._tracker is None:
            return {}
        return {
            f"flush.{name}": str(flusher.permanent_error)
            for name, flusher in self._tracker.flushers.items()
            if flusher.permanent_error is not None
        }

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
