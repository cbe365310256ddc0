"""The tables of the reference have everything that the code has, and nothing else."""

import re
import subprocess
import sys

from api.app import create_app
from api.config import Settings
from api.renamed_settings import RENAMED
from api.targets import targets
from tests.api.test_request_metrics import PROMISED, PROMISED_OF_WORKERS
from tests.support.log_events import events
from tests.support.markdown import PAGES, ROOT
from tracker import Tracker


def test_generated_tables_are_up_to_date():
    """`make docs` writes the tables of settings and commands."""
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_setting_is_in_the_reference():
    """Section by section, with unit and meaning where the file has them."""
    page = PAGES["docs/reference/settings.md"]
    for section, settings in Settings().model_dump().items():
        table = page.section(f"`[{section}]`").text
        rows = re.findall(r"^\| `(\w+)` \| (.*)", table, re.MULTILINE)
        assert [name for name, _ in rows] == list(settings)
        for name, row in rows:
            _, unit, _, meaning, _ = (cell.strip() for cell in row.split("|"))
            assert len(meaning) > 5, name
            assert unit == "seconds" or not name.endswith("_s")


def test_every_metric_is_in_the_reference():
    """And no other."""
    table = PAGES["docs/reference/metrics.md"].text
    assert set(
        re.findall(
            r"`((?:activity|auth|database|http|events?|ingest|limits|live|presence|webhooks)_\w+)",
            table,
        )
    ) == set(PROMISED) | set(PROMISED_OF_WORKERS)


async def test_every_route_is_in_the_reference(dsn):
    """By its path."""
    app = await create_app(Settings(), dsn)
    table = PAGES["docs/reference/http.md"].section("Routes").text
    for resource in app.router.resources():
        assert resource.canonical in table
    await app.cleanup()


def test_the_tests_that_the_guarantees_name_exist():
    """So do those that SECURITY names."""
    for page in ("docs/explanation/guarantees.md", "SECURITY.md"):
        named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGES[page].text))
        assert len(named) > 5
        assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_changelog_has_every_renamed_setting():
    """With the name that still works and the one that replaces it."""
    rows = re.findall(
        r"^\| setting \* \| `([\w.]+)` \| `([\w.]+)` \|$", PAGES["CHANGELOG.md"].text, re.MULTILINE
    )
    assert dict(rows) == RENAMED


def test_figures_are_those_of_the_benchmarks():
    """Figures on other pages are those of the run that `benchmarks/README.md` shows."""
    run = PAGES["benchmarks/README.md"].text
    for name, figures in {
        "docs/howto/tune.md": {
            "127 bytes for each pending key": "at 1,000,000 uuids | 127 B |",
            "writes 148,225 rows a second": "ours 148,225 rows/s",
            "118 bytes of WAL": "per written row, steady | 118 B |",
        },
        "docs/howto/watch-live.md": {"0.996 of the rate": "50 live streams / none | 0.996 |"},
        "docs/explanation/benchmarks.md": {
            "took 0.922 of": "| heartbeats/s, ours / none | 0.922 |",
            "2.19 times": "| heartbeats/s, ours / spawned | 2.19 |",
            "3.86 times": "| heartbeats/s, ours / awaited | 3.86 |",
            "waited 3 ms, with tasks 174 ms": "spawned 174 ms; ours 3 ms",
        },
    }.items():
        for said, measured in figures.items():
            assert said in " ".join(PAGES[name].text.split())
            assert measured in run


def test_settings_events_and_metrics_that_pages_name_exist():
    """By section and name, as the environment has them, and by what is exported or logged."""
    sections = Settings().model_dump()
    known = {f"{section}.{name}" for section, names in sections.items() for name in names}
    known |= {event.name for event in events(ROOT / "api", ROOT / "tracker")}
    known |= {f"journal.{target.name}" for target in targets(Settings().tracker)}  # of readiness
    # Of the library's own Tracker, which pages call `tracker`, too.
    known |= {f"tracker.{name}" for name in vars(Tracker)}
    for page in PAGES.values():
        if page.name == "CHANGELOG.md":
            continue  # names the old ones, too
        text = page.text.replace("ACTIVITY__SECTION__NAME", "")
        named = re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)\b", text)
        named += [".".join(pair).lower() for pair in re.findall(r"ACTIVITY__(\w+?)__(\w+)", text)]
        assert set(named) <= known, page.name
        if page.name.startswith("docs/") or page.name == "README.md":
            metrics = re.findall(
                r"`((?:activity|auth|database|http|event_loop|events|ingest|limits|live|presence)_\w+)",
                text,
            )
            fields = {"activity_", "activity_middleware", "presence_since", "presence_enabled"}
            tables = {"presence_events", "presence_watch"}  # of docs/howto/own-presence.md
            known_metrics = fields.union(tables, PROMISED, PROMISED_OF_WORKERS)
            assert set(metrics) <= known_metrics, page.name
