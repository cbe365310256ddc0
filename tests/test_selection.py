"""What `--fast` leaves out is named with its reason, and is no more than the list says."""

import pytest

from tests.support.selection import ROOT, SLOW, Selection, slow_entry


def summary(plugin, stats):
    """Return what the plugin prints at the end of a run, line by line."""
    lines = []

    class Reporter:
        def section(self, title):
            lines.append(title)

        def write_line(self, line):
            lines.append(line)

    reporter = Reporter()
    reporter.stats = stats
    plugin.pytest_terminal_summary(reporter)
    return lines


def test_a_folder_of_the_list_holds_its_files_and_no_others():
    """A path that merely begins like an entry is not slow."""
    assert slow_entry(ROOT / "tests/page/test_sign_in.py") == "tests/page"
    assert slow_entry(ROOT / "tests/api/test_faults.py") == "tests/api/test_faults.py"
    assert slow_entry(ROOT / "tests/pages/test_page.py") is None
    assert slow_entry(ROOT / "tests/api/test_config.py") is None
    assert slow_entry(ROOT / "tests") is None
    assert slow_entry(ROOT.parent / "tests/page/test_sign_in.py") is None


def test_a_fast_run_ignores_slow_files_alone():
    """A whole run ignores none."""
    slow, quick = ROOT / "tests/api/test_faults.py", ROOT / "tests/api/test_config.py"
    assert Selection(fast=True).pytest_ignore_collect(slow) is True
    assert Selection(fast=True).pytest_ignore_collect(quick) is None
    assert Selection(fast=False).pytest_ignore_collect(slow) is None


def test_the_summary_names_what_did_not_run_and_why():
    """Each reason once, with its number of tests."""

    class Skipped:
        longrepr = ("tests/api/test_listing.py", 169, "Skipped: this Postgres is built without ICU")

    assert summary(Selection(fast=False), {}) == [
        "did not run",
        "nothing was skipped or left out",
    ]
    assert summary(Selection(fast=False), {"skipped": [Skipped, Skipped]}) == [
        "did not run",
        "skipped 2: this Postgres is built without ICU",
    ]
    lines = summary(Selection(fast=True), {"skipped": [Skipped]})
    assert lines[1] == "skipped 1: this Postgres is built without ICU"
    assert "left out tests/page: drives a browser" in lines
    assert "make test" in lines[-1]


def test_an_entry_without_a_file_is_an_error(monkeypatch):
    """A file that was renamed must not silently become part of the fast run."""
    monkeypatch.setitem(SLOW, "tests/gone.py", "was renamed")
    with pytest.raises(pytest.UsageError, match=r"tests/gone\.py"):
        Selection(fast=True)
