"""Shows that the page lists stored events, and announces new ones."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import expect

from tests.support.browser import BrowserTab
from tests.support.page_service import IDLE_S, OFFLINE_S

pytestmark = pytest.mark.asyncio(loop_scope="package")


def asked_for_events(tab: BrowserTab) -> list[dict[str, list[str]]]:
    """Return the queries of the requests for events."""
    urls = [urlsplit(url) for url in tab.requests]
    return [parse_qs(url.query) for url in urls if url.path == "/api/v1/events"]


async def test_new_events_are_listed_and_announced(tab, host, group):
    """With links to the devices that exist; without a further request."""
    ids = await host.add(group, {"Cab": OFFLINE_S, "Van": IDLE_S})
    key = await host.make_key()
    await tab.watch(key, group)
    page = tab.page
    items = page.get_by_role("list", name="Latest events").get_by_role("listitem")
    await expect(items).to_have_count(2)
    line = page.locator(".news")
    assert await line.get_attribute("aria-live") == "polite"
    await expect(line).to_have_text("")
    await host.heartbeat(key, ids["Cab"])
    await expect(line).to_have_text(re.compile(r"^\d+:\d\d:\d\d: Cab came online after 16 min$"))
    await expect(items.first).to_contain_text("Cab came online after 16 min")
    body = {"device_id": ids["Van"], "display_name": "Van", "group_id": f"{group}-2"}
    await host.post(key, "/api/v1/devices/register", **body)
    await expect(items.first).to_contain_text(f"Van moved to {group}-2")
    await expect(tab.row("Van")).to_have_count(0)
    await expect(items.first).to_contain_text("Van moved")
    await expect(items.first.get_by_role("link")).to_have_count(0)
    assert asked_for_events(tab) == [{"group_id": [group], "take": ["newest"], "limit": ["50"]}]
    await items.filter(has_text="Cab came").get_by_role("link").click()
    await expect(page.get_by_role("heading", name="Cab")).to_be_visible()


async def test_a_device_page_has_its_events_and_its_last_day(tab, host, group):
    """The day is drawn, and described as text; a new event is added without another request."""
    ids = await host.add(group, {"Cab": OFFLINE_S, "Van": 0})
    key = await host.make_key()
    await tab.watch(key, group, f"/device/{ids['Cab']}")
    page = tab.page
    rows = page.get_by_role("region", name="Events", exact=True).locator("tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows.first).to_contain_text("was registered")
    bars = page.get_by_role(
        "img", name=re.compile("^Timeline: online 3[34] min, offline 1[67] min")
    )
    await expect(bars.locator("rect")).to_have_count(3)
    await expect(page.locator(".facts")).to_contain_text("Offline since")
    await host.heartbeat(key, ids["Van"])  # is no event
    await host.heartbeat(key, ids["Cab"])
    await expect(rows.first).to_contain_text("came online after 16 min")
    await expect(rows).to_have_count(2)
    await expect(bars.locator("rect")).to_have_count(4)
    await expect(page.locator(".facts")).to_contain_text("Online since")
    assert [one for one in asked_for_events(tab) if "device_id" in one] == [
        {"device_id": [ids["Cab"]], "take": ["newest"], "limit": ["200"]}
    ]


async def test_the_title_counts_events_while_the_tab_is_hidden(tab, host, group):
    """Of the stream until it is closed, then with one short request a minute."""
    ids = await host.add(group, {"Cab": OFFLINE_S})
    key = await host.make_key()
    page = tab.page
    await page.clock.install()
    await tab.watch(key, group)
    items = page.get_by_role("list", name="Latest events").get_by_role("listitem")
    await expect(items).to_have_count(1)

    async def look(hidden: str) -> None:
        await page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});"
            "document.dispatchEvent(new Event('visibilitychange'));"
        )

    await look("true")
    await host.heartbeat(key, ids["Cab"])
    await expect(page).to_have_title(f"(1) {group} · Fleet, live")
    await page.clock.fast_forward(31_000)
    await host.add(group, {"Bus": 0, "Van": 0})
    await host.until_events(group, 4)
    asked = len(asked_for_events(tab))
    await page.clock.fast_forward(60_000)
    await expect(page).to_have_title(f"(3) {group} · Fleet, live")
    (polled,) = asked_for_events(tab)[asked:]
    assert polled["limit"] == ["100"]
    assert "after" in polled
    await look("false")
    await expect(page).to_have_title(f"{group} · Fleet, live")
    await tab.live()
    await expect(items).to_have_count(4)
