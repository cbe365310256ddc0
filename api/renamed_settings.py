"""Settings under their old names: these work for one more release, with a warning for each."""

from collections.abc import Mapping
from typing import Any, Final

RENAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "server": {
        "max_head_bytes": "max_header_bytes",
        "head_timeout_s": "header_timeout_s",
        "answer_timeout_s": "response_timeout_s",
    },
    "ingest": {
        "group_rows": "batch_rows",
        "group_bytes": "batch_bytes",
        "groups_in_flight": "batches_in_flight",
    },
    "auth": {
        "unknown_s": "negative_ttl_s",
        "max_known": "cache_size",
        "max_unknown": "negative_cache_size",
    },
    "tracker": {
        "key_resolution_s": "api_key_resolution_s",
        "backoff_first_s": "backoff_initial_s",
        "backoff_most_s": "backoff_max_s",
    },
}
"""The old and the new name of each setting, by section."""


class BothNamesError(Exception):
    """A setting is given under its old and its new name; the message names both."""


def rename_in_file(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the sections of a file under the new names, and what was renamed.

    Args:
        values: sections with their settings; other values are returned unchanged.

    Returns:
        The sections, and pairs of an old and a new name, as `section.setting`.

    Raises:
        BothNamesError: a setting has both names.
    """
    renamed: list[tuple[str, str]] = []
    sections: dict[str, Any] = {}
    for section, settings in values.items():
        names = RENAMED.get(section, {})
        if not isinstance(settings, dict) or names.keys().isdisjoint(settings):
            sections[section] = settings
            continue
        sections[section] = {names.get(name, name): value for name, value in settings.items()}
        for old in names.keys() & settings.keys():
            if names[old] in settings:
                raise BothNamesError(_both(f"{section}.{old}", f"{section}.{names[old]}"))
            renamed.append((f"{section}.{old}", f"{section}.{names[old]}"))
    return sections, sorted(renamed)


def rename_in_environment(
    environment: Mapping[str, str | None], prefix: str
) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    """Return environment variables under the new names, and what was renamed.

    Args:
        environment: the variables; the case of their names does not matter.
        prefix: the prefix of the settings' variables, in upper case.

    Returns:
        The variables, and pairs of an old and a new name.

    Raises:
        BothNamesError: a setting has both names.
    """
    by_upper = {name.upper(): name for name in environment}
    variables, renamed = dict(environment), []
    for section, names in RENAMED.items():
        for old, new in names.items():
            given = by_upper.get(f"{prefix}{section}__{old}".upper())
            if given is None:
                continue
            now = f"{prefix}{section}__{new}".upper()
            if now in by_upper:
                raise BothNamesError(_both(given, now))
            # In the case of the old name: pydantic-settings compares in lower case.
            variables[now.lower() if given.islower() else now] = variables.pop(given)
            renamed.append((given, now))
    return variables, sorted(renamed)


def deprecation(old: str, new: str) -> str:
    """Return the warning about an old name, in one line."""
    return (
        f"setting {old} is called {new} now; the old name works in this release and not in the next"
    )


def _both(old: str, new: str) -> str:
    return f"{old} and {new} are one setting: remove {old}, which is the old name"
