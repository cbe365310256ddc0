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
from tracker.postgres._dsn import Dsn, read_dsn

__all__ = [
    "Connections",
    "Dsn",
    "Pool",
    "borrowed",
    "connections",
    "open_pool",
    "read_dsn",
    "reason",
    "translate",
]
