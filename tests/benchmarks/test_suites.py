"""The benchmarks alternate contenders, check the table, and compare rounds."""

import asyncio
import io

import msgspec
import pytest
from rich.console import Console

from benchmarks.harness import contenders
from benchmarks.harness.flushing import Clock, check, our_flusher
from benchmarks.harness.pairs import alternate, ratio
from benchmarks.harness.plots import plot
from benchmarks.harness.report import (
    BenchmarkFailedError,
    Measured,
    Report,
    Results,
    markdown,
    read_results,
    show,
    write_results,
)
from benchmarks.harness.testbed import Testbed, connected, updates_seen
from benchmarks.suites import presence_watch
from benchmarks.suites.run import BENCHMARKS
from benchmarks.suites.scrape import scraping
from tests.support.service import REPORT
from tracker.postgres import open_pool


def printed(results: Results, earlier: Results | None = None) -> str:
    """Return what a run looks like on a wide terminal."""
    output = io.StringIO()
    show(results, Console(file=output, width=200), earlier)
    return output.getvalue()


def a_report() -> Report:
    """A run in which one goal is met and one is missed."""
    report = Report()
    slow, fast = Measured("slow", [1.0, 2.0, 4.0, 8.0, 16.0], "/s"), [2.0, 4.0, 8.0, 16.0, 32.0]
    report.compare("toys", "fast / slow [each]", Measured("fast", fast, "/s"), slow, goal=1.5)
    report.compare(
        "toys", "slow / fast", slow, Measured("fast", fast, "/s"), goal=0.4, better="lower"
    )
    report.state("toys", "weight", [3.0], "g")
    report.series("throughput", "ours", fast)
    report.series("latency", "ours p99", slow.values)
    report.note("nothing to worry about")
    report.note("nothing to worry about")
    return report


async def test_contenders_alternate_and_take_turns_to_be_first():
    """A B, B A, A B ...: other load on the machine affects both."""
    order = []

    def measuring(name: str):
        async def measure() -> float:
            order.append(name)
            return 1.0

        return measure

    measured = await alternate(6, {"a": measuring("a"), "b": measuring("b")})
    assert order == ["a", "b", "b", "a"] * 3
    assert {name: len(values) for name, values in measured.items()} == {"a": 6, "b": 6}
    assert len((await alternate(1, {"a": measuring("a")}))["a"]) == 5  # never fewer


def test_a_ratio_is_that_of_rounds_not_of_medians():
    """A machine that is ten times slower in one round does not change it."""
    found = ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_a_report_has_goals_and_an_earlier_run(tmp_path):
    """The table says what was met and what missed; JSON has all of it."""
    report = a_report()
    file = tmp_path / "results.json"
    write_results(report.results, file)
    again = read_results(file)
    assert msgspec.json.encode(again) == msgspec.json.encode(report.results)
    text = printed(again)
    met, missed = (line for line in text.splitlines() if " / " in line)
    assert "fast / slow [each]" in met
    assert ("met" in met, "missed" in missed) == (True, True)
    assert "fast 8 /s; slow 4 /s" in met
    assert text.count("nothing to worry about") == 1
    assert "| toys | fast / slow [each] | 2 | 2 - 2 | >= 1.5 | met |" in markdown(again)
    earlier = a_report()
    earlier.results.findings.pop()
    compared = printed(again, earlier.results)
    assert "before" in compared
    (line,) = (line for line in compared.splitlines() if "weight" in line)
    assert "new" in line


def test_earlier_results_that_cannot_be_read_are_a_clear_error(tmp_path):
    """A wrong path is found before ten minutes are spent."""
    with pytest.raises(BenchmarkFailedError, match="cannot read earlier results"):
        read_results(tmp_path / "nowhere.json")


def test_plots_are_drawn_for_what_was_measured(tmp_path):
    """One file each, and none for a benchmark that did not run."""
    assert {file.name for file in plot(a_report().results, tmp_path)} == {
        "throughput.png",
        "latency.png",
    }
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("throughput.png",))


