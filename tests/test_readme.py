"""The tables of the pages miss nothing."""

import re

from api.app import create_app
from api.config import Settings
from tests.pages import PAGES, ROOT
from tests.test_observe import PROMISED


def test_every_setting_is_on_the_page_of_settings():
    """Section by section."""
    table = PAGES["docs/settings.md"].text
    for section, settings in Settings().model_dump().items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{section}` |"))
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(settings)


def test_every_metric_is_on_the_page_of_monitoring():
    """With its labels."""
    table = PAGES["docs/monitor.md"].section("Metrics").text
    assert set(re.findall(r"`((?:activity|auth|database|http|event|ingest)_\w+)", table)) == set(
        PROMISED
    )


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


def test_figures_for_tuning_are_those_of_the_benchmarks():
    """Where a run is shown that anybody may repeat."""
    tuning = PAGES["docs/settings.md"].section("Tune").text
    for said, measured in {
        "127 bytes for each": "| 127 B |",
        "writes 148,225": "ours 148,225 rows/s",
        "118 bytes of WAL": "| 118 B |",
    }.items():
        assert said in " ".join(tuning.split())
        assert measured in PAGES["benchmarks/README.md"].text
