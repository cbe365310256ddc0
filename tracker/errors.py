"""The errors of the tracker, in one hierarchy.

TrackerError
├── ConfigurationError        a target or an option that cannot work; also a ValueError
├── FlushError                `flush()` could not commit everything; nothing is lost
└── StoreError                what a store raises instead of its driver's errors
    ├── StoreUnavailable      temporary: the same write may succeed later
    │   ├── StoreTimeout      the server took too long; a smaller chunk may succeed
    │   └── StoreContended    another transaction holds a lock that the write needs
    ├── StoreMisconfigured    permanent: fails until the table or the configuration is changed
    └── RowRejected           the server rejects at least one row of the chunk

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
    """The store is unreachable, busy, or failed during the write: try again later."""


class StoreTimeout(StoreUnavailable):
    """The write took too long; a smaller chunk may succeed."""


class StoreContended(StoreUnavailable):
    """Another transaction holds a lock that the write needs."""


class StoreMisconfigured(StoreError):
    """The table, the column or a permission is missing: a retry helps only after a change."""


class RowRejected(StoreError):
    """The server rejects a row of the chunk; the other rows could be written without it."""
