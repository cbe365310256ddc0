"""Shows that a group's devices can be sorted, filtered, searched and linked to."""

import pytest
from playwright.async_api import expect

from tests.support.page_service import IDLE_S, OFFLINE_S

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_devices_are_sorted_filtered_and_searched(visitor, host, group):
    """Column headers report the order to screen readers."""
    ids = await host.add(group, {"Bus 10": 0, "Bus 9": OFFLINE_S, "Cab": IDLE_S, "Düne": None})
    await visitor.watch(await host.make_key(), group)
    page = visitor.page
    await visitor.shows(["Bus 10", "Cab", "Bus 9", "Düne"])
    header = page.get_by_role("columnheader", name="Device")
    await header.get_by_role("link").click()
    await visitor.shows(["Bus 9", "Bus 10", "Cab", "Düne"])
    assert await header.get_attribute("aria-sort") == "ascending"
    await header.get_by_role("link").click()
    await visitor.shows(["Düne", "Cab", "Bus 10", "Bus 9"])
    assert await header.get_attribute("aria-sort") == "descending"
    await page.get_by_role("columnheader", name="State").get_by_role("link").click()
    await visitor.shows(["Bus 10", "Cab", "Bus 9", "Düne"])
    await page.locator(".filter", has_text="Never").click()
    await visitor.shows(["Düne"])
    await page.locator(".filter", has_text="Offline").click()
    await visitor.shows(["Bus 9"])
    search = page.get_by_label("Search by name or id")
    await search.fill("BUS")
    await visitor.shows(["Bus 9"])
    await page.locator(".filter", has_text="All").click()
    await visitor.shows(["Bus 10", "Bus 9"])
    await search.fill(ids["Cab"][4:])
    await visitor.shows(["Cab"])
    await search.fill("du\u0308ne")
    await visitor.shows(["Düne"])
    await search.fill("dune")
    await visitor.shows(["Düne"])
    await search.fill("nobody")
    await page.get_by_role("link", name="Show all devices").click()
    await expect(visitor.rows()).to_have_count(4)


async def test_the_table_keeps_no_nodes_of_removed_rows(visitor, host, group):
    """A page on a wall display stays open for weeks."""
    ids = await host.add(group, {f"Van {n}": IDLE_S + n for n in range(3)})
    key = await host.make_key()
    await visitor.watch(key, group)
    nodes = "document.querySelector('.devices tbody').childNodes.length"
    before = await visitor.page.evaluate(nodes)
    for name, device_id in ids.items():
        await host.heartbeat(key, device_id)
        await expect(visitor.row(name)).to_contain_text("online")
        await visitor.page.locator(".filter", has_text="Idle").click()
        await expect(visitor.row(name)).to_have_count(0)
        await visitor.page.locator(".filter", has_text="All").click()
        await expect(visitor.rows()).to_have_count(3)
    assert await visitor.page.evaluate(nodes) <= before + 1


async def test_each_view_has_an_address_that_survives_a_reload(visitor, host, group):
    """The back and forward buttons work. No address contains the API key."""
    ids = await host.add(group, {"Taxi": 0, "Bus": None})
    key = await host.make_key()
    await visitor.watch(key, group, "?sort=name")
    page = visitor.page
    await page.get_by_role("searchbox").fill("a")
    await visitor.shows(["Taxi"])
    await visitor.row("Taxi").get_by_role("link").click()
    await expect(page.get_by_role("heading", name="Taxi")).to_be_focused()
    assert ids["Taxi"] in page.url
    await page.reload()
    await expect(page.get_by_role("heading", name="Taxi")).to_be_visible()
    await page.go_back()
    await visitor.shows(["Taxi"])
    await expect(visitor.row("Taxi").get_by_role("link")).to_be_focused()
    await expect(page.get_by_role("searchbox")).to_have_value("a")
    await page.reload()
    await visitor.shows(["Taxi"])
    await page.go_forward()
    await expect(page.get_by_role("heading", name="Taxi")).to_be_visible()
    assert key not in page.url
    assert not any(key in url for url in visitor.requests)


async def test_rows_stay_in_place_under_the_pointer(visitor, host, group):
    """They are sorted when the pointer leaves, unless the order is held."""
    ids = await host.add(group, {"Early": IDLE_S, "Late": OFFLINE_S})
    key = await host.make_key()
    await visitor.watch(key, group)
    await visitor.row("Early").hover()
    await host.heartbeat(key, ids["Late"])
    await expect(visitor.row("Late")).to_contain_text("online")
    await expect(visitor.page.get_by_role("button", name="Order held")).to_be_visible()
    await visitor.shows(["Early", "Late"])
    await visitor.page.mouse.move(5, 5)
    await visitor.shows(["Late", "Early"])
    await visitor.page.get_by_role("button", name="Hold order", exact=True).click()
    await host.heartbeat(key, ids["Early"])
    await expect(visitor.row("Early")).to_contain_text("online")
    await visitor.shows(["Late", "Early"])
