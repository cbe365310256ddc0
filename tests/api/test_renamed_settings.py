"""Settings under their old names: they work, with one warning each that names the new one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.config import Settings, SettingsError
from api.load_settings import load_settings
from api.renamed_settings import RENAMED

CHECKOUT = Path(__file__).parents[2]
CASES = list(RENAMED.items())


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """The config.toml of the checkout is not read."""
    monkeypatch.chdir(tmp_path)


def value_of(settings: Settings, name: str) -> Any:
    section, setting = name.split(".")
    return getattr(getattr(settings, section), setting)


def changed(name: str) -> int:
    """Return a value that is not the default, and fits what else is set by default."""
    return int(value_of(Settings(), name)) + 1


def variable(name: str) -> str:
    return "ACTIVITY__" + name.replace(".", "__").upper()


def in_file(name: str, value: int) -> str:
    section, setting = name.split(".")
    return f"[{section}]\n{setting} = {value}\n"


def test_no_old_name_is_in_use_and_every_new_one_is():
    """A name that came back would be two settings."""
    for old, new in CASES:
        section, setting = old.split(".")
        assert setting not in getattr(Settings(), section).model_dump()
        assert value_of(Settings(), new)


@pytest.mark.parametrize(("old", "new"), CASES)
def test_an_old_name_works_in_the_file(old, new):
    """An upgrade does not require a change of the file at the same moment."""
    value = changed(new)
    Path("config.toml").write_text(in_file(old, value))
    warnings: list[tuple[str, str]] = []
    settings = load_settings(warn=lambda *names: warnings.append(names))
    assert value_of(settings, new) == value
    assert warnings == [(old, new)]


@pytest.mark.parametrize("spelled", [str.upper, str.lower])
@pytest.mark.parametrize(("old", "new"), CASES)
def test_an_old_name_works_in_the_environment(monkeypatch, old, new, spelled):
    """Nor the unit or the container file, and names may be in small letters there."""
    value = changed(new)
    monkeypatch.setenv(spelled(variable(old)), str(value))
    warnings: list[tuple[str, str]] = []
    settings = load_settings(warn=lambda *names: warnings.append(names))
    assert value_of(settings, new) == value
    assert warnings == [(spelled(variable(old)), variable(new))]


@pytest.mark.parametrize(("old", "new"), CASES)
def test_both_names_at_once_are_an_error_that_names_both(monkeypatch, old, new):
    """Which of two values is meant is not guessed."""
    section, setting = new.split(".")
    same = old.startswith(f"{section}.")
    both = in_file(old, 1) + (f"{setting} = 1\n" if same else in_file(new, 1))
    Path("both.toml").write_text(both)
    with pytest.raises(SettingsError, match=rf"{re.escape(old)} and {re.escape(new)} are one"):
        load_settings(Path("both.toml"))
    monkeypatch.setenv(variable(old), "1")
    monkeypatch.setenv(variable(new), "1")
    with pytest.raises(SettingsError, match=rf"{variable(old)} and {variable(new)} are one"):
        load_settings()


@pytest.mark.parametrize("whole", ["600.0", "600"])
def test_seconds_that_may_have_had_a_fraction_are_still_read(monkeypatch, whole):
    """The old names took 600.0, and so had the file that the service came with."""
    Path("config.toml").write_text(f"[live]\nonline_within_s = {whole}\n")
    monkeypatch.setenv("ACTIVITY__LIVE__SILENT_AFTER_S", whole)
    presence = load_settings().presence
    assert (presence.idle_after_s, presence.offline_after_s) == (600, 600)
    Path("config.toml").write_text("[live]\nonline_within_s = 2.5\n")
    with pytest.raises(SettingsError, match=r"presence.idle_after_s = 2.5: "):
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
