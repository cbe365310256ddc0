"""Decides whether keys have no row, or the table only does not show their rows.

A policy of row-level security, another table of the same name on the search path, or a table that
was replaced may hide rows that exist. Their touches must not be discarded, so a flush in which no
key has a row, or suddenly most have none, is checked before its keys count as missing.
"""

from typing import Final

from tracker._flush.store import Store
from tracker.errors import StoreMisconfigured

_MANY_KEYS: Final = 100
"""Fewer missing keys are nothing sudden, unless no key of the flush has a row."""
_USUAL_SHARE: Final = 0.5
"""If at most this share of earlier flushes was missing, more than it is sudden."""
_WEIGHT: Final = 0.2
"""Of the latest flush in the moving average of the share."""


class MissingKeys:
    """Judges flushes of one target by how many of their keys have no row.

    Args:
        store: is asked whether it may hide rows.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._share: float | None = None  # of missing keys in earlier flushes

    async def believe(self, missing: int, found: int) -> None:
        """Return if the missing keys of a flush have no row.

        Args:
            missing: how many keys had no row.
            found: how many had one.

        Raises:
            StoreMisconfigured: their rows may exist and be hidden.
            StoreError: the store cannot say.
        """
        if self._is_odd(missing, found) and (reason := await self._store.hides_rows()):
            raise StoreMisconfigured(
                f"{missing} of {missing + found} keys have no row, or it is hidden: {reason}"
            )
        if missing + found >= _MANY_KEYS:
            share = missing / (missing + found)
            self._share = (
                share if self._share is None else self._share * (1 - _WEIGHT) + (share * _WEIGHT)
            )

    def _is_odd(self, missing: int, found: int) -> bool:
        if not found:
            return missing > 0
        usual = self._share is not None and self._share <= _USUAL_SHARE
        return usual and missing >= _MANY_KEYS and missing > found
