"""A batched write-behind activity tracker: when was this device, key or user last active?

Record touches in memory with `Tracker.touch` or `activity_middleware`; they are written to
Postgres in the background, one bulk UPDATE per table.
"""

from tracker._buffer.buffer import View, no_touches
from tracker.aiohttp import activity_middleware
from tracker.errors import (
    ConfigurationError,
    FlushError,
    RowRejected,
    StoreContended,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TrackerError,
)
from tracker.keys import Key, KeyType
from tracker.prometheus import TrackerCollector
from tracker.target import Target
from tracker.tracker import Tracker

__all__ = [
    "ConfigurationError",
    "FlushError",
    "Key",
    "KeyType",
    "RowRejected",
    "StoreContended",
    "StoreError",
    "StoreMisconfigured",
    "StoreTimeout",
    "StoreUnavailable",
    "Target",
    "Tracker",
    "TrackerCollector",
    "TrackerError",
    "View",
    "activity_middleware",
    "no_touches",
]
