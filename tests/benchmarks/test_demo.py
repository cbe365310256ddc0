"""The sample fleet, as the demo reads it, and the demo's check of a replay."""

import asyncio
import os
import signal
import socket
import sys
from collections import Counter

from benchmarks.demo.demo import Replay, find_problems
from benchmarks.demo.sample_fleet import GROUP, read_fleet
from benchmarks.harness.metrics import parse_metrics
from tests.support.command_line import CHECKOUT
from tests.support.service import seconds

BALANCED = """
activity_touches_total{target="devices"} 10
activity_touches_coalesced_total{target="devices"} 6
activity_flush_keys_total{target="devices",outcome="written"} 3
activity_flush_keys_total{target="devices",outcome="missing"} 1
"""


def test_the_sample_fleet_is_complete():
    """91 aircraft, 90,371 reports, in the order of arrival, as uploads in metric units."""
    fleet, reports = read_fleet()
    assert (len(fleet), len(reports)) == (91, 90_371)
    assert {report["device_id"] for report in reports} == {one.device_id for one in fleet}
    times = [report["timestamp"] for report in reports]
    assert times == sorted(times)
    first = reports[0]
    assert fleet[0].icao24 == "398564"
    assert first["device_id"] == fleet[0].device_id
    assert (first["timestamp"], first["latitude"]) == (1_633_608_001_000, 48.3634)
    assert round(first["altitude"], 1) == 6172.2
    assert round(first["speed"], 1) == 198.1


async def test_the_fleets_reports_are_accepted_as_they_are(service):
    """Real data with its gaps passes validation: 2,000 reports by batches."""
    fleet, reports = read_fleet()
    for aircraft in fleet:
        body = aircraft.registration
        response = await service.call("POST", "/api/v1/devices/register", json=body)
        assert response.status == 200, await response.text()
    sent: dict[str, list[dict[str, object]]] = {}
    for report in reports[:2000]:
        sent.setdefault(report["device_id"], []).append(report)
    for device_id, own in sent.items():
        for start in range(0, len(own), 50):
            batch = {"device_id": device_id, "locations": own[start : start + 50]}
            response = await service.call("POST", "/api/v1/locations/batch", json=batch)
            assert response.status == 200, await response.text()
    listed = {device["device_id"]: device for device in await service.listing(GROUP)}
    assert len(listed) == 91
    for device_id, own in sent.items():
        at = listed[device_id]["last_location"]
        assert seconds(at["timestamp"]) * 1000 == own[-1]["timestamp"]


def test_the_demo_finds_what_is_wrong():
    """A rejected report, an aircraft that was not seen, and counters that do not balance."""
    fleet, _ = read_fleet()
    two = fleet[:2]
    replay = Replay(reports=5, statuses=Counter({200: 5}))
    at = {"last_seen_at": "2999-01-01T00:00:00Z", "last_location": {}}
    listing = [{"device_id": one.device_id, **at} for one in two]
    metrics = parse_metrics(BALANCED)
    assert find_problems(replay, two, listing, metrics) == []
    assert len(find_problems(replay, two, listing[:1], metrics)) == 1
    old = {**listing[0], "last_seen_at": "2001-01-01T00:00:00Z"}
    assert len(find_problems(replay, two, [old, listing[1]], metrics)) == 1
    unbalanced = parse_metrics(BALANCED.replace("} 3", "} 2"))
    assert len(find_problems(replay, two, listing, unbalanced)) == 1
    replay.statuses[503] = 1
    assert len(find_problems(replay, two, listing, metrics)) == 1


async def test_the_demo_reports_a_port_in_use(tmp_path, dsn):
    """Another service on the port is not taken for the demo's."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "demo", "--exit"),
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ACTIVITY__DATABASE__URL": dsn,
            "ACTIVITY__DATABASE__DATA_DIR": str(tmp_path / "postgres"),
            "ACTIVITY__SERVER__PORT": str(port),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(100):
            _, stderr = await process.communicate()
        assert process.returncode == 1
        assert b"cannot listen" in stderr
        assert str(port).encode() in stderr
        assert b"Traceback" not in stderr
    finally:
        listener.close()
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
