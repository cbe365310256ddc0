"""The composition of the service: here its parts are made and given to each other."""

from api.app.application import (
    LISTENER,
    MONITOR,
    POLLS,
    READINESS,
    REGISTRY,
    REQUESTS,
    TRACKER,
    create_app,
)

__all__ = [
    "LISTENER",
    "MONITOR",
    "POLLS",
    "READINESS",
    "REGISTRY",
    "REQUESTS",
    "TRACKER",
    "create_app",
]
