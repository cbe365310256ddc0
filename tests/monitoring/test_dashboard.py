"""The dashboard: up to date, about all there is, and every query of it and of the alerts answers.

By a real Prometheus that scrapes a real service under load.
"""

import asyncio
import json
import re
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from api.access.keys import create_key
from api.config import DatabaseSettings
from api.monitoring.dashboard import FILE, dashboard_json
from api.postgres.database import open_database
from benchmarks.harness.metrics import parse_metrics
from benchmarks.harness.service import running_service
from tests.api.test_request_metrics import PROMISED, PROMISED_OF_WORKERS
from tests.monitoring.test_alerts import ALERTS, RULES, RUNBOOK, of_workers
from tests.support.prometheus import Prometheus, escaped, needs_prometheus, prometheus
from tests.support.promql import metrics_of, selected
from tests.support.promtool import needs_promtool, promtool
from tests.support.raw_client import free_port
from tests.support.service import REPORT

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
    """Return the metrics that a query asks for, histograms by their own names."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics_of(expr)}


def test_the_dashboard_is_what_its_code_makes():
    """Whoever changes the one makes the other: `make dashboard`."""
    assert FILE.read_text() == dashboard_json()


def test_the_dashboard_shows_every_metric_and_no_other():
    """A new metric is on it, or left off on purpose; one that is gone is asked for no more."""
    shown = set().union(*(families(expr) for _, expr in queries())) - OF_PROMETHEUS
    of_the_process = {name for name in shown if name.startswith("process_")}
    assert shown - of_the_process == {*PROMISED, *PROMISED_OF_WORKERS} - LEFT_OFF
    assert set(PROMISED) >= LEFT_OFF


def test_the_dashboard_is_fit_for_import():
    """Any Prometheus may be behind it, it covers nothing up, and people are told what they see."""
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
    """A query that shows 0 where there is nothing would else be green for ever."""
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
def test_prometheus_takes_the_example_of_its_configuration():
    """With the rules that it names."""
    assert promtool("check", "config", EXAMPLE) == ""


async def keep_busy(url: str, key: str) -> None:
    """Use every part of the service, rightly and wrongly, without end."""
    device_id = str(uuid.uuid4())
    registration = {"device_id": device_id, "display_name": "Phone", "group_id": "family"}
    capture_ms = time.time_ns() // 1_000_000
    async with aiohttp.ClientSession(url, headers={"X-API-Key": key}) as session:
        while True:
            capture_ms += 1
            report = {**REPORT, "device_id": device_id, "timestamp": capture_ms}
            for method, path, body, headers in (
                ("POST", "/api/v1/devices/register", registration, {}),
                ("POST", f"/api/v1/devices/{device_id}/heartbeat", None, {}),
                ("POST", "/api/v1/locations", report, {}),
                ("GET", "/api/v1/devices?group_id=family", None, {}),
                ("GET", f"/api/v1/devices/{uuid.uuid4()}", None, {}),
                ("GET", "/nowhere", None, {}),
                ("GET", "/api/v1/groups", None, {"X-API-Key": "wrong"}),
            ):
                try:
                    async with session.request(method, path, json=body, headers=headers) as answer:
                        await answer.read()
                except (aiohttp.ClientError, ConnectionError):
                    return  # it was stopped
            await asyncio.sleep(0.02)


def impatient(folder: Path) -> Path:
    """Return a copy of the rules, in which nothing has to last before it is told."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["name"] += "-impatient"
        for rule in group["rules"]:
            rule.pop("for", None)
    written = folder / "impatient.yml"
    written.write_text(yaml.safe_dump(rules))
    return written


