"""Postgres: connection pools, the driver's errors as store errors, and the write of touches.

A service that is built on the library can use the same pools and the same translation of errors.
"""

from tracker.postgres._driver import (
    Connections,
    Pool,
    borrowed,
    connections,
    open_pool,
    reason,
    translate,
)

__all__ = [
    "Connections",
    "Pool",
    "borrowed",
    "connections",
    "open_pool",
    "reason",
    "translate",
]
