"""The composition of the service: here its parts are made and given to each other."""

from api.app.application import (
    LISTENER,
    MONITOR,
    READINESS,
    REGISTRY,
    REQUESTS,
    REVOCATIONS,
    TRACKER,
    create_app,
)

__all__ = [
    "LISTENER",
    "MONITOR",
    "READINESS",
    "REGISTRY",
    "REQUESTS",
    "REVOCATIONS",
    "TRACKER",
    "create_app",
]
