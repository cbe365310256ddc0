"""What one worker gets of settings that are for the whole service."""

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from api.config import Settings

_SHARED: Final = {
    "server": {"max_connections": 1},
    "database": {"pool_size": 2},
    "ingest": {"waiting_rows": 1, "waiting_bytes": 1},
    "live": {"max_streams": 1},
    "limits": {"unsent_bytes": 1, "reads": 1, "streams_per_key": 1},
}
"""The settings that are shared out, and the least that a worker gets."""


def share_of(settings: Settings, workers: int) -> Settings:
    """Return the settings of one worker.

    Args:
        settings: of the service.
        workers: how many share them.
    """
    sections = {}
    for section, names in _SHARED.items():
        of_service = getattr(settings, section)
        shares = {
            name: max(least, ceil(getattr(of_service, name) / workers))
            for name, least in names.items()
        }
        sections[section] = of_service.model_copy(update=shares)
    limits, pool_size = sections["limits"], sections["database"].pool_size
    sections["limits"] = limits.model_copy(
        update={
            "unsent_bytes_per_key": min(limits.unsent_bytes_per_key, limits.unsent_bytes),
            "reads_per_key": min(limits.reads_per_key, limits.reads),
        }
    )
    batches = min(settings.ingest.batches_in_flight, pool_size)
    sections["ingest"] = sections["ingest"].model_copy(update={"batches_in_flight": batches})
    return settings.model_copy(update=sections)


def dump_settings(settings: Settings) -> dict[str, Any]:
    """Return settings as plain values, by section, for another process."""
    return settings.model_dump()


def load_dumped(values: Mapping[str, Any]) -> Settings:
    """Return settings that `dump_settings` has dumped; the environment does not override them.

    Args:
        values: by section.
    """
    sections = {name: type(section)(**values[name]) for name, section in Settings.model_construct()}
    return Settings.model_construct(**sections)
