"""Looks at services, real and made up, and what a terminal shows of them."""

import io
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console
from yarl import URL

from api.handlers.readiness import Readiness
from api.status.client import Sample, open_session
from api.status.sampling import Sampler, ServiceState
from api.status.scrape import parse_metrics
from api.status.screen import screen

READY = {"status": "ready", "problems": [], "degraded": [], "warnings": []}
BUILD = 'activity_build_info{version="9.8.7",python="3"} 1\n'


def shown(state: ServiceState, width: int = 80) -> str:
    """Return what a terminal without colours shows."""
    text = io.StringIO()
    Console(file=text, width=width, markup=False, emoji=False, highlight=False).print(screen(state))
    return text.getvalue()


class Stub:
    """A server that sends given responses."""

    def __init__(self) -> None:
        self.ready = web.json_response(READY)
        self.metrics = BUILD

    @asynccontextmanager
    async def serving(self, port: int | None = None):
        """Answer at an address, until the block ends."""

        async def ready(_request):
            return web.json_response(body=self.ready.body, status=self.ready.status)

        async def metrics(_request):
            return web.Response(text=self.metrics)

        app = web.Application()
        app.router.add_get("/api/health/ready", ready)
        app.router.add_get("/metrics", metrics)
        async with TestServer(app, port=port) as server:
            yield server.make_url("")


@asynccontextmanager
async def watching(url: URL):
    """Give a function that takes one more sample."""
    sampler = Sampler(url)
    async with open_session() as session:
        yield lambda: sampler.sample(session)


def sample_of(metrics: str, readiness: Readiness | None = None, at: float = 10_000.0) -> Sample:
    return Sample(
        at=at,
        monotonic_s=at,
        readiness=readiness or Readiness("ready"),
        error=None,
        metrics=parse_metrics(metrics),
        metrics_error=None,
    )
