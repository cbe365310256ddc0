"""Which store error an SQLSTATE stands for: try again, wait for a lock, or reject a row.

The classes are those of the appendix "PostgreSQL Error Codes" of the PostgreSQL manual. A class
that is in none of the sets concerns a row: data (22), constraints (23), limits such as the size of
an index entry (54), triggers (P0 and own ones). A trigger or a policy may raise any SQLSTATE for
one row, so the flusher tries whether a permanent error is that of a row after all.
"""

from typing import Final

from tracker.errors import (
    RowRejected,
    StoreContended,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
)

_BY_STATE: Final[dict[str, type[StoreError]]] = {
    "57014": StoreTimeout,  # query_canceled: the statement timeout
    "55P03": StoreContended,  # lock_not_available: the lock timeout
    "40P01": StoreContended,  # deadlock_detected
    "40001": StoreContended,  # serialization_failure
    "XX001": RowRejected,  # data_corrupted: the page of some row
    "XX002": RowRejected,  # index_corrupted
    "25P04": StoreTimeout,  # transaction_timeout
}
_TEMPORARY: Final = frozenset({"08", "25", "40", "53", "57", "58", "F0", "HV", "XX"})
"""The server, or a foreign server behind it, is unreachable, read-only, full, busy or broken."""
_PERMANENT: Final = frozenset({"0A", "26", "28", "3D", "3F", "42", "55"})
"""A table, column, schema, database, permission or password is missing, or the table is in no state
to be written: published without a replica identity, for example."""


def error_for(state: str, text: str) -> StoreError:
    """Return the store error that a server's error stands for.

    Args:
        state: the five characters of its SQLSTATE.
        text: its message.
    """
    kind = _BY_STATE.get(state)
    if kind is None and state[:2] in _TEMPORARY:
        kind = StoreUnavailable
    elif kind is None and state[:2] in _PERMANENT:
        kind = StoreMisconfigured
    return (kind or RowRejected)(f"{text} (SQLSTATE {state})")