@asynccontextmanager
async def watched(url: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus as the example has it, but every second, and on a service of ours."""
    config = yaml.safe_load(EXAMPLE.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES), str(impatient(folder))]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [url.removeprefix("http://")]
    del config["alerting"]
    async with prometheus(config, free_port(), folder) as running:
        yield running


async def chosen(prometheus: Prometheus) -> dict[str, str]:
    """Return what Grafana puts in for the variables, when all that there is is chosen."""
    values = {"__rate_interval": "4s", "__range": "1m"}
    for name in ("job", "instance", "target"):
        query = VARIABLES[name]["query"]["query"]
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        known = await prometheus.get(
            f"label/{label}/values", **{"match[]": substituted(metric, values)}
        )
        values[name] = f"({'|'.join(map(escaped, known))})" if known else "nothing"
    return values


def substituted(expr: str, values: dict[str, str]) -> str:
    """Return a query as Grafana sends it."""
    sent = re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)
    assert "$" not in sent
    return sent


async def until_nothing_is_left(prometheus: Prometheus, asked: set[str]) -> None:
    """Wait until each query of the dashboard has data."""
    left = asked
    try:
        async with asyncio.timeout(60):
            while left:
                values = await chosen(prometheus)
                left = {
                    expr
                    for expr in left
                    if not await prometheus.has_data(substituted(expr, values))
                }
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"no data: {left}")


async def until_no_alert_is_pending(prometheus: Prometheus) -> None:
    """Wait until no rule finds anything: at the start, one worker is there before the other."""
    pending: set[str] = set()
    try:
        async with asyncio.timeout(30):
            while True:
                rules = await prometheus.rules(RULES)
                pending = {name for name, rule in rules.items() if rule["state"] != "inactive"}
                if not pending:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"pending: {pending}")


async def until_firing(prometheus: Prometheus, rules: Path, alert: str) -> dict[str, Any]:
    """Wait until an alert fires; return it as it would be sent to whoever is woken."""
    async with asyncio.timeout(60):
        while True:
            rule = (await prometheus.rules(rules))[alert]
            if rule["state"] == "firing":
                return rule["alerts"][0]
            await asyncio.sleep(0.1)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a folder for sockets, whose paths may not be long."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@needs_prometheus
@needs_promtool
async def fall_silent(db) -> None:
    """Let a few devices fall silent one after the other, too few for an alert."""
    for _ in range(5):
        await db.execute("DELETE FROM listening_gaps")  # before the first start nobody listened
        await db.execute(
            "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
            "VALUES (gen_random_uuid(), 'silent', 'family', 'android', now() - interval '1 h')"
        )
        await asyncio.sleep(1)


async def test_every_query_of_dashboard_and_alerts_answers_by_a_real_prometheus(
    tmp_path, short_path, dsn, db
):
    """On a busy service; an outage is told with the runbook, and so is the end of the process."""
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "busy", None)
    url = f"http://127.0.0.1:{free_port()}"
    settings = {
        "ACTIVITY__DATABASE__URL": dsn,
        "ACTIVITY__SERVER__PORT": url.rpartition(":")[2],
        "ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "0.2",
        "ACTIVITY__SERVER__WORKERS": "2",
        "ACTIVITY__SERVER__RUN_DIR": str(short_path),
    }
    rules = tmp_path / "impatient.yml"
    async with watched(url, tmp_path) as watching:
        async with running_service(url, settings, tmp_path / "service.log"):
            load = asyncio.create_task(keep_busy(url, key))
            silent = asyncio.create_task(fall_silent(db))
            await until_nothing_is_left(watching, {expr for _, expr in queries()})
            await silent
            for rule in ALERTS.values():
                await watching.get("query", query=rule["expr"])
            text = await (await watching.session.get(f"{url}/metrics")).text()
            assert promtool("check", "metrics", given=text) == ""
            exported = {name for name, _ in parse_metrics(text).samples}
            for _, expr in queries():
                assert metrics_of(expr) - OF_PROMETHEUS <= exported
            loaded = await watching.rules(RULES)
            assert {name: rule["health"] for name, rule in loaded.items()} == dict.fromkeys(
                ALERTS, "ok"
            )
            await until_no_alert_is_pending(watching)

            await db.execute("ALTER TABLE devices RENAME TO elsewhere")
            alert = await until_firing(watching, rules, "ActivityFlushPermanentError")
            assert alert["labels"]["target"] == "devices"
            assert url.removeprefix("http://") in alert["annotations"]["description"]
            for one in DASHBOARD["annotations"]["list"]:
                assert await watching.has_data(one["expr"])
            await db.execute("ALTER TABLE elsewhere RENAME TO devices")
        await load
        alert = await until_firing(watching, rules, "ActivityProcessDown")
        assert alert["labels"]["job"] == "activity"
        (down,) = (expr for title, expr in queries() if title == "Processes down")
        found = await watching.get("query", query=substituted(down, await chosen(watching)))
        assert [one["value"][1] for one in found["result"]] == ["1"]
