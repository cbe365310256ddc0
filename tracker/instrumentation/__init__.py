"""Metrics and log lines that are cheap enough for the path of a request."""

from tracker.instrumentation._families import Family, families
from tracker.instrumentation._histogram import Histogram
from tracker.instrumentation._log import Log
from tracker.instrumentation._throttle import LogThrottle

__all__ = ["Family", "Histogram", "Log", "LogThrottle", "families"]
