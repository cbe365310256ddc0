"""Shows that positions are drawn on the map, and on the page of a device."""

import re
import time
from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect

from tests.support.browser import BrowserTab

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_track_has_no_gap_after_many_new_reports(tab, host, group):
    """There are more new reports than one request returns; the older ones are loaded on request."""
    ids = await host.add(group, {"Cab": 0})
    await host.move(ids["Cab"], (10.0, 10.0))
    key = await host.make_key()
    await tab.watch(key, group, f"/device/{ids['Cab']}")
    reports = tab.page.get_by_role("region", name="Reports", exact=True).locator("tbody tr")
    await expect(reports).to_have_count(1)
    await host.db.execute(
        "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
        "SELECT $1, now() + n * interval '1 s', 48, 2, 5 FROM generate_series(1, 600) n",
        ids["Cab"],
    )
    await host.heartbeat(key, ids["Cab"])
    await expect(reports).to_have_count(500)
    await tab.page.get_by_role("button", name="Older reports").click()
    await expect(reports).to_have_count(601)
    await expect(reports.last).to_contain_text("10.0000° N")


async def test_a_device_page_shows_old_and_live_reports_without_touching_the_device(
    tab, host, group
):
    ids = await host.add(group, {"Cab": None})
    await host.move(ids["Cab"], (48.0, 2.0), (48.1, 2.1), (48.2, 2.2))
    key = await host.make_key()
    await tab.watch(key, group)
    page = tab.page
    await tab.row("Cab").get_by_role("link").click()
    reports = page.get_by_role("region", name="Reports", exact=True).locator("tbody tr")
    await expect(reports).to_have_count(3)
    await expect(reports.first).to_contain_text("48.2000° N, 2.2000° E")
    await expect(page.locator(".facts")).to_contain_text("never")
    assert await drawn(tab, "track")
    now_ms = int(time.time() * 1000) + 1000
    report = {"latitude": -33.5, "longitude": 2.2, "accuracy": 5, "battery_level": 71}
    await host.post(key, "/api/v1/locations", device_id=ids["Cab"], timestamp=now_ms, **report)
    await expect(reports).to_have_count(4)
    await expect(reports.first).to_contain_text("33.5000° S")
    await expect(reports.first).to_contain_text("71 %")
    await expect(page.locator(".facts")).to_contain_text(re.compile(r"\d s ago"))
    assert not [url for url in tab.requests if "/devices/" in urlsplit(url).path]


async def test_a_click_on_the_map_opens_the_device(tab, host, group):
    """The group's only located device is in the middle of the map."""
    ids = await host.add(group, {"Cab": 0, "Nowhere": 0})
    await host.move(ids["Cab"], (0.5, 179.9999))
    await tab.watch(await host.make_key(group), group)
    sheet = tab.page.get_by_role("img", name=re.compile("1 of the 2 devices"))
    assert await colour_in_the_middle(tab, "map") == (0x0B, 0x7A, 0x61)  # --online
    await sheet.hover()
    await expect(tab.page.locator("#map-hint")).to_contain_text("Cab")
    await sheet.click()
    await expect(tab.page.get_by_role("heading", name="Cab")).to_be_visible()


async def colour_in_the_middle(tab: BrowserTab, canvas: str) -> tuple[int, ...]:
    """Return the colour in which the middle of a canvas is drawn."""
    found = await tab.page.evaluate(
        f"(() => {{ const c = document.getElementById('{canvas}'); return [...c.getContext('2d')"
        ".getImageData(c.width / 2, c.height / 2, 1, 1).data]; })()"
    )
    return tuple(found[:3])


async def drawn(tab: BrowserTab, canvas: str) -> bool:
    """Return whether there is anything on a canvas."""
    return await tab.page.evaluate(
        f"(() => {{ const c = document.getElementById('{canvas}');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean); })()"
    )
