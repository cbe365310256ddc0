"""Shows that the page survives outages, hidden tabs and proxies."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from tests.support.browser import open_tab
from tests.support.page_service import IDLE_S
from tests.support.proxies import proxy

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_hidden_tab_closes_its_stream_and_reopens_it_when_visible(tab, host, group):
    """A browser has only six connections to a server for all tabs."""
    ids = await host.add(group, {"Cab": IDLE_S})
    key = await host.make_key()
    await tab.page.clock.install()
    await tab.watch(key, group)
    streams = await host.streams()

    async def look(hidden: str) -> None:
        await tab.page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});"
            "document.dispatchEvent(new Event('visibilitychange'));"
        )

    def stream_requests() -> int:
        return sum("/api/v1/live" in url for url in tab.requests)

    await look("true")
    await tab.page.clock.fast_forward(31_000)
    async with asyncio.timeout(60):
        while await host.streams() >= streams:
            await asyncio.sleep(0.1)
    before = stream_requests()
    await tab.page.clock.fast_forward(60_000)
    await host.heartbeat(key, ids["Cab"])
    assert await host.streams() < streams
    assert stream_requests() == before
    await look("false")
    await tab.live()
    await expect(tab.row("Cab")).to_contain_text("online")
    assert stream_requests() == before + 1


async def test_a_track_that_cannot_be_loaded_is_loaded_after_the_outage(tab, host, group):
    """Until then the page shows a message."""
    ids = await host.add(group, {"Cab": IDLE_S})
    await host.move(ids["Cab"], (48.0, 2.0), (48.1, 2.1))
    key = await host.make_key()
    await tab.watch(key, group)
    await host.stop()
    await expect(tab.page.locator(".connection")).to_contain_text("Reconnecting")
    await tab.row("Cab").get_by_role("link").click()
    await expect(tab.page.get_by_role("alert")).to_contain_text("The track cannot be shown")
    await host.start()
    await tab.live()
    reports = tab.page.get_by_role("region", name="Reports", exact=True).locator("tbody tr")
    await expect(reports).to_have_count(2)
    await expect(tab.page.get_by_role("alert")).to_have_count(0)
    tab.problems.clear()


async def test_the_page_reconnects_after_a_restart_of_the_service(tab, host, group):
    """Meanwhile it reports the outage, and keeps showing the last known state."""
    ids = await host.add(group, {"Cab": IDLE_S, "Bus": None})
    key = await host.make_key()
    await tab.watch(key, group)
    await host.stop()
    connection = tab.page.locator(".connection")
    await expect(connection).to_contain_text("Reconnecting")
    await expect(connection).to_contain_text(re.compile(r"known at \d+:\d\d:\d\d"))
    await expect(tab.page.get_by_role("status")).to_contain_text("Connection lost")
    await tab.shows(["Cab", "Bus"])
    await tab.check_accessible()
    await host.start()
    await tab.live()
    await expect(tab.page.get_by_role("status")).to_have_text("Live")
    await host.heartbeat(key, ids["Bus"])
    await tab.shows(["Bus", "Cab"])
    assert all("ERR_" in problem for problem in tab.problems)
    tab.problems.clear()


async def test_the_page_works_below_a_path_prefix_of_a_proxy(browser, host, group, tmp_path):
    """Files, requests and the live stream have addresses relative to the page."""
    await host.add(group, {"Van 1": 5})
    key = await host.make_key(group)
    port = int(host.url.rpartition(":")[2])
    async with (
        proxy("nginx", port, tmp_path) as proxied,
        open_tab(browser, f"http://127.0.0.1:{proxied}/tracker") as tab,
    ):
        await tab.sign_in(key)
        await tab.shows(["Van 1"])
        await host.add(group, {"Van 2": 0})
        await tab.shows(["Van 2", "Van 1"])
        tab.check_well()
