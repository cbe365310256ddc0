"""A view: the touches that are pending at one moment, to overlay on rows read afterwards."""

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

from tracker.keys import CANONICAL, Entries, Key


class View:
    """The touches that were pending when the view was taken.

    Take it *before* the SELECT: a touch is then in the view or in the table whatever flush commits
    in between, because the view keeps the maps that it saw. It shows touches that come later, too,
    until the next drain: of two views, one from before that drain and one from after it, one or the
    other has them all.
    """

    __slots__ = ("_canonical", "_maps")

    def __init__(self, maps: list[Entries], canonical: Callable[[object], Key]) -> None:
        self._maps: list[Mapping[Key, int]] = list(maps)
        self._canonical = canonical

    def __bool__(self) -> bool:
        """Whether anything is pending."""
        return any(self._maps)

    def get(self, key: object) -> int | None:
        """Return the second of the latest pending touch of `key`, or None.

        Args:
            key: as it comes out of the table; fastest as the `str` or `int` that is buffered, for
                uuids the text that Postgres prints.
        """
        if not isinstance(key, (str, int)):
            try:
                key = self._canonical(key)
            except (ValueError, TypeError):
                return None
        latest: int | None = None
        for entries in self._maps:
            second = entries.get(key)
            if second is not None and (latest is None or second > latest):
                latest = second
        return latest

    def latest(self, keys: Sequence[Key]) -> list[int]:
        """Return the second of the latest pending touch of each key, 0 where there is none.

        As `get` of each, for thousands of keys at once.

        Args:
            keys: as they are buffered: uuids as the text that Postgres prints.
        """
        columns = [list(map(entries.get, keys, repeat(0))) for entries in self._maps]
        if len(columns) == 1:
            return columns[0]
        return list(map(max, *columns)) if columns else [0] * len(keys)


def no_touches() -> View:
    """Return a view in which nothing is pending, for where tracking is off."""
    return View([], CANONICAL["text"])
