"""The dashboard is up to date, and shows every metric."""

import json
import re
from collections.abc import Iterator

from api.monitoring.dashboard import FILE, dashboard_json
from tests.api.test_request_metrics import PROMISED, PROMISED_OF_WORKERS
from tests.monitoring.test_alerts import ALERTS, RULES, RUNBOOK, of_workers
from tests.support.promql import metrics_of, selected
from tests.support.promtool import needs_promtool, promtool

EXAMPLE = RULES.with_name("prometheus.yml")
DASHBOARD = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
OF_PROMETHEUS = {"up", "ALERTS"}
LEFT_OFF: set[str] = set()
"""Metrics of ours that no panel shows, on purpose."""


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel and each of its queries."""
    for panel in PANELS:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


def families(expr: str) -> set[str]:
    """Return the metrics of a query, histograms by their own names."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics_of(expr)}


def test_the_dashboard_is_what_its_code_makes():
    """`make dashboard` generates it after a change of the code."""
    assert FILE.read_text() == dashboard_json()


def test_the_dashboard_shows_every_metric_and_no_other():
    """A new metric is on it, or is listed as left out; no query names a metric that is gone."""
    shown = set().union(*(families(expr) for _, expr in queries())) - OF_PROMETHEUS
    of_the_process = {name for name in shown if name.startswith("process_")}
    assert shown - of_the_process == {*PROMISED, *PROMISED_OF_WORKERS} - LEFT_OFF
    assert set(PROMISED) >= LEFT_OFF


def test_the_dashboard_can_be_imported():
    """It works with any Prometheus, no panels overlap, and each panel has a description."""
    assert "uid" in DASHBOARD
    assert "id" not in DASHBOARD
    texts = json.dumps(DASHBOARD)
    assert set(re.findall(r'"type": "prometheus", "uid": "(.*?)"', texts)) == {"${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["title"] for panel in PANELS}) >= len(PANELS) - 3  # a figure and its history


def test_every_alert_of_the_service_has_a_panel_that_leads_to_its_runbook():
    """And no link leads to a section that is not there."""
    urls = [link["url"] for panel in PANELS for link in panel.get("links", ())]
    linked = {url.removeprefix("${runbook}#") for url in urls}
    assert linked == {alert.lower() for alert in ALERTS}
    assert VARIABLES["runbook"]["query"].endswith("RUNBOOK.md")
    assert all(f"\n## {alert}\n" in RUNBOOK for alert in ALERTS)


async def test_the_dashboard_picks_labels_that_the_service_exports(service, monkeypatch):
    """A query that shows 0 where there is no data would otherwise always be green."""
    device_id = await service.register()
    monkeypatch.setattr("api.fleet.batch_commit.BatchCommit.store", None)
    assert (await service.upload(device_id)).status == 500
    assert (await service.heartbeat(device_id, key="wrong")).status == 401
    samples = {**(await service.metrics()).samples, **of_workers().samples}
    picked = 0
    for title, expr in queries():
        for name, label, value in selected(expr):
            if name in OF_PROMETHEUS or value.startswith("$"):
                continue
            picked += 1
            assert any(
                sample == name and re.fullmatch(value, dict(labels).get(label, ""))
                for sample, labels in samples
            ), title
    assert picked > 3


@needs_promtool
def test_prometheus_accepts_the_example_configuration():
    """With the rules that it names."""
    assert promtool("check", "config", EXAMPLE) == ""
