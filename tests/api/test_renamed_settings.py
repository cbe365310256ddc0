"""Settings under their old names: they work, with one warning each that names the new one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.config import Settings, SettingsError
from api.load_settings import load_settings
from api.renamed_settings import RENAMED

CHECKOUT = Path(__file__).parents[2]
CASES = [(section, old, new) for section, names in RENAMED.items() for old, new in names.items()]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """The config.toml of the checkout is not read."""
    monkeypatch.chdir(tmp_path)


def changed(section: str, setting: str) -> int:
    """Return a value that is not the default, and fits what else is set by default."""
    return int(getattr(getattr(Settings(), section), setting)) + 1


def test_no_old_name_is_in_use_and_every_new_one_is():
    """A name that came back would be two settings."""
    for section, old, new in CASES:
        settings = getattr(Settings(), section).model_dump()
        assert old not in settings
        assert new in settings


@pytest.mark.parametrize(("section", "old", "new"), CASES)
def test_an_old_name_works_in_the_file(section, old, new):
    """An upgrade does not require a change of the file at the same moment."""
    value = changed(section, new)
    Path("config.toml").write_text(f"[{section}]\n{old} = {value}\n")
    warnings: list[tuple[str, str]] = []
    settings = load_settings(warn=lambda *names: warnings.append(names))
    assert getattr(getattr(settings, section), new) == value
    assert warnings == [(f"{section}.{old}", f"{section}.{new}")]


@pytest.mark.parametrize("spelled", [str.upper, str.lower])
@pytest.mark.parametrize(("section", "old", "new"), CASES)
def test_an_old_name_works_in_the_environment(monkeypatch, section, old, new, spelled):
    """Nor the unit or the container file, and names may be in small letters there."""
    value = changed(section, new)
    monkeypatch.setenv(spelled(f"ACTIVITY__{section}__{old}"), str(value))
    warnings: list[tuple[str, str]] = []
    settings = load_settings(warn=lambda *names: warnings.append(names))
    assert getattr(getattr(settings, section), new) == value
    names = (spelled(f"ACTIVITY__{section}__{old}"), f"ACTIVITY__{section}__{new}".upper())
    assert warnings == [names]


@pytest.mark.parametrize(("section", "old", "new"), CASES)
def test_both_names_at_once_are_an_error_that_names_both(monkeypatch, section, old, new):
    """Which of two values is meant is not guessed."""
    Path("both.toml").write_text(f"[{section}]\n{old} = 1\n{new} = 1\n")
    with pytest.raises(SettingsError, match=rf"{section}\.{old} and {section}\.{new} are one"):
        load_settings(Path("both.toml"))
    monkeypatch.setenv(f"ACTIVITY__{section}__{old}".upper(), "1")
    monkeypatch.setenv(f"ACTIVITY__{section}__{new}".upper(), "1")
    with pytest.raises(SettingsError, match=rf"(?i)__{old} and \w+__{new} are one"):
        load_settings()


def test_the_environment_wins_over_the_file_whatever_the_names(monkeypatch):
    """An old name in the environment is as good as the new one in the file, and over it."""
    Path("config.toml").write_text("[tracker]\nbackoff_max_s = 20\nbackoff_first_s = 2\n")
    monkeypatch.setenv("ACTIVITY__TRACKER__BACKOFF_MOST_S", "40")
    monkeypatch.setenv("ACTIVITY__TRACKER__BACKOFF_INITIAL_S", "4")
    settings = load_settings()
    assert (settings.tracker.backoff_initial_s, settings.tracker.backoff_max_s) == (4, 40)


def test_new_names_warn_of_nothing(monkeypatch):
    """Nor does a file without any of them."""
    warnings: list[tuple[str, str]] = []
    monkeypatch.setenv("ACTIVITY__TRACKER__BACKOFF_MAX_S", "40")
    load_settings(CHECKOUT / "config.toml", warn=lambda *names: warnings.append(names))
    assert warnings == []


def test_a_command_warns_on_stderr(tmp_path):
    """Its output stays what scripts read."""
    done = subprocess.run(
        [sys.executable, "-m", "api", "keys", "list", "--json"],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ACTIVITY__DATABASE__URL": "postgresql://postgres@127.0.0.1:1/postgres",
            "ACTIVITY__AUTH__MAX_KNOWN": "5",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == ""
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: setting ACTIVITY__AUTH__MAX_KNOWN is called ")
    assert error.startswith("error: ")


def test_the_service_warns_in_its_log():
    """One event, with the old and the new name as fields."""
    done = subprocess.run(
        [sys.executable, "-m", "api", "serve"],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ACTIVITY__DATABASE__URL": "postgresql://postgres@127.0.0.1:1/postgres",
            "ACTIVITY__AUTH__MAX_KNOWN": "5",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["event"], line["level"]) == ("setting.deprecated", "warning")
    assert line["old"] == "ACTIVITY__AUTH__MAX_KNOWN"
    assert line["new"] == "ACTIVITY__AUTH__CACHE_SIZE"
