"""Shows that the page follows activity without a reload."""

import re
import time

import pytest
from playwright.async_api import expect

from tests.support.page_service import IDLE_AFTER_S, IDLE_S, OFFLINE_AFTER_S, OFFLINE_S

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_heartbeat_updates_the_row_the_order_the_counts_and_the_sparklines(
    tab, host, group
):
    ids = await host.add(group, {"Early": IDLE_S, "Late": OFFLINE_S})
    key = await host.make_key()
    await tab.watch(key, group)
    await tab.shows(["Early", "Late"])
    await expect(tab.row("Late")).to_contain_text("offline")
    await host.heartbeat(key, ids["Late"])
    await expect(tab.row("Late").locator(".seen")).to_have_text(re.compile(r"^\d s$"))
    await tab.shows(["Late", "Early"])
    await expect(tab.row("Late")).to_contain_text("online")
    await expect(tab.page.locator(".filter").nth(1)).to_contain_text("online 1")
    active = tab.page.locator(".spark").filter(has_text="active devices/s")
    await expect(active).to_contain_text("0 to 1")
    touches = tab.page.locator(".spark").filter(has_text="touches/s").first
    await expect(touches.locator(".figure")).to_have_text("0")
    await host.heartbeat(key, ids["Late"])
    await expect(touches).to_contain_text(re.compile(r"\d to [1-9]"))


async def test_a_heartbeat_is_shown_within_two_seconds(tab, host, group):
    """At least one of several heartbeats is: other load on the machine may delay some of them."""
    ids = await host.add(group, {f"Van {n}": IDLE_S for n in range(8)})
    key = await host.make_key()
    await tab.watch(key, group)
    seconds = []
    for name, device_id in ids.items():
        started = time.monotonic()
        await host.heartbeat(key, device_id)
        await expect(tab.row(name).locator(".seen")).to_have_text(re.compile(r"^\d s$"))
        seconds.append(time.monotonic() - started)
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2


async def test_ages_count_up_without_new_activity(tab, host, group):
    await host.add(group, {"Van": 10})
    await tab.watch(await host.make_key(group), group)
    seen = tab.row("Van").locator(".seen")
    first = int((await seen.inner_text()).split()[0])
    await expect(seen).to_have_text(f"{first + 2} s")


async def test_states_follow_the_thresholds_of_the_settings(tab, host, group):
    """The service's settings are not the defaults."""
    near = {
        "Online": IDLE_AFTER_S - 30,
        "Idle": IDLE_AFTER_S + 1,
        "Offline": OFFLINE_AFTER_S + 1,
        "Never": None,
    }
    await host.add(group, near)
    await tab.watch(await host.make_key(), group)
    for name in near:
        await expect(tab.row(name).locator("span.state")).to_have_text(name.lower())
        await expect(tab.page.locator(".filter", has_text=name)).to_contain_text("1")


async def test_states_change_as_time_passes(tab, host, group):
    """Nothing is sent by the devices meanwhile; the counts and the open filter follow."""
    ids = await host.add(group, {"Idle soon": IDLE_AFTER_S - 4, "Offline soon": 28})
    await host.db.execute(
        "UPDATE devices SET offline_after_s = 30 WHERE device_id = $1", ids["Offline soon"]
    )
    await tab.watch(await host.make_key(), group, "?state=online&sort=name")
    filters = tab.page.locator(".filter")
    await expect(filters.filter(has_text="online")).to_contain_text("0")
    await expect(filters.filter(has_text="idle")).to_contain_text("1")
    await filters.filter(has_text="offline").click()
    await tab.shows(["Offline soon"])
    since = tab.row("Offline soon").locator("span.state")
    await expect(since).to_have_attribute("title", re.compile("^since .*20"))


async def test_a_link_to_silent_devices_shows_those_that_are_offline(tab, host, group):
    """The page called them so before."""
    await host.add(group, {"Cab": 0, "Van": OFFLINE_S})
    await tab.watch(await host.make_key(), group, "?state=silent")
    await tab.shows(["Van"])
