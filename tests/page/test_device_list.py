"""Shows that a group's devices can be sorted, filtered, searched and linked to."""

import pytest
from playwright.async_api import expect

from tests.support.page_service import IDLE_S, OFFLINE_S

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_devices_are_sorted_filtered_and_searched(tab, host, group):
    """Column headers report the order to screen readers."""
    ids = await host.add(group, {"Bus 10": 0, "Bus 9": OFFLINE_S, "Cab": IDLE_S, "Düne": None})
    await tab.watch(await host.make_key(), group)
    page = tab.page
    await tab.shows(["Bus 10", "Cab", "Bus 9", "Düne"])
    header = page.get_by_role("columnheader", name="Device")
    await header.get_by_role("link").click()
    await tab.shows(["Bus 9", "Bus 10", "Cab", "Düne"])
    assert await header.get_attribute("aria-sort") == "ascending"
    await header.get_by_role("link").click()
    await tab.shows(["Düne", "Cab", "Bus 10", "Bus 9"])
    assert await header.get_attribute("aria-sort") == "descending"
    await page.get_by_role("columnheader", name="State").get_by_role("link").click()
    await tab.shows(["Bus 10", "Cab", "Bus 9", "Düne"])
    await page.locator(".filter", has_text="Never").click()
    await tab.shows(["Düne"])
    await page.locator(".filter", has_text="Offline").click()
    await tab.shows(["Bus 9"])
    search = page.get_by_label("Search by name or id")
    await search.fill("BUS")
    await tab.shows(["Bus 9"])
    await page.locator(".filter", has_text="All").click()
    await tab.shows(["Bus 10", "Bus 9"])
    await search.fill(ids["Cab"][4:])
    await tab.shows(["Cab"])
    await search.fill("du\u0308ne")
    await tab.shows(["Düne"])
    await search.fill("dune")
    await tab.shows(["Düne"])
    await search.fill("nobody")
    await page.get_by_role("link", name="Show all devices").click()
    await expect(tab.rows()).to_have_count(4)


async def test_the_table_keeps_no_nodes_of_removed_rows(tab, host, group):
    """A page on a wall display stays open for weeks."""
    ids = await host.add(group, {f"Van {n}": IDLE_S + n for n in range(3)})
    key = await host.make_key()
    await tab.watch(key, group)
    nodes = "document.querySelector('.devices tbody').childNodes.length"
    before = await tab.page.evaluate(nodes)
    for name, device_id in ids.items():
        await host.heartbeat(key, device_id)
        await expect(tab.row(name)).to_contain_text("online")
        await tab.page.locator(".filter", has_text="Idle").click()
        await expect(tab.row(name)).to_have_count(0)
        await tab.page.locator(".filter", has_text="All").click()
        await expect(tab.rows()).to_have_count(3)
    assert await tab.page.evaluate(nodes) <= before + 1


async def test_each_view_has_an_address_that_survives_a_reload(tab, host, group):
    """The back and forward buttons work. No address contains the API key."""
    ids = await host.add(group, {"Taxi": 0, "Bus": None})
    key = await host.make_key()
    await tab.watch(key, group, "?sort=name")
    page = tab.page
    await page.get_by_role("searchbox").fill("a")
    await tab.shows(["Taxi"])
    await tab.row("Taxi").get_by_role("link").click()
    await expect(page.get_by_role("heading", name="Taxi")).to_be_focused()
    assert ids["Taxi"] in page.url
    await page.reload()
    await expect(page.get_by_role("heading", name="Taxi")).to_be_visible()
    await page.go_back()
    await tab.shows(["Taxi"])
    await expect(tab.row("Taxi").get_by_role("link")).to_be_focused()
    await expect(page.get_by_role("searchbox")).to_have_value("a")
    await page.reload()
    await tab.shows(["Taxi"])
    await page.go_forward()
    await expect(page.get_by_role("heading", name="Taxi")).to_be_visible()
    assert key not in page.url
    assert not any(key in url for url in tab.requests)


async def test_rows_stay_in_place_under_the_pointer(tab, host, group):
    """They are sorted when the pointer leaves, unless the order is held."""
    ids = await host.add(group, {"Early": IDLE_S, "Late": OFFLINE_S})
    key = await host.make_key()
    await tab.watch(key, group)
    await tab.row("Early").hover()
    await host.heartbeat(key, ids["Late"])
    await expect(tab.row("Late")).to_contain_text("online")
    await expect(tab.page.get_by_role("button", name="Order held")).to_be_visible()
    await tab.shows(["Early", "Late"])
    await tab.page.mouse.move(5, 5)
    await tab.shows(["Late", "Early"])
    await tab.page.get_by_role("button", name="Hold order", exact=True).click()
    await host.heartbeat(key, ids["Early"])
    await expect(tab.row("Early")).to_contain_text("online")
    await tab.shows(["Late", "Early"])
