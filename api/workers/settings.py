"""The settings of one worker: its share of those of the service, and what a reload reads again."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, Final

from api.config import Settings, SettingsError
from api.load_settings import load_settings

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


def read_again(config: str | None, workers: int, configured: int | None) -> Settings:
    """Return the settings of the service, as they are now.

    Args:
        config: the file; None for the default.
        workers: how many there are.
        configured: what `server.workers` was at the start of the service, 0 included; None if the
            command line took its place.

    Raises:
        SettingsError: they are wrong, or `server.workers` has changed.
    """
    settings = load_settings(None if config is None else Path(config))
    if configured is not None and settings.server.workers != configured:
        raise SettingsError(has_changed("server.workers"))
    server = settings.server.model_copy(update={"workers": workers})
    return settings.model_copy(update={"server": server})


def has_changed(name: str) -> str:
    """Return the message for a setting that a reload cannot change."""
    return f"{name} has changed, which takes a restart; a reload cannot change it"


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
