"""The demo: sends the sample fleet's real reports to the service, and checks the result.

Every report is posted on its own, as the fleet would; the service runs in a process of its own, on
an embedded server or on the one that ACTIVITY__DATABASE__URL names.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from api.access.keys import create_key, find_keys, revoke_key
from api.config import Settings
from api.postgres.database import open_database
from api.postgres.embedded import configured_server
from api.targets import names
from benchmarks.demo.sample_fleet import GROUP, Aircraft, read_fleet
from benchmarks.harness.metrics import Metrics, scrape
from benchmarks.harness.progress import Progress
from benchmarks.harness.service import running_service

_CLIENTS: Final = 16
_WORKERS: Final = 2
_KEY_NAME: Final = "demo"
_KEY_VALID_S: Final = 86_400
_SETTLED_WITHIN_S: Final = 30
_OK: Final = 200

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Replay:
    """The responses to the replayed reports."""

    reports: int
    started_at: int = field(default_factory=lambda: int(time.time()))
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    worst_lag_s: float = 0.0


async def demo(settings: Settings, console: Console, *, leave: bool) -> int:
    """Run the demo.

    Args:
        settings: the service's settings; its server and its database.
        console: where progress is shown.
        leave: whether to end when done, instead of staying up until Ctrl-C.

    Returns:
        0 if every report was accepted, every aircraft is listed as seen, and the counters balance;
        else 1.

    Raises:
        ServiceFailedError: the service did not come up.
        EmbeddedServerError: the embedded server did not start.
        StoreError: the database cannot be used.
    """
    url = f"http://{settings.server.host}:{settings.server.port}"
    folder = Path(settings.database.data_dir).parent
    folder.mkdir(parents=True, exist_ok=True)
    console.print("reading one hour of 91 aircraft over Paris ...")
    fleet, reports = read_fleet()
    with configured_server(settings.database) as dsn:
        workers = max(_WORKERS, settings.server.workers)
        environment = {
            "ACTIVITY__DATABASE__URL": dsn,
            "ACTIVITY__DATABASE__AUTO_MIGRATE": "true",
            "ACTIVITY__SERVER__WORKERS": str(workers),
        }
        async with (
            running_service(url, environment, folder / "demo.log"),
            _lent_key(settings, dsn) as key,
            aiohttp.ClientSession(url, headers={"X-API-Key": key}) as session,
        ):
            log_file = folder / "demo.log"
            console.print(f"{workers} workers listen at {url}, their log is {log_file}")
            await _register(session, fleet)
            replay = await _replay(session, reports, console)
            metrics = await _settled(session)
            listing = await _listing(session)
            problems = find_problems(replay, fleet, listing, metrics)
            _show_listing(console, listing)
            _show_replay(console, replay, metrics)
            for problem in problems:
                console.print(f"[red]problem:[/red] {problem}")
            if not leave:
                _show_try_it(console, url, key, fleet[0])
                await _interrupted()
            return 1 if problems else 0


@asynccontextmanager
async def _lent_key(settings: Settings, dsn: str) -> AsyncIterator[str]:
    """Yield an API key that is revoked at the end, and expires after a day in any case."""
    async with open_database(dsn, settings.database, connections=1) as database:
        key = await create_key(database, _KEY_NAME, None, valid_s=_KEY_VALID_S)
        try:
            yield key
        finally:
            for found in await find_keys(database, key):
                await revoke_key(database, found.id)


async def _register(session: aiohttp.ClientSession, fleet: Sequence[Aircraft]) -> None:
    for aircraft in fleet:
        async with session.post("/api/v1/devices/register", json=aircraft.registration) as response:
            response.raise_for_status()


async def _replay(
    session: aiohttp.ClientSession, reports: Sequence[dict[str, Any]], console: Console
) -> Replay:
    replay = Replay(len(reports))
    bodies = iter([_encode(report) for report in reports])
    headers = {"Content-Type": "application/json"}

    async def client() -> None:
        for body in bodies:  # shared by all clients: each takes the next one
            async with session.post("/api/v1/locations", data=body, headers=headers) as response:
                await response.read()
                replay.statuses[response.status] += 1
                step()

    async def watch_lag() -> None:
        while True:
            metrics = await scrape(session, "")
            lag_s = max(metrics.total("activity_lag_seconds", target=t) for t in names())
            replay.worst_lag_s = max(replay.worst_lag_s, lag_s)
            await asyncio.sleep(0.5)

    started = time.monotonic()
    with Progress(console).part("replay", len(reports)) as step:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch_lag())
            await asyncio.wait([group.create_task(client()) for _ in range(_CLIENTS)])
            replay.seconds = time.monotonic() - started
            watching.cancel()
    return replay


async def _settled(session: aiohttp.ClientSession) -> Metrics:
    """Wait until everything is in the table, or for the timeout; return the last scrape."""
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        metrics = await scrape(session, "")
        if metrics.total("activity_buffer_keys") == 0 or time.monotonic() > deadline:
            return metrics
        await asyncio.sleep(0.2)


async def _listing(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with session.get("/api/v1/devices", params={"group_id": GROUP}) as response:
        response.raise_for_status()
        devices: list[dict[str, Any]] = (await response.json())["devices"]
        return devices


def find_problems(
    replay: Replay,
    fleet: Sequence[Aircraft],
    listing: Sequence[dict[str, Any]],
    metrics: Metrics,
) -> list[str]:
    """Return the checks that fail after a replay, as text.

    Args:
        replay: the service's responses.
        fleet: the aircraft that were replayed.
        listing: the devices that the service lists.
        metrics: the service's metrics, when nothing should be pending.
    """
    problems = []
    if replay.statuses.keys() != {_OK} or replay.statuses[_OK] != replay.reports:
        problems.append(f"not every report was accepted: {dict(replay.statuses)}")
    seen = {
        device["device_id"]
        for device in listing
        if device["last_seen_at"] is not None
        and datetime.fromisoformat(device["last_seen_at"]).timestamp() >= replay.started_at
        and device["last_location"] is not None
    }
    unseen = [one.callsign for one in fleet if one.device_id not in seen]
    if unseen:
        problems.append(f"not listed as seen: {', '.join(unseen)}")
    problems += [
        f"the counters of {target} do not balance, or still change"
        for target in names()
        if metrics.balance(target) or metrics.total("activity_buffer_keys", target=target)
    ]
    return problems


def _show_listing(console: Console, listing: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"GET /api/v1/devices?group_id={GROUP}", box=None, title_justify="left")
    for column in ("aircraft", "last_seen_at", "latitude", "longitude", "captured"):
        right = column.endswith("itude")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for device in listing:
        at = device["last_location"]
        where = (
            (f"{at['latitude']:.4f}", f"{at['longitude']:.4f}", at["timestamp"])
            if at
            else ("-", "-", "-")
        )
        table.add_row(device["display_name"], device["last_seen_at"] or "never", *where)
    console.print()
    console.print(table)


def _show_replay(console: Console, replay: Replay, metrics: Metrics) -> None:
    accepted = replay.statuses[_OK]
    console.print(
        f"\n{accepted:,} reports accepted in {replay.seconds:.1f} s "
        f"({accepted / replay.seconds:,.0f} a second)"
    )
    table = Table(box=None)
    for column in ("target", "touches", "row writes", "UPDATEs", "lost", "lag now"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for target in names():
        figures = (
            metrics.total("activity_touches_total", target=target),
            metrics.total("activity_flush_keys_total", target=target, outcome="written"),
            metrics.total("activity_flush_chunk_rows_count", target=target),
            metrics.total("activity_touches_dropped_total", target=target),
        )
        lag_s = metrics.total("activity_lag_seconds", target=target)
        table.add_row(target, *(f"{figure:,.0f}" for figure in figures), f"{lag_s:.1f} s")
    console.print(table)
    touches = metrics.total("activity_touches_total")
    statements = metrics.total("activity_flush_chunk_rows_count")
    console.print(
        f"UPDATEs: {statements:,.0f}, where one for each touch would be {touches:,.0f}\n"
        f"lag during the replay: at most {replay.worst_lag_s:.1f} s"
    )


def _show_try_it(console: Console, url: str, key: str, aircraft: Aircraft) -> None:
    console.print(
        f"\nThe service stays up until Ctrl-C.\n  URL      {url}\n  API key  {key}\n"
        f"Open the URL in a browser and sign in with the API key, or try\n"
        f"  curl -H 'X-API-Key: {key}' '{url}/api/v1/devices?group_id={GROUP}&limit=3'\n"
        f"  curl -H 'X-API-Key: {key}' -X POST -i "
        f"'{url}/api/v1/devices/{aircraft.device_id}/heartbeat'\n"
        f"  curl {url}/metrics",
        soft_wrap=True,
        highlight=False,
    )


async def _interrupted() -> None:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    await event.wait()
