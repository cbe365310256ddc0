"""Takes screenshots of the live page for the documentation, with the sample fleet.

All of the hour but its last minutes is uploaded at once, and each device's activity is set to the
time of its last report. The last minutes are replayed at their original speed.
"""

import asyncio
import itertools
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from rich.console import Console

from api.access.keys import create_key
from api.config import PREFIX, Settings
from api.postgres.database import open_database
from api.postgres.embedded import embedded_server
from api.postgres.migrate import migrate
from benchmarks.demo.sample_fleet import GROUP, read_fleet
from benchmarks.harness.chromium import chromium_path
from benchmarks.harness.metrics import scrape
from benchmarks.harness.service import running_service

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
_SHOWN: Final = "AFR45FG"
"""The device whose page is shown: an aircraft that has just taken off."""
_BATCH: Final = 50
_UPLOADS: Final = 8
_DESKTOP: Final = {"width": 1400, "height": 900}
_PHONE: Final = {"width": 390, "height": 844}
_LOOKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "light": {"viewport": _DESKTOP, "color_scheme": "light"},
    "dark": {"viewport": _DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": _PHONE, "color_scheme": "light", "device_scale_factor": 2},
}

Reports = Sequence[dict[str, Any]]


class NoBrowserError(Exception):
    """There is no browser to take screenshots with."""


async def screenshots(console: Console, *, seconds: int) -> None:
    """Take the screenshots, and write them to docs/images/.

    Args:
        console: where progress is printed.
        seconds: how many seconds at the end of the hour are replayed at their original pace.

    Raises:
        NoBrowserError: chromium is not installed.
        ServiceFailedError: the service did not come up.
        EmbeddedServerError: the embedded server did not start.
        MigrationError: the database cannot be used.
    """
    fleet, reports = read_fleet()
    end_ms = max(report["timestamp"] for report in reports)
    cut_ms = end_ms - 1000 * seconds
    past = [report for report in reports if report["timestamp"] <= cut_ms]
    present = sorted(
        (report for report in reports if report["timestamp"] > cut_ms),
        key=lambda report: report["timestamp"],
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="screenshots-") as name:
        folder = Path(name)
        with embedded_server(folder / "postgres") as dsn:
            settings = Settings()
            await migrate(dsn, connect_timeout_s=settings.database.connect_timeout_s)
            async with open_database(dsn, settings.database, connections=1) as database:
                key = await create_key(database, "screenshots", None)
            environment = {
                f"{PREFIX}DATABASE__URL": dsn,
                f"{PREFIX}SERVER__PORT": url.rpartition(":")[2],
                f"{PREFIX}JOURNAL__DIR": str(folder / "journal"),
                f"{PREFIX}AUTH__KNOWN_FILE": str(folder / "known"),
            }
            async with (
                _chromium() as browser,
                running_service(url, environment, folder / "service.log"),
                aiohttp.ClientSession(url, headers={"X-API-Key": key}) as session,
            ):
                for aircraft in fleet:
                    await _post(session, "/api/v1/devices/register", aircraft.registration)
                console.print(f"uploading {len(past):,} reports ...")
                await _upload(session, past)
                await _backdate(session, dsn, past, cut_ms)
                pages = {look: await _watch(browser, url, key, look) for look in _LOOKS}
                console.print(f"replaying the last {len(present):,} in {seconds} s ...")
                await _replay(session, present, cut_ms)
                await _picture(pages, console)


@asynccontextmanager
async def _chromium() -> AsyncIterator[Browser]:
    path = chromium_path()
    if path is None:
        raise NoBrowserError("chromium is not installed: `make packages` does it")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


async def _post(session: aiohttp.ClientSession, path: str, body: object) -> None:
    async with session.post(path, json=body) as response:
        response.raise_for_status()


async def _upload(session: aiohttp.ClientSession, reports: Reports) -> None:
    by_device: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        body = dict(report)
        by_device[body.pop("device_id")].append(body)
    bodies = (
        {"device_id": device_id, "locations": own[first : first + _BATCH]}
        for device_id, own in by_device.items()
        for first in range(0, len(own), _BATCH)
    )

    async def client() -> None:
        for body in bodies:  # shared by all: each takes the next one
            await _post(session, "/api/v1/locations/batch", body)

    await asyncio.gather(*(client() for _ in range(_UPLOADS)))


async def _backdate(
    session: aiohttp.ClientSession, dsn: str, reports: Reports, now_ms: int
) -> None:
    """Set each device's activity to the time of its last report, when no touch is pending.

    The service has listened since the first report, as far as it knows then, so it finds which
    devices are offline.
    """
    while (await scrape(session, "")).total("activity_buffer_keys", target="devices"):
        await asyncio.sleep(0.2)
    seen: dict[str, list[int]] = defaultdict(list)
    for report in reports:
        seen[report["device_id"]].append(report["timestamp"])
    connection = await asyncpg.connect(dsn)
    await connection.execute("DELETE FROM listening_gaps")
    await connection.executemany(
        "UPDATE device_events SET at = date_trunc('second', now() - make_interval(secs => $2)) "
        "WHERE device_id = $1",
        [(device_id, (now_ms - min(times)) / 1000) for device_id, times in seen.items()],
    )
    await connection.executemany(
        # A device whose settings change is looked at again.
        "UPDATE devices SET last_seen_at = date_trunc('second', now() - make_interval(secs => $2)),"
        " offline_after_s = $3 WHERE device_id = $1",
        [
            (device_id, (now_ms - max(times)) / 1000, Settings().presence.offline_after_s)
            for device_id, times in seen.items()
        ],
    )
    await connection.close()


async def _watch(browser: Browser, url: str, key: str, look: str) -> Page:
    context: BrowserContext = await browser.new_context(
        locale="en-GB", timezone_id="UTC", **_LOOKS[look]
    )
    page = await context.new_page()
    await page.goto(f"{url}/#/group/{GROUP}")
    await page.get_by_label("API key").fill(key)
    await page.keyboard.press("Enter")
    await page.locator(".connection.live").wait_for()
    return page


async def _replay(session: aiohttp.ClientSession, reports: Reports, start_ms: int) -> None:
    """Post reports when they are due, spread over their second, as devices are not synchronized."""
    started = time.monotonic()
    for second, due in itertools.groupby(
        reports, key=lambda report: (report["timestamp"] - start_ms) // 1000
    ):
        together = list(due)
        for place, report in enumerate(together):
            at = started + second + place / len(together)
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            await _post(session, "/api/v1/locations", report)


async def _picture(pages: Mapping[str, Page], console: Console) -> None:
    for look, page in pages.items():
        await _shoot(page, f"live-{look}.png", console)
    page = pages["light"]
    await page.get_by_role("link", name=_SHOWN, exact=True).click()
    await page.get_by_role("region", name="Reports", exact=True).wait_for()
    await _shoot(page, "live-device.png", console)


async def _shoot(page: Page, name: str, console: Console) -> None:
    path = FOLDER / name
    await page.screenshot(path=path, animations="disabled")
    console.print(f"{path}, {path.stat().st_size / 1000:.0f} kB")
