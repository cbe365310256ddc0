"""`python -m api status` shows the state of a healthy or an unhealthy service."""

import asyncio
import json
import signal
import sys

import pytest
from aiohttp import web

from api.status.client import open_session
from api.status.sampling import Sampler
from tests.support.command_line import run
from tests.support.status_client import BUILD, READY, Stub, shown, watching
from tests.support.terminal import terminal
from tracker import FlushError

STARTED = "process_start_time_seconds"


async def test_a_healthy_service_is_shown_with_its_rates(service):
    """Clients' requests count, those for health and metrics do not."""
    device = await service.register()
    await service.tracker.flush()
    async with watching(service.client.make_url("")) as sample_again:
        first = await sample_again()
        assert (first.state, first.figures.over_s) == ("ready", None)
        for _ in range(20):
            await service.heartbeat(device)
        await service.call("GET", "/api/v1/devices/nonsense")
        second = await sample_again()
    assert second.findings == []
    over_s, devices = second.figures.over_s, second.figures.targets["devices"]
    assert devices.touches_per_s * over_s == pytest.approx(20)
    assert devices.coalesced_share == 19 / 20
    assert devices.pending_keys == 1
    assert devices.journal == "ok"
    assert devices.last_flush_age_s < 100
    http = second.figures.http
    classes = {name: round(rate * over_s) for name, rate in http.per_s_by_class.items()}
    assert classes == {"2xx": 20, "4xx": 1, "5xx": 0}
    assert http.per_s * over_s == pytest.approx(21)
    assert 0 < http.p50_s <= http.p99_s < 10
    assert second.figures.process.uptime_s > 0
    assert second.figures.process.memory_bytes > 1_000_000
    text = shown(second)
    assert text.startswith(" READY  http://")
    for part in ("1 of 1,000,000 keys", "95.0 %", "s ago", "4xx"):
        assert part in text


async def test_an_unhealthy_service_is_shown_with_its_alerts_first(service, db):
    """Its table is gone, and its journal misses a touch: exit code 1, and where to read on."""
    device = await service.register()
    await service.tracker.flush()
    await service.heartbeat(device)
    await db.execute("ALTER TABLE devices RENAME TO elsewhere")
    for _ in range(3):
        with pytest.raises(FlushError):
            await service.tracker.flush()
    service.tracker.buffers["devices"].journal.append(None, 0)  # no key: it can't be appended
    url = str(service.client.make_url(""))
    told = ("status", "--every", "0.2", "--url", url)
    done, as_json = await asyncio.gather(
        asyncio.to_thread(run, *told), asyncio.to_thread(run, *told, "--json")
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(" READY  http://")
    assert lines[3].startswith("critical ActivityFlushPermanentError: flush.devices: ")
    assert "api/monitoring/RUNBOOK.md#activityjournaldegraded" in done.stdout
    assert "3 in a row, permanent" in done.stdout
    assert as_json.returncode == 0
    state = json.loads(as_json.stdout)
    assert (state["state"], state["problems"]) == ("ready", {})
    assert list(state["warnings"]) == ["flush.devices", "journal.devices"]
    assert {finding["alert"] for finding in state["findings"]} == {
        "ActivityFlushPermanentError",
        "ActivityJournalDegraded",
    }
    assert state["figures"]["targets"]["devices"]["failures_in_a_row"] == 3
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")


async def test_the_exit_code_shows_whether_the_service_is_ready():
    """For scripts; without a terminal it is printed once, without colours or cursor movements."""
    async with Stub().serving() as url:
        done = await asyncio.to_thread(run, "status", "--every", "0.2", "--url", str(url))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f" READY  {url}".rstrip("/"))
    assert "\x1b" not in done.stdout


async def test_status_continues_when_a_service_stops_and_starts_again():
    """Its last figures stay, with their age, and a new process has no rates with the old one."""
    stub = Stub()
    stub.metrics = f'{BUILD}{STARTED} 1000\nactivity_touches_total{{target="devices"}} 500\n'
    async with stub.serving() as url, watching(url) as sample_again:
        await sample_again()
        assert (await sample_again()).figures.over_s is not None
    async with watching(url) as sample_anew:
        assert "Connection refused" in (await sample_anew()).findings[0].text
    sampler = Sampler(url)
    async with open_session() as session:
        async with stub.serving(url.port):
            await sampler.sample(session)
        gone = await sampler.sample(session)
        assert (gone.state, gone.figures.process.version) == ("unreachable", "9.8.7")
        assert gone.stale_s >= 0
        assert "figures of" in shown(gone)
        stub.metrics = stub.metrics.replace("1000", "2000").replace("500", "3")
        async with stub.serving(url.port):
            back = await sampler.sample(session)
        assert (back.state, back.stale_s, back.restarted) == ("ready", None, True)
        assert back.figures.targets["devices"].touches_per_s is None
        assert "restarted meanwhile" in shown(back)


async def test_the_view_is_live_until_ctrl_c_and_stays_on_the_screen():
    """The screen is given back, the exit code is 0, and no outage ends it."""
    stub = Stub()
    async with stub.serving() as url:
        command = (sys.executable, "-m", "api", "status", "--every", "0.2", "--url", str(url))
        with terminal(*command, kind="xterm", COLUMNS="80", LINES="40") as seen:
            await asyncio.to_thread(seen.wait_for, "version 9.8.7")
            stub.ready = web.json_response(
                {
                    "status": "not_ready",
                    "problems": ["database"],
                    "warnings": [],
                    "details": {"database": "gone"},
                },
                status=503,
            )
            await asyncio.to_thread(seen.wait_for, "not ready, database: gone")
            stub.ready = web.json_response(READY)
            await asyncio.to_thread(seen.wait_for, " READY ")
            code, rest = await asyncio.to_thread(seen.end, signal.SIGINT)
    assert code == 0
    left = rest.rpartition("\x1b[?1049l")
    assert left[1]
    assert " READY " in left[2]
    assert "Traceback" not in rest
