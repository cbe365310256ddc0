"""What the library exports, ships and depends on, and the arguments that it rejects."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from build import ProjectBuilder

import tracker as library
from tests.support.sample_table import THINGS
from tracker import (
    ConfigurationError,
    Target,
    Tracker,
)


def test_the_old_name_of_rejected_rows_still_works_with_a_warning():
    """`RowRefused` is the same class for one more release; the warning names the new one."""
    with pytest.warns(DeprecationWarning, match="RowRefused is now called RowRejected"):
        from tracker import RowRefused  # noqa: PLC0415 - the import is what warns
    assert RowRefused is library.RowRejected


@pytest.mark.parametrize(
    ("old", "new"),
    [("backoff_first_s", "backoff_initial_s"), ("backoff_most_s", "backoff_max_s")],
)
def test_old_names_of_backoff_arguments_still_work_with_a_warning(old, new):
    """The value takes effect; the warning names the new argument."""
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        tracker = Tracker([THINGS], dsn="postgresql://x", **{old: 7.5})
    assert getattr(tracker._options, new) == 7.5
    assert caught[0].filename == __file__


def test_an_unknown_name_is_an_attribute_error():
    """A misspelled import fails as in every module."""
    with pytest.raises(AttributeError, match="'tracker' has no attribute 'RowIgnored'"):
        _ = library.RowIgnored


def test_the_library_exports_exactly_these_names():
    """A name that comes or goes is a decision, not an accident."""
    assert sorted(library.__all__) == [
        "ConfigurationError",
        "FlushError",
        "Key",
        "KeyType",
        "MIN_JOURNAL_BYTES",
        "RowRejected",
        "StoreContended",
        "StoreError",
        "StoreMisconfigured",
        "StoreTimeout",
        "StoreUnavailable",
        "Target",
        "Tracker",
        "TrackerCollector",
        "TrackerError",
        "View",
        "activity_middleware",
        "exporting_metrics",
        "keep_touching",
        "no_touches",
        "touch_prepared",
        "touch_request",
    ]
    assert all(hasattr(library, name) for name in library.__all__)


def test_aiohttp_is_imported_only_for_the_middleware():
    """A worker or a command that serves no requests starts without it."""
    code = (
        "import sys, tracker; before = 'aiohttp' in sys.modules; "
        "tracker.activity_middleware; print(before, 'aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


@pytest.mark.parametrize("dsn", ["", "garbage", "host=db dbname=x", None])
def test_an_invalid_dsn_is_rejected(dsn):
    """At once, not by the first flush."""
    with pytest.raises(ConfigurationError, match="dsn"):
        Tracker([THINGS], dsn=dsn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_type": "float"}, "key_type 'float' is none of"),
        ({"table": "a.b.c"}, "no \\[schema.\\]table"),
        ({"table": ""}, "no identifier"),
        ({"column": "x" * 64}, "no identifier"),
        ({"key_column": "a\0"}, "no identifier"),
        ({"table": 'devices"; DROP TABLE x; --'}, "no identifier"),
        ({"table": "devices; DROP TABLE x; --"}, "no identifier"),
        ({"table": 'app".devices'}, "no identifier"),
        ({"table": "app."}, "no identifier"),
        ({"table": ".devices"}, "no identifier"),
        ({"table": "a\nb"}, "no identifier"),
        ({"table": "a\u202eb"}, "no identifier"),
        ({"table": "a\ud800"}, "no identifier"),
        ({"table": "\u00e4" * 32}, "no identifier"),
        ({"table": "x" * 1_000_000}, "no identifier"),
        ({"column": 'seen_at = now(), "x"'}, "no identifier"),
        ({"key_column": "id' OR 'a' = 'a"}, "no identifier"),
        ({"key_column": "\\"}, "no identifier"),
        ({"resolution_s": 0}, "resolution_s"),
        ({"capacity_keys": 0}, "capacity_keys"),
        ({"high_water_keys": 2_000_000}, "high_water_keys"),
        ({"name": ""}, "name"),
    ],
)
def test_an_invalid_target_is_rejected_when_it_is_made(change, message):
    """What is wrong is said when the target is made, not at its first flush."""
    good = {
        "name": "things",
        "table": "things",
        "key_column": "id",
        "column": "seen_at",
        "key_type": "bigint",
    }
    with pytest.raises(ConfigurationError, match=message):
        Target(**{**good, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a dsn or a pool"),
        ({"dsn": "postgresql://x", "flush_interval_s": 0}, "flush_interval_s"),
        ({"dsn": "postgresql://x", "flush_interval_s": float("nan")}, "flush_interval_s"),
        ({"dsn": "postgresql://x", "statement_timeout_s": float("inf")}, "statement_timeout_s"),
        ({"dsn": "postgresql://x", "chunk_keys": 0}, "chunk_keys"),
        ({"dsn": "postgresql://x", "chunk_keys": 1.5}, "chunk_keys"),
        ({"dsn": "postgresql://x", "flush_interval_s": "5"}, "flush_interval_s"),
        ({"dsn": "postgresql://x", "lock_timeout_s": 5.0}, "lock_timeout_s"),
        ({"dsn": "postgresql://x", "backoff_initial_s": 31.0}, "backoff_initial_s"),
        ({"dsn": "postgresql://x", "targets": THINGS}, "a list of targets"),
        ({"dsn": "postgresql://x", "targets": []}, "needs targets"),
        ({"dsn": "postgresql://x", "targets": [THINGS, THINGS]}, "name of its own"),
    ],
)
def test_invalid_options_are_rejected_when_the_tracker_is_made(options, message):
    """NaN, infinity, zero and contradictions are told apart from settings."""
    with pytest.raises(ConfigurationError, match=message):
        Tracker(**{"targets": [THINGS], **options})


def test_the_wheel_ships_the_library_alone_and_typed(tmp_path):
    """pip install brings every module of tracker and its types, and nothing of the service."""
    checkout = Path(library.__file__).parent.parent
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, source)
    for package in ("tracker", "api", "benchmarks"):
        shutil.copytree(checkout / package, source / package)
    wheel = ProjectBuilder(source).build("wheel", tmp_path)
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(source)) for path in source.glob("tracker/**/*.py")}
    assert shipped == {*modules, "tracker/py.typed"}


def test_the_library_needs_four_packages():
    """An application that imports tracker gets few dependencies."""
    needed = [line for line in requires("activity-tracker") or [] if "extra ==" not in line]
    assert sorted(line.split(">=")[0] for line in needed) == [
        "aiohttp",
        "asyncpg",
        "prometheus-client",
        "structlog",
    ]
