"""The columns that the service keeps up to date: one list, and everything else follows from it.

Metrics, the live page, `status`, the journal, the demo and the benchmarks have a row for each
entry. To add one, add it here, with a migration for its column.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, NamedTuple

from api.config import TrackerSettings
from tracker import KeyType, Target

DEVICES: Final = "devices"
"""The name of the target that heartbeats, uploads and X-Device-ID touch."""


class TrackedColumn(NamedTuple):
    """A target, and which requests touch it.

    Args:
        name: the name of the target in metrics, logs and settings.
        label: what it is called on the page.
        table: its table.
        key_column: the column that finds the row.
        column: the column to advance.
        key_type: the type of the key.
        resolution_setting: the setting of `[tracker]` that touches are rounded down to, if any.
        touched_by: the attribute of the authenticated `Principal` that is its key in every
            request; None if handlers name its keys, as they do for devices.
    """

    name: str
    label: str
    table: str
    key_column: str
    column: str
    key_type: KeyType
    resolution_setting: str | None = None
    touched_by: str | None = None


TRACKED: Final = [
    TrackedColumn(
        name=DEVICES,
        label="Devices",
        table="devices",
        key_column="device_id",
        column="last_seen_at",
        key_type="uuid",
        resolution_setting="device_resolution_s",
    ),
    TrackedColumn(
        name="api_keys",
        label="API keys",
        table="api_keys",
        key_column="id",
        column="last_used_at",
        key_type="bigint",
        resolution_setting="api_key_resolution_s",
        touched_by="key_id",
    ),
]


def targets(settings: TrackerSettings) -> list[Target]:
    """Return what the tracker is made with."""
    return [
        Target(
            name=each.name,
            table=each.table,
            key_column=each.key_column,
            column=each.column,
            key_type=each.key_type,
            resolution_s=getattr(settings, each.resolution_setting)
            if each.resolution_setting
            else 1,
            capacity_keys=settings.capacity_keys,
            high_water_keys=settings.high_water_keys,
        )
        for each in TRACKED
    ]


def names() -> list[str]:
    """Return the name of each target."""
    return [each.name for each in TRACKED]


def tables() -> list[str]:
    """Return the tables that touches are written to."""
    return [each.table for each in TRACKED]


def labels() -> dict[str, str]:
    """Return what each target is called on the page, by name."""
    return {each.name: each.label for each in TRACKED}


def keys_of_principal() -> list[tuple[str, Callable[[Any], object]]]:
    """Return the targets that every request touches, with what reads the key from a principal."""
    return [(each.name, attrgetter(each.touched_by)) for each in TRACKED if each.touched_by]
