"""Settings: every one is in config.toml, and what cannot work stops the start in one line."""

import re
import tomllib
from pathlib import Path

import pytest

from api.config import Settings, SettingsError
from api.load_settings import load_settings

SHIPPED = Path(__file__).parents[2] / "config.toml"


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """The config.toml of the checkout is not read unless a test says so."""
    monkeypatch.chdir(tmp_path)


def test_the_shipped_file_holds_every_setting_with_its_default(monkeypatch):
    """config.toml is the reference: no setting is missing, and each value is the default."""
    monkeypatch.delenv("ACTIVITY__JOURNAL__DIR")
    monkeypatch.delenv("ACTIVITY__AUTH__KNOWN_FILE")
    assert tomllib.loads(SHIPPED.read_text()) == Settings().model_dump()
    assert load_settings(SHIPPED) == Settings()


def test_every_setting_in_the_shipped_file_has_a_comment():
    """A unit or a meaning stands beside each."""
    lines = [line for line in SHIPPED.read_text().splitlines() if re.match(r"\w+ =", line)]
    assert len(lines) == sum(len(section) for section in Settings().model_dump().values())
    assert all(re.search(r"  # \S", line) for line in lines)


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    """A file for the fleet, the environment for the one machine."""
    file = tmp_path / "config.toml"
    file.write_text("[server]\nport = 9000\n[tracker]\nchunk_keys = 7\n")
    monkeypatch.setenv("ACTIVITY__SERVER__PORT", "9001")
    monkeypatch.setenv("ACTIVITY__TRACKER__ENABLED", "false")
    settings = load_settings()
    assert (settings.server.port, settings.tracker.chunk_keys) == (9001, 7)
    assert settings.tracker.enabled is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1", "unknown setting 'server.prot': did you mean server.port?"),
        ("[srever]\nport = 1", "unknown setting 'srever': did you mean server?"),
        ("[nothing]\nlike = 1", "unknown setting 'nothing': see config.toml for all settings"),
        ("[server]\nport = '8080'", "server.port = '8080'"),
        ("[server]\nport = true", "server.port = True"),
        ("[server]\nport = 0", "server.port = 0"),
        ("[tracker]\nflush_interval_s = nan", "tracker.flush_interval_s = nan"),
        ("[tracker]\nflush_interval_s = inf", "tracker.flush_interval_s = inf"),
        ("[tracker]\nflush_interval_s = -1", "tracker.flush_interval_s = -1"),
        ("[tracker]\nflush_interval_s = '5'", "tracker.flush_interval_s = '5'"),
        ("[tracker]\nenabled = 1", "tracker.enabled = 1"),
        ("[tracker]\nchunk_keys = 1.5", "tracker.chunk_keys = 1.5"),
        (
            "[tracker]\ncapacity_keys = 10",
            "tracker: high_water_keys must not be above capacity_keys",
        ),
        ("[tracker]\nbackoff_initial_s = 60", "tracker: backoff_initial_s must not be above"),
        ("[presence]\nidle_after_s = 1000", "presence: offline_after_s must not be below idle_"),
        ("[presence]\nidle_after_s = nan", "presence.idle_after_s = nan"),
        ("[live]\nmax_streams = 0", "live.max_streams = 0"),
        ("[auth]\nstale_limit_s = 1", "auth: stale_limit_s must not be below refresh_s"),
        ("[auth]\nrevocation_poll_s = 2", "auth.revocation_poll_s = 2"),
        ("[database]\nurl = 'mysql://x'", "database: url must start with postgresql://"),
        ("[database]\nurl = 'postgresql://h:port/db'", "database: url has no host or host:port"),
        ("[database]\nurl = 'postgresql://[::bad/db'", "database: "),
        ("[tracker]\nlock_timeout_s = 5", "tracker: lock_timeout_s must be below"),
        ('"a\\nb" = 1', "unknown setting 'a\\nb'"),
        ("[log]\nlevel = 'loud'", "log.level = 'loud'"),
        ("server = 5", "server = 5"),
        ("[server", "cannot read the settings from"),
    ],
)
def test_a_wrong_file_is_rejected_in_one_line_that_names_the_setting(tmp_path, text, message):
    """Unknown names, wrong types, NaN, values out of range and contradictions."""
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings(file)
    assert "\n" not in str(caught.value)
    assert "own.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ACTIVITY__SERVER__PROT",
            "1",
            "unknown setting in the environment: ACTIVITY__SERVER__PROT",
        ),
        ("ACTIVITY__SREVER__PORT", "1", "ACTIVITY__SREVER__PORT"),
        ("ACTIVITY__SERVER", "1", "ACTIVITY__SERVER"),
        ("ACTIVITY__SERVER__PORT__X", "1", "ACTIVITY__SERVER__PORT__X"),
        ("ACTIVITY__SERVER__PORT", "http", "server.port = 'http'"),
        ("ACTIVITY__TRACKER__FLUSH_INTERVAL_S", "nan", "tracker.flush_interval_s = 'nan'"),
        ("ACTIVITY__TRACKER__FLUSH_INTERVAL_S", "0", "tracker.flush_interval_s = '0'"),
        ("ACTIVITY__TRACKER__ENABLED", "maybe", "tracker.enabled = 'maybe'"),
    ],
)
def test_a_wrong_environment_is_rejected_in_one_line_that_names_the_setting(
    monkeypatch, name, value, message
):
    """The environment is checked like the file."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    """--config with a wrong path does not fall back to defaults."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:{}@host/db",
        "{}",
        "postgresql://user:{}/x@host/db",
        "postgresql://user:{}?x@host/db",
        "postgresql://user:{}#x@host/db",
        "postgresql://user:[{}]@host/db",
        "postgresql://user:{}]@host/db",
        "postgresql://user:{}@host:99999/db",
        "postgresql://user:{}@host:1:2/db",
        "postgresql://user:p@{}@host/db",
    ],
)
def test_a_password_is_not_shown(monkeypatch, tmp_path, url):
    """An error about the database's URL prints no part of it, wherever the mistake is."""
    url = url.format("secret")
    monkeypatch.setenv("ACTIVITY__DATABASE__URL", url)
    with pytest.raises(SettingsError, match="database") as caught:
        load_settings()
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("ACTIVITY__DATABASE__URL")
    file = tmp_path / "config.toml"
    for text in (f"[database]\nurl = {url!r}", f"database = {url!r}", f"[database]\nuri = {url!r}"):
        file.write_text(text)
        with pytest.raises(SettingsError, match="database") as caught:
            load_settings()
        assert "secret" not in str(caught.value)


def test_sections_must_fit_each_other(monkeypatch, tmp_path):
    """Neither the file nor the environment is wrong alone, so both are named."""
    file = tmp_path / "config.toml"
    file.write_text("[database]\npool_size = 4\n")
    monkeypatch.setenv("ACTIVITY__INGEST__GROUPS_IN_FLIGHT", "5")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == (
        "bad settings in the file and the environment taken together: "
        "ingest.batches_in_flight must not be above database.pool_size"
    )