async def test_a_flush_that_left_rows_out_is_detected(server_dsn):
    """A benchmark's figures count only if the table holds what was touched."""
    async with (
        Testbed(server_dsn).fleet(50) as fleet,
        open_pool(fleet.dsn, connections=1) as pool,
    ):
        touches = Clock().touches(fleet.devices, 40)
        with pytest.raises(BenchmarkFailedError, match="0 of 40 touches"):
            await check(fleet.dsn, touches)
        await our_flusher(pool, touches).flush()
        await check(fleet.dsn, touches)


async def test_timed_scrapes_are_of_a_service_with_many_metrics(server_dsn, monkeypatch):
    """By another process, while the event loop is watched; few keys will do to see that."""
    monkeypatch.setattr("benchmarks.suites.scrape._ROUNDS", 1)
    report, steps = Report(), []
    await scraping(Testbed(server_dsn), report, lambda: steps.append(1), many=2000)
    assert len(steps) == BENCHMARKS["scrape"][1]
    found = {one.what: one for one in report.results.findings}
    assert found["time of one, 2,000 keys"].rounds == 10
    assert found["time of one, 2,000 keys"].goal == 50
    assert found["longest stall of the event loop meanwhile"].goal == 5
    assert all(one.value > 0 for one in found.values())


@pytest.mark.parametrize("name", ["awaited", "spawned", "throttled"])
async def test_each_contender_writes_every_touch(name, server_dsn, aiohttp_client):
    """Each does the work that it is compared for: a device and a key, in two statements."""
    async with Testbed(server_dsn).fleet(3, count_statements=True) as fleet:
        settings = contenders.Settings(database={"url": fleet.dsn}, tracker={"enabled": False})
        async with contenders.contender(name, settings) as app:
            client = await aiohttp_client(app)
            for _ in range(2):
                for device in fleet.devices:
                    response = await client.post(
                        f"/api/v1/devices/{device}/heartbeat",
                        headers={"X-API-Key": fleet.keys[0]},
                    )
                    assert response.status == 204
            expected = 4 if name == "throttled" else 12  # a key and three devices, once a minute
            async with asyncio.timeout(30):
                while await updates_seen(fleet.dsn) < expected:
                    await asyncio.sleep(0.01)
            await client.close()
        assert await updates_seen(fleet.dsn) == expected
        async with connected(fleet.dsn) as connection:
            assert not await connection.fetchval(
                "SELECT count(*) FROM devices WHERE last_seen_at IS NULL"
            )


@pytest.mark.parametrize(("name", "rows"), [("no-database", 0), ("insert", 1), ("ours", 1)])
async def test_each_contender_stores_uploads_as_described(name, rows, server_dsn, aiohttp_client):
    """One stores nothing, one row by row, one in groups."""
    async with Testbed(server_dsn).fleet(1) as fleet:
        settings = contenders.Settings(database={"url": fleet.dsn})
        async with contenders.contender(name, settings) as app:
            client = await aiohttp_client(app)
            response = await client.post(
                "/api/v1/locations",
                json={"device_id": fleet.devices[0], **REPORT},
                headers={"X-API-Key": fleet.keys[0]},
            )
            assert response.status == 200
            async with connected(fleet.dsn) as connection:
                assert await connection.fetchval("SELECT count(*) FROM locations") == rows
            await client.close()


async def test_presence_is_measured_until_each_offline_device_is_found(server_dsn, monkeypatch):
    """With few devices: each has its event, and none of the others has one."""
    for name, value in (("_LOADED_WITHIN_S", 2), ("_QUIET_S", 0.05), ("_MARGIN_S", 1)):
        monkeypatch.setattr(presence_watch, name, value)
    monkeypatch.setattr(presence_watch, "_SILENT_FOR_S", 2)
    report, steps = Report(), []
    await presence_watch.watch(
        *(Testbed(server_dsn), report, lambda: steps.append(1)), devices=2000, per_s=50
    )
    assert len(steps) == presence_watch.STEPS
    found = {one.what: one for one in report.results.findings}
    delays = found[
        "offline found after its deadline, 2,000 devices, 50 a second, p99 of each second"
    ]
    assert (delays.rounds, delays.goal) == (2, 2)
    assert found["CPU of watching 2,000 quiet devices, of a core"].value > 0
