"""Each alert fires when it should, only then, and its texts and runbook section are true."""

import re
from pathlib import Path

import pytest
import yaml

from api.config import Settings
from api.postgres.revisions import VERSION_TABLE
from api.workers.service_metrics import ServiceMetrics
from benchmarks.harness.metrics import Metrics, parse_metrics
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
"""A description has a value, its own or one that it queries if the process is gone."""
each_alert = pytest.mark.parametrize("alert", ALERTS)


@pytest.fixture
async def scraped(service) -> Metrics:
    """Return the metrics of a service after one upload and one flush."""
    await service.upload(await service.register())
    await service.tracker.flush()
    return await service.metrics()


def unexpected_alerts(metrics: Metrics, alerts: set[str], tmp_path: Path) -> str:
    """Feed one scrape to Prometheus for 30 minutes; return its error unless these alerts fire."""
    queried = set().union(*(metrics_of(rule["expr"]) for rule in ALERTS.values()))
    series = []
    for (name, labels), value in metrics.samples.items():
        if name in queried:
            pairs = {"job": "activity", "instance": "a", **dict(labels)}.items()
            shown = ", ".join(f'{label}="{text}"' for label, text in pairs)
            # The clock of these tests starts at 0, and so has the process.
            constant = 0.0 if name == "process_start_time_seconds" else value
            series.append({"series": f"{name}{{{shown}}}", "values": f"{constant}x120"})
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    firing = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "30m",
        "exp_samples": expected,
    }
    written = tmp_path / "test.yml"
    written.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "tests": [
                    {"interval": "15s", "input_series": series, "promql_expr_test": [firing]}
                ],
            }
        )
    )
    return promtool("test", "rules", written)


def of_workers() -> Metrics:
    """Return the metrics that only a service with several workers has."""
    text = ServiceMetrics(2).text([], vacant=2).decode()
    return parse_metrics(text)


def queries() -> list[str]:
    """Return the queries of the runbook: one a line, unless what follows is indented."""
    blocks = re.findall(r"```promql\n(.*?)```", RUNBOOK, re.DOTALL)
    return [query for block in blocks for query in re.split(r"\n(?! )", block) if query]


@needs_promtool
def test_prometheus_accepts_the_rules():
    """Prometheus accepts the syntax, the labels and the templates of the rules."""
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", RULES) == ""


@needs_promtool
@pytest.mark.parametrize("file", ["alerts_test.yml", "alerts_day_test.yml"])
def test_each_alert_fires_only_when_it_should(file):
    """Each alert fires in its cases alone, with the expected labels and texts."""
    assert promtool("test", "rules", RULE_TESTS.with_name(file)) == ""


@needs_promtool
async def test_a_healthy_service_fires_no_alert(scraped, tmp_path):
    """The metrics of a real service fire no alert, so its labels match those of the rules."""
    assert unexpected_alerts(scraped, set(), tmp_path) == ""


@needs_promtool
async def test_a_missing_table_and_a_degraded_journal_fire_their_alerts(service, db, tmp_path):
    """A missing table and a touch that the journal missed fire their alerts, and no other."""
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
    assert unexpected_alerts(metrics, alerts, tmp_path) == ""
    assert "ActivityFlushFailing" in unexpected_alerts(metrics, set(), tmp_path)
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")


@each_alert
def test_each_alert_is_tested_both_ways(alert):
    """Each alert has a case in which it fires and one in which it does not."""
    cases = [
        bool(case["exp_alerts"])
        for group in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert set(cases) == {True, False}


@each_alert
def test_each_alert_has_a_severity_texts_and_a_runbook_section(alert):
    """Each description has a value, and each runbook section the same four parts."""
    rule = ALERTS[alert]
    annotations = rule["annotations"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert FIGURE.search(annotations["description"])
    assert annotations["runbook_url"] == f"api/monitoring/RUNBOOK.md#{alert.lower()}"
    section = RUNBOOK.split(f"\n## {alert}\n", 1)[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(.*?)\.\*\*", section, re.MULTILINE) == [
        "Meaning",
        "Impact",
        "Diagnosis",
        "Mitigation",
    ]


def test_the_runbook_has_the_sections_of_the_alerts_in_their_order():
    """No section is left of an alert that was removed."""
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


async def test_alerts_and_runbook_query_metrics_that_the_service_exports(service, monkeypatch):
    """Names and label values exist; an alert with a misspelt one would never fire."""
    device_id = await service.register()

    async def unavailable(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("no connection")

    for store, status in ((None, 500), (unavailable, 503)):
        monkeypatch.setattr("api.fleet.batch_commit.BatchCommit.store", store)
        assert (await service.upload(device_id)).status == status
    assert (await service.heartbeat(device_id, key="wrong")).status == 401
    scraped = await service.metrics()
    scraped = Metrics({**of_workers().samples, **scraped.samples})
    exported = {name for name, _ in scraped.samples} | {"up"}  # which is Prometheus's own
    for expression in [*(rule["expr"] for rule in ALERTS.values()), *queries()]:
        queried = metrics_of(expression)
        assert queried
        assert queried <= exported, expression
        for name, label, value in selected(expression):
            assert any(
                sample == name and (label, value) in labels for sample, labels in scraped.samples
            ), expression
    named_in_runbook = set(re.findall(r"\b(?:activity|auth|database|ingest|live)_\w+", RUNBOOK))
    for named in named_in_runbook - {VERSION_TABLE}:
        assert any(name.startswith(named) for name in exported), named


@needs_promtool
def test_prometheus_accepts_the_queries_of_the_runbook(tmp_path):
    """Each query of the runbook can be pasted into Prometheus."""
    rules = [{"record": f"q:{n}", "expr": query} for n, query in enumerate(queries())]
    assert len(rules) > 10
    written = tmp_path / "queries.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert promtool("check", "rules", written) == ""


def test_the_runbook_names_settings_and_log_events_that_exist():
    """Settings exist, as `section.name` and in the environment; so do log events."""
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
