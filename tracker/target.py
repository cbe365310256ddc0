"""A target: one timestamp column that touches are written to, and how much of it is buffered."""

from dataclasses import dataclass

from tracker.errors import ConfigurationError
from tracker.keys import CANONICAL, KeyType

_MAX_IDENTIFIER_BYTES = 63
"""Postgres truncates longer identifiers silently, so two names could mean the same table."""
_FORBIDDEN = frozenset("\"'`;\\")
"""Quoting would make them harmless, but a name with one of them is almost certainly a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A `TIMESTAMPTZ` column and the key that finds its row.

    Args:
        name: what this target is called in `touch()`, metrics and logs.
        table: the table, not a view, optionally as `schema.table`. Identifiers are quoted, so case
            matters and spaces are allowed.
        key_column: the column that finds the row; it must have a unique index.
        column: the `TIMESTAMPTZ` column to advance. Put no index on it: it would make every write
            expensive.
        key_type: the Postgres type of `key_column`; `text` is for text and varchar. A char(n) or
            citext column does not work: its index would not be used, and each key would cost a scan
            of the table.
        resolution_s: touches are rounded down to a multiple of this, in seconds.
        capacity_keys: the most distinct keys held in memory; further ones are dropped and counted.
        high_water_keys: number of keys at which a flush starts early; by default half of capacity.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    name: str
    table: str
    key_column: str
    column: str
    key_type: KeyType
    resolution_s: int = 1
    capacity_keys: int = 1_000_000
    high_water_keys: int | None = None

    def __post_init__(self) -> None:
        """Reject what could only fail later, at the first flush."""
        if not self.name:
            raise ConfigurationError("a target needs a name")
        for part in (*self.table.split("."), self.key_column, self.column):
            # isprintable() also rejects lone surrogates, which cannot be encoded.
            if (
                not part.isprintable()
                or not 1 <= len(part.encode()) <= _MAX_IDENTIFIER_BYTES
                or _FORBIDDEN & set(part)
            ):
                raise ConfigurationError(
                    f"target {self.name}: {part!r:.100} is no identifier of 1 to "
                    f"{_MAX_IDENTIFIER_BYTES} bytes without quotes, semicolons, backslashes and "
                    "control characters"
                )
        if self.table.count(".") > 1:
            raise ConfigurationError(f"target {self.name}: {self.table!r} is no [schema.]table")
        if self.key_type not in CANONICAL:
            raise ConfigurationError(
                f"target {self.name}: key_type {self.key_type!r} is none of {', '.join(CANONICAL)}"
            )
        if self.resolution_s < 1 or self.resolution_s != int(self.resolution_s):
            raise ConfigurationError(f"target {self.name}: resolution_s must be 1 or more, whole")
        if self.capacity_keys < 1:
            raise ConfigurationError(f"target {self.name}: capacity_keys must be at least 1")
        if not 1 <= self.high_water <= self.capacity_keys:
            raise ConfigurationError(
                f"target {self.name}: high_water_keys must be between 1 and capacity_keys"
            )

    @property
    def high_water(self) -> int:
        """The number of keys at which a flush starts early."""
        return (
            (self.capacity_keys + 1) // 2 if self.high_water_keys is None else self.high_water_keys
        )
