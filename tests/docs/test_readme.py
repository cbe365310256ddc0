"""The tables of the pages miss nothing."""

import re

from api.app import create_app, targets
from api.config import Settings
from tests.api.test_request_metrics import PROMISED
from tests.support.log_events import events
from tests.support.markdown import PAGES, ROOT, Page
from tracker import Tracker


def test_the_front_door_is_one_screen():
    """What it is, how to try it, and where all else is; details come after."""
    screen, _, _ = PAGES["README.md"].text.partition("\n## ")
    assert len(screen.splitlines()) <= 50
    assert "make demo\nmake test\n" in screen
    pages = {name for name in PAGES if name.startswith("docs/")}
    assert pages <= set(Page("README.md", screen).links())


def test_every_setting_is_on_the_page_of_settings():
    """Section by section."""
    table = PAGES["docs/settings.md"].text
    for section, settings in Settings().model_dump().items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{section}` |"))
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(settings)


def test_every_metric_is_on_the_page_of_monitoring():
    """With its labels."""
    table = PAGES["docs/monitor.md"].section("Metrics").text
    assert set(
        re.findall(r"`((?:activity|auth|database|http|event|ingest|live)_\w+)", table)
    ) == set(PROMISED)


async def test_every_route_is_on_the_page_of_the_service(dsn):
    """No route is undocumented."""
    app = await create_app(Settings(), dsn)
    table = PAGES["docs/service.md"].section("HTTP").text
    for resource in app.router.resources():
        assert resource.canonical in table
    await app.cleanup()


def test_the_tests_that_the_guarantees_name_exist():
    """Each guarantee points to what shows it."""
    named = set(re.findall(r"`(tests/\w+\.py)`", PAGES["docs/guarantees.md"].text))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists()


def test_figures_are_those_of_the_benchmarks():
    """Of the run that is shown, which anybody may repeat."""
    run = PAGES["benchmarks/README.md"].text
    for name, figures in {
        "docs/settings.md": {
            "127 bytes for each": "at 1,000,000 uuids | 127 B |",
            "writes 148,225": "ours 148,225 rows/s",
            "118 bytes of WAL": "per written row, steady | 118 B |",
        },
        "docs/live.md": {"0.996 of the rate": "50 live streams / none | 0.996 |"},
        "docs/benchmark.md": {
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
        text = page.text.replace("ACTIVITY__SECTION__NAME", "")
        named = re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)\b", text)
        named += [".".join(pair).lower() for pair in re.findall(r"ACTIVITY__(\w+?)__(\w+)", text)]
        assert set(named) <= known, page.name
        if page.name.startswith("docs/"):
            metrics = re.findall(r"`((?:activity|auth|database|http|event|ingest|live)_\w+)", text)
            assert set(metrics) <= PROMISED.keys() | {"activity_"}, page.name
