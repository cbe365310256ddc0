"""The errors of the tracker, in one hierarchy.

TrackerError
├── ConfigurationError        a target or an option that cannot work; also a ValueError
├── FlushError                `flush()` could not commit everything; nothing is lost
└── StoreError                what a store raises instead of its driver's errors
    ├── StoreUnavailable      passing: the same write may succeed later
    │   ├── StoreTimeout      the server took too long; a smaller chunk may fare better
    │   └── StoreContended    somebody else holds a lock that the write needs
    ├── StoreMisconfigured    permanent: it fails until somebody changes something
    └── RowRejected            at least one row of the chunk is refused by the server

The driver's error is always kept as `__cause__`.
"""


class TrackerError(Exception):
    """Base of every error that the tracker raises on purpose."""


class ConfigurationError(TrackerError, ValueError):
    """A target or an option that cannot work, found before anything is started."""


class FlushError(TrackerError):
    """A flush left keys uncommitted; they are still in the buffer."""


class StoreError(TrackerError):
    """A chunk was not written, or it is unknown whether it was."""


class StoreUnavailable(StoreError):
    """The store is away, busy, or failed in the middle: try again later."""


class StoreTimeout(StoreUnavailable):
    """The write took longer than it may; a smaller chunk may pass."""


class StoreContended(StoreUnavailable):
    """Somebody else holds a lock that the write needs."""


class StoreMisconfigured(StoreError):
    """The table, the column or a permission is missing: trying again helps only after a change."""


class RowRejected(StoreError):
    """The server refuses a row of the chunk; the other rows are innocent."""
