"""The rows of the dashboard: the title of each, and the function that makes its panels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from api.monitoring.overview import at_a_glance
from api.monitoring.panels import Panel
from api.monitoring.presence_rows import presence
from api.monitoring.service_rows import process, requests, uploads
from api.monitoring.tracker_rows import flushes, losses
from api.monitoring.worker_rows import workers

ROWS: Final[Mapping[str, Callable[[], Sequence[Panel]]]] = {
    "Is anything being lost, or late?": at_a_glance,
    "Since when, and how much": losses,
    "Touches and flushes": flushes,
    "Requests": requests,
    "Uploads, keys and devices": uploads,
    "Presence and events": presence,
    "Connections and processes": process,
    "Workers": workers,
}
"""Titles, and what makes the panels."""
