"""A view: the touches that are pending at one moment, to overlay on rows read afterwards."""

from collections.abc import Mapping, Sequence
from copy import copy
from itertools import repeat
from typing import Any, Final

from tracker.keys import CANONICAL, PLAIN, Entries, Key, KeyType

_PRINTED_UUID: Final = 36
"""Characters of a uuid with all its hyphens."""


class View:
    """The touches that were pending when the view was taken.

    Take it *before* the SELECT. If a flush commits in between, a touch is then in the view or in
    the rows, because the view keeps the maps of its moment. Until the next drain the view also
    shows touches that come later. After a drain, take a new view to see new touches.
    """

    __slots__ = ("_canonical", "_is_uuid", "_maps", "_plain")

    def __init__(self, maps: list[Entries], key_type: KeyType) -> None:
        self._maps: list[Mapping[Key, int]] = list(maps)
        self._canonical = CANONICAL[key_type]
        self._plain = PLAIN[key_type]
        self._is_uuid = key_type == "uuid"

    def __bool__(self) -> bool:
        """Whether anything is pending."""
        return any(self._maps)

    def get(self, key: object) -> int | None:
        """Return the second of the latest pending touch of `key`, or None.

        Args:
            key: in any spelling that `touch` accepts. Fastest is the form that is buffered: `int`,
                or `str`, which for uuids is the text that Postgres prints.
        """
        if type(key) is not self._plain or (self._is_uuid and not _is_printed(key)):  # type: ignore[arg-type]
            try:
                key = self._canonical(key)
            except Exception:  # noqa: BLE001 - as in `Buffer.touch`: what is no key has no touch
                return None
        latest: int | None = None
        for entries in self._maps:
            second = entries.get(key)
            if second is not None and (latest is None or second > latest):
                latest = second
        return latest

    def latest(self, keys: Sequence[Key]) -> list[int]:
        """Return the second of the latest pending touch of each key, 0 where there is none.

        It does the same as `get`, faster, for thousands of keys at once.

        Args:
            keys: in the form that is buffered: `int`, or `str`, uuids as Postgres prints them.
        """
        columns = [list(map(entries.get, keys, repeat(0))) for entries in self._maps]
        if len(columns) == 1:
            return columns[0]
        return list(map(max, *columns)) if columns else [0] * len(keys)

    def including(self, touches: Mapping[Any, int]) -> "View":
        """Return a view that also has other touches, such as those of another process.

        Args:
            touches: the second of each key, in the form that is buffered: see `latest`.
        """
        if not touches:
            return self
        view = copy(self)
        view._maps = [*self._maps, touches]  # noqa: SLF001 - our own copy
        return view


def _is_printed(key: str) -> bool:
    """Return whether a uuid, if it is one, is written as Postgres prints it."""
    return len(key) == _PRINTED_UUID and key == key.lower()


def no_touches() -> View:
    """Return a view in which nothing is pending, for when tracking is off."""
    return View([], "text")
