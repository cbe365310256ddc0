"""A batched write-behind activity tracker: when was this device, key or user last active?

Record touches in memory with `Tracker.touch` or `activity_middleware`; they are written to
Postgres in the background, one bulk UPDATE per table.

What is exported here, and what the modules without a leading underscore export, is public.
"""

import warnings
from typing import TYPE_CHECKING

from tracker._buffer.view import View, no_touches
from tracker._journal.journal import MIN_JOURNAL_BYTES
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
from tracker.prometheus import TrackerCollector, exporting_metrics
from tracker.target import Target
from tracker.tracker import Tracker

if TYPE_CHECKING:
    from tracker.aiohttp import (
        activity_middleware,
        keep_touching,
        touch_prepared,
        touch_request,
    )

_OF_AIOHTTP = frozenset({"activity_middleware", "keep_touching", "touch_prepared", "touch_request"})

__all__ = [
    "MIN_JOURNAL_BYTES",
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
    "exporting_metrics",
    "keep_touching",
    "no_touches",
    "touch_prepared",
    "touch_request",
]


def __getattr__(name: str) -> object:
    """Return what is for aiohttp, or what a deprecated name stands for.

    aiohttp is imported when it is needed: a worker that serves no requests does without it.
    """
    if name in _OF_AIOHTTP:
        from tracker import aiohttp  # noqa: PLC0415

        return getattr(aiohttp, name)
    if name == "RowRefused":
        warnings.warn("RowRefused is now called RowRejected", DeprecationWarning, stacklevel=2)
        return RowRejected
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
