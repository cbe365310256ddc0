"""Composition of the metrics: the registry of this process, and what a scrape of it returns."""

from importlib.metadata import version
from platform import python_version

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.registry import Collector

from api.config import ServerSettings
from api.handlers.exposition import Exposition, exposition
from api.siblings import Siblings


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry with these collectors, the build's version and the process's metrics."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    build = Info("activity_build", "What is running; always 1.", registry=registry)
    build.info({"version": version("activity-tracker"), "python": python_version()})
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def scrapes_of(
    registry: CollectorRegistry, siblings: Siblings, server: ServerSettings
) -> Exposition:
    """Return the metrics of the whole service as text: those of this process if it is alone."""

    async def metrics() -> bytes:
        return await siblings.exposition() or await exposition(registry)

    return Exposition(metrics, max_age_s=server.metrics_max_age_s)
