"""The alerts fire when they should and not else, and whoever they wake is told the truth."""

import re
from pathlib import Path

import pytest
import yaml

from api.config import Settings
from api.postgres.revisions import VERSION_TABLE
from benchmarks.harness.metrics import Metrics
from tests.support.log_events import events
from tests.support.promql import metrics_of, selected
from tests.support.promtool import needs_promtool, promtool
from tracker import FlushError, StoreUnavailable

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "api" / "monitoring"
RULES = MONITORING / "alerts.yml"
RULE_TESTS = Path(__file__).parent / "alerts_test.yml"
RUNBOOK = (MONITORING / "RUNBOOK.md").read_text()
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
FIGURE = re.compile(r"\{\{ (\$value|with .*query)")
"""Who is not there has no figures of its own."""
each_alert = pytest.mark.parametrize("alert", ALERTS)


@pytest.fixture
async def scraped(service) -> Metrics:
    """What a service exports that has been of some use."""
    await service.upload(await service.register())
    await service.tracker.flush()
    return await service.metrics()


def what_is_wrong_if_these_fire(metrics: Metrics, alerts: set[str], tmp_path: Path) -> str:
    """Show Prometheus one scrape for half an hour; return what it says unless just these fire."""
    asked = set().union(*(metrics_of(rule["expr"]) for rule in ALERTS.values()))
    series = []
    for (name, labels), value in metrics.samples.items():
        if name in asked:
            pairs = {"job": "activity", "instance": "a", **dict(labels)}.items()
            shown = ", ".join(f'{label}="{text}"' for label, text in pairs)
            # The clock of these tests starts at 0, and so has the process.
            constant = 0.0 if name == "process_start_time_seconds" else value
            series.append({"series": f"{name}{{{shown}}}", "values": f"{constant}x120"})
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    look = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "30m",
        "exp_samples": expected,
    }
    written = tmp_path / "test.yml"
    written.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": [look]}],
            }
        )
    )
    return promtool("test", "rules", written)


def queries() -> list[str]:
    """Return the queries of the runbook: one a line, unless what follows is indented."""
    blocks = re.findall(r"```promql\n(.*?)```", RUNBOOK, re.DOTALL)
    return [query for block in blocks for query in re.split(r"\n(?! )", block) if query]


@needs_promtool
def test_prometheus_takes_the_rules():
    """Their syntax, their labels and their templates."""
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", RULES) == ""


@needs_promtool
@pytest.mark.parametrize("file", ["alerts_test.yml", "alerts_day_test.yml"])
def test_each_alert_fires_when_it_should_and_not_else(file):
    """With the words that it is to have."""
    assert promtool("test", "rules", RULE_TESTS.with_name(file)) == ""


@needs_promtool
async def test_a_service_that_is_well_sets_off_no_alert(scraped, tmp_path):
    """By what it exports itself, so labels that do not match in the rules would show."""
    assert what_is_wrong_if_these_fire(scraped, set(), tmp_path) == ""


@needs_promtool
async def test_a_service_that_is_not_sets_off_those_that_are_meant(service, db, tmp_path):
    """A table is gone, and the journal misses a touch: each alert that is about it, no other."""
    await service.heartbeat(await service.register())
    await db.execute("ALTER TABLE devices RENAME TO elsewhere")
    for _ in range(3):
        with pytest.raises(FlushError):
            await service.tracker.flush()
    service.tracker.buffers["devices"].journal.append(None, 0)  # no key: it can't be appended
    metrics = await service.metrics()
    alerts = {
        "ActivityFlushFailing",
        "ActivityFlushPermanentError",
        "ActivityJournalDegraded",
    }
    assert what_is_wrong_if_these_fire(metrics, alerts, tmp_path) == ""
    assert "ActivityFlushFailing" in what_is_wrong_if_these_fire(metrics, set(), tmp_path)
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")


@each_alert
def test_each_alert_is_tested_both_ways(alert):
    """Firing and silent."""
    cases = [
        bool(case["exp_alerts"])
        for group in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert set(cases) == {True, False}


@each_alert
def test_each_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alert):
    """With figures, and a section of the runbook."""
    rule = ALERTS[alert]
    annotations = rule["annotations"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert FIGURE.search(annotations["description"])
    assert annotations["runbook_url"] == f"api/monitoring/RUNBOOK.md#{alert.lower()}"
    section = RUNBOOK.split(f"\n## {alert}\n", 1)[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(.*?)\.\*\*", section, re.MULTILINE) == [
        "Means",
        "Confirm",
        "Do",
        "If you don't",
    ]


def test_the_runbook_is_about_the_alerts_alone():
    """No section outlives its alert."""
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


async def test_alerts_and_runbook_ask_for_what_the_service_exports(service, monkeypatch):
    """Names, and the values of labels; what is misspelt would be silent for ever."""
    device_id = await service.register()

    async def away(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("it is away")

    for store, status in ((None, 500), (away, 503)):
        monkeypatch.setattr("api.fleet.batch_commit.BatchCommit.store", store)
        assert (await service.upload(device_id)).status == status
    scraped = await service.metrics()
    exported = {name for name, _ in scraped.samples} | {"up"}  # which is Prometheus's own
    for expression in [*(rule["expr"] for rule in ALERTS.values()), *queries()]:
        asked = metrics_of(expression)
        assert asked
        assert asked <= exported, expression
        for name, label, value in selected(expression):
            assert any(
                sample == name and (label, value) in labels for sample, labels in scraped.samples
            ), expression
    named_in_runbook = set(re.findall(r"\b(?:activity|auth|database|ingest|live)_\w+", RUNBOOK))
    for named in named_in_runbook - {VERSION_TABLE}:
        assert any(name.startswith(named) for name in exported), named


@needs_promtool
def test_prometheus_takes_the_queries_of_the_runbook(tmp_path):
    """Whoever copies one in the night has no time to mend it."""
    rules = [{"record": f"q:{n}", "expr": query} for n, query in enumerate(queries())]
    assert len(rules) > 10
    written = tmp_path / "queries.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert promtool("check", "rules", written) == ""


def test_the_runbook_names_settings_and_log_events_that_exist():
    """Settings by section and name, and as the environment has them."""
    settings = {
        f"{section}.{name}" for section, names in Settings().model_dump().items() for name in names
    }
    known = settings | {event.name for event in events(MONITORING.parent, ROOT / "tracker")}
    known |= {"alerts.yml", "flush.devices", "flush.api_keys"}  # the latter are readiness's
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", RUNBOOK))
    named |= {
        f"{section}.{name}".lower()
        for section, name in re.findall(r"ACTIVITY__(\w+?)__(\w+)=", RUNBOOK)
    }
    assert len(named) > 20
    assert named <= known
