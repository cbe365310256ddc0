"""Settings under their old names: these work for one more release, with a warning for each."""

from collections.abc import Mapping
from typing import Any, Final

RENAMED: Final[Mapping[str, str]] = {
    "server.max_head_bytes": "server.max_header_bytes",
    "server.head_timeout_s": "server.header_timeout_s",
    "server.answer_timeout_s": "server.response_timeout_s",
    "ingest.group_rows": "ingest.batch_rows",
    "ingest.group_bytes": "ingest.batch_bytes",
    "ingest.groups_in_flight": "ingest.batches_in_flight",
    "auth.unknown_s": "auth.negative_ttl_s",
    "auth.max_known": "auth.cache_size",
    "auth.max_unknown": "auth.negative_cache_size",
    "live.online_within_s": "presence.idle_after_s",
    "live.silent_after_s": "presence.offline_after_s",
    "tracker.key_resolution_s": "tracker.api_key_resolution_s",
    "tracker.backoff_first_s": "tracker.backoff_initial_s",
    "tracker.backoff_most_s": "tracker.backoff_max_s",
}
"""The old and the new name of each setting, as `section.setting`."""


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
    sections = {
        name: dict(section) if isinstance(section, dict) else section
        for name, section in values.items()
    }
    for old, new in RENAMED.items():
        (old_section, old_name), (new_section, new_name) = old.split("."), new.split(".")
        source = sections.get(old_section)
        if not isinstance(source, dict) or old_name not in source:
            continue
        target = sections.setdefault(new_section, {})
        if not isinstance(target, dict):
            continue  # an error that is found later
        if new_name in target:
            raise BothNamesError(_both(old, new))
        target[new_name] = source.pop(old_name)
        renamed.append((old, new))
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
    for old, new in RENAMED.items():
        given = by_upper.get(_variable(prefix, old))
        if given is None:
            continue
        now = _variable(prefix, new)
        if now in by_upper:
            raise BothNamesError(_both(given, now))
        # In the case of the old name: pydantic-settings compares in lower case.
        variables[now.lower() if given.islower() else now] = variables.pop(given)
        renamed.append((given, now))
    return variables, sorted(renamed)


def _variable(prefix: str, name: str) -> str:
    return (prefix + name.replace(".", "__")).upper()


def deprecation(old: str, new: str) -> str:
    """Return the warning about an old name, in one line."""
    return (
        f"setting {old} is called {new} now; the old name works in this release and not in the next"
    )


def _both(old: str, new: str) -> str:
    return f"{old} and {new} are one setting: remove {old}, which is the old name"
