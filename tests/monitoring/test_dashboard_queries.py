"""Every query of the dashboard and of the alerts returns data from a real Prometheus.

It scrapes a real service under load.
"""

import asyncio
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
from api.postgres.database import open_database
from benchmarks.harness.metrics import parse_metrics
from benchmarks.harness.service import running_service
from tests.monitoring.test_alerts import ALERTS, RULES
from tests.monitoring.test_dashboard import DASHBOARD, EXAMPLE, OF_PROMETHEUS, VARIABLES, queries
from tests.support.prometheus import Prometheus, escaped, needs_prometheus, prometheus
from tests.support.promql import metrics_of
from tests.support.promtool import needs_promtool, promtool
from tests.support.raw_client import free_port
from tests.support.service import REPORT


async def keep_busy(url: str, key: str) -> None:
    """Send valid and invalid requests to every part of the service, without end."""
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
                    async with session.request(
                        method, path, json=body, headers=headers
                    ) as response:
                        await response.read()
                except (aiohttp.ClientError, ConnectionError):
                    return  # it was stopped
            await asyncio.sleep(0.02)


def impatient(folder: Path) -> Path:
    """Return a copy of the rules in which alerts fire without a delay."""
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
    """Run Prometheus with the example configuration, a scrape every second, on a service."""
    config = yaml.safe_load(EXAMPLE.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES), str(impatient(folder))]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [url.removeprefix("http://")]
    del config["alerting"]
    async with prometheus(config, free_port(), folder) as running:
        yield running


async def chosen(prometheus: Prometheus) -> dict[str, str]:
    """Return the values of Grafana's variables when everything is selected."""
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
    """Wait until an alert fires; return it as it would be sent."""
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


async def fall_silent(db, enough: asyncio.Event) -> None:
    """Let one device after the other go offline, each alone: too few for an alert."""
    while not enough.is_set():
        await db.execute("DELETE FROM listening_gaps")  # from before the first start
        await db.execute("UPDATE devices SET is_active = false WHERE display_name = 'silent'")
        await db.execute(
            "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
            "VALUES (gen_random_uuid(), 'silent', 'family', 'android', now() - interval '1 h')"
        )
        await asyncio.sleep(1)


@needs_prometheus
@needs_promtool
async def test_every_query_of_dashboard_and_alerts_returns_data_from_a_real_prometheus(
    tmp_path, short_path, dsn, db
):
    """On a busy service; an outage and the end of the process fire alerts with a runbook."""
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
            # All the time, because panels show the last seconds.
            silent = asyncio.create_task(fall_silent(db, enough := asyncio.Event()))
            await until_nothing_is_left(watching, {expr for _, expr in queries()})
            enough.set()
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
