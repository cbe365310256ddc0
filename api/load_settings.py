"""Reads the settings from config.toml and the environment, and words what is wrong with them.

A value in the environment overrides the value in the file.
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from api.config import PREFIX, Settings, SettingsError
from api.renamed_settings import BothNamesError, rename_in_environment, rename_in_file

DEFAULT_FILE: Final = Path("config.toml")
_SECRET: Final = {"database", "database.url"}
"""Settings that may contain a password: error messages leave their values out."""


def load_settings(
    file: Path | None = None, *, warn: Callable[[str, str], None] = lambda _old, _new: None
) -> Settings:
    """Read the settings from a file and the environment.

    Args:
        file: a TOML file; by default config.toml in the working directory, if it exists.
        warn: called with the old and the new name of each setting that is given by its old name.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown, of a wrong type or out of
            range.
    """
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    try:
        from_file, renamed = rename_in_file({} if file is None else _read(file))
        environment, renamed_there = rename_in_environment(os.environ, PREFIX)
    except BothNamesError as error:
        raise SettingsError(str(error)) from error
    if file is not None:
        _check_file(from_file, file)
    _reject_unknown_environment(environment)
    try:
        settings = Settings(**from_file)
    except ValidationError as error:
        raise SettingsError(_one_line(error, "the environment")) from error
    for old, new in (*renamed, *renamed_there):
        warn(old, new)
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings from {file}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the settings from {file}: {error}") from error


def _check_file(values: Mapping[str, Any], file: Path) -> None:
    sections = _sections()
    for name in values:
        if name not in sections:
            raise SettingsError(
                f"bad settings in {file}: unknown setting {name!r:.60}{_hint(name, _names())}"
            )
    for name, section in sections.items():
        try:
            # TOML has types, so values are not converted: the string "8080" is not a port.
            section.model_validate(values.get(name, {}), strict=True)
        except ValidationError as error:
            raise SettingsError(_one_line(error, str(file), name)) from error


def _sections() -> dict[str, type[BaseModel]]:
    return {name: type(section) for name, section in Settings.model_construct()}


def _reject_unknown_environment(environment: Iterable[str]) -> None:
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX):
            continue
        section, _, setting = name[len(PREFIX) :].lower().partition("__")
        sections = _sections()
        if section not in sections or setting not in sections[section].model_fields:
            known = {f"{PREFIX}{one.replace('.', '__').upper()}" for one in _names() if "." in one}
            raise SettingsError(f"unknown setting in the environment: {name}{_hint(name, known)}")


def _names() -> set[str]:
    """Return the names of all sections, and of all settings as section.setting."""
    sections = _sections()
    settings = {f"{name}.{one}" for name, of in sections.items() for one in of.model_fields}
    return settings | set(sections)


def _hint(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the most similar one that is known."""
    near = get_close_matches(name, known, n=1)
    return f": did you mean {near[0]}?" if near else ": see config.toml for all settings"


def _one_line(error: ValidationError, source: str, *section: str) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        name = ".".join(map(str, (*section, *problem["loc"])))
        message = problem["msg"].removeprefix("Value error, ")
        if not name:  # a relation between sections, which may have several sources
            source = "the file and the environment taken together"
            problems.append(message)
        elif problem["type"] == "extra_forbidden":
            problems.append(f"unknown setting {name!r}{_hint(name, _names())}")
        elif isinstance(problem["input"], dict):  # the value of a whole section is too long to show
            problems.append(f"{name}: {message}")
        else:
            shown = "…" if name in _SECRET else f"{problem['input']!r:.60}"
            problems.append(f"{name} = {shown}: {message}")
    return f"bad settings in {source}: {'; '.join(problems)}"
