"""Shows that an API key opens what it may read, until it is revoked or signed out."""

import asyncio
import re
import uuid

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_key_of_all_groups_opens_the_list_of_groups(tab, host, group):
    """The list shows how many devices each group has; the back button returns to it."""
    await host.add(group, {"Van 1": 0, "Van 2": None})
    await host.add(f"{group}-too", {"Van 3": 0})
    await tab.sign_in(await host.make_key())
    choice = tab.page.get_by_role("link", name=f"{group} 2 devices")
    await expect(choice).to_contain_text("2 devices")
    await choice.click()
    await expect(tab.page.get_by_role("heading", name=group)).to_be_visible()
    await tab.shows(["Van 1", "Van 2"])
    await tab.page.go_back()
    await expect(tab.page.get_by_role("heading", name="Groups")).to_be_visible()


async def test_a_key_of_one_group_opens_that_group_even_if_it_is_empty(tab, host, group):
    """A device that is registered later appears without a reload."""
    key = await host.make_key(group)
    await tab.sign_in(key)
    await expect(tab.page.get_by_role("heading", name="No devices")).to_be_visible()
    await expect(tab.page.get_by_role("link", name="Groups")).to_have_count(0)
    body = {"device_id": str(uuid.uuid4()), "display_name": "First", "group_id": group}
    await host.post(key, "/api/v1/devices/register", **body)
    await tab.shows(["First"])


async def test_a_wrong_key_is_denied_with_a_message(tab, host):
    """One key has the right prefix; the other cannot be sent in a header."""
    alert = tab.page.get_by_role("alert")
    for wrong in ("ak_wrong", "ключ"):
        await tab.sign_in(wrong)
        await expect(alert).to_contain_text("key")
        await expect(tab.page.get_by_label("API key")).to_be_focused()
    assert all("401" in problem for problem in tab.problems)
    tab.problems.clear()
    await tab.page.get_by_label("API key").fill(await host.make_key())
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("heading", name="Groups")).to_be_visible()


async def test_the_list_of_groups_is_refreshed(tab, host, group):
    """A new group appears. A revoked API key ends the session."""
    await host.add(group, {"Cab": 0})
    await host.add(f"{group}-too", {"Bus": 0})
    await tab.page.clock.install()
    key = await host.make_key()
    await tab.sign_in(key)
    await expect(tab.page.locator(".group-list")).to_contain_text(group)
    await host.add(f"{group}-new", {"Van": 0})
    await tab.page.clock.fast_forward(16_000)
    await expect(tab.page.locator(".group-list")).to_contain_text(f"{group}-new")
    await host.revoke(key)
    async with asyncio.timeout(60):
        while not await tab.page.get_by_role("alert").count():
            await tab.page.clock.fast_forward(16_000)
            await asyncio.sleep(0.5)
    await expect(tab.page.get_by_role("alert")).to_contain_text("no longer valid")
    tab.problems.clear()


async def test_signing_out_removes_what_was_shown_from_memory(tab, host, group):
    """A heap snapshot of the page contains no name of a device."""
    ids = await host.add(group, {"Unforgettable": 0})
    await host.move(ids["Unforgettable"], (48.0, 2.0))
    await tab.watch(await host.make_key(group), group)
    await tab.shows(["Unforgettable"])
    await tab.page.get_by_role("button", name="Sign out").click()
    await expect(tab.page.get_by_label("API key")).to_be_visible()
    session = await tab.page.context.new_cdp_session(tab.page)
    pieces: list[str] = []
    session.on("HeapProfiler.addHeapSnapshotChunk", lambda event: pieces.append(event["chunk"]))
    await tab.page.evaluate("window.received = ''")  # the test's own copy of the responses
    await session.send("HeapProfiler.collectGarbage")
    await session.send("HeapProfiler.takeHeapSnapshot")
    heap = "".join(pieces)
    assert "Sign in" in heap
    assert "Unforgettable" not in heap


async def test_the_key_is_stored_in_the_tab_until_sign_out(tab, host, group):
    """It is only in sessionStorage: in no cookie, no other storage and not in the page's text."""
    await host.add(group, {"Cab": 0})
    key = await host.make_key()
    await tab.watch(key, group)
    page = tab.page
    assert await page.evaluate("Object.values(sessionStorage)") == [key]
    state = await page.context.storage_state(indexed_db=True)
    assert state["cookies"] == []
    assert state["origins"] == []
    assert await page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
    assert key not in await page.content()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("API key")).to_have_value("")
    assert await page.evaluate("sessionStorage.length") == 0
    assert group not in page.url
    await page.reload()
    await expect(page.get_by_label("API key")).to_be_visible()


async def test_a_key_receives_no_data_of_another_group(tab, host, group):
    """Neither the page nor any response contains it."""
    others = f"{group}-others"
    mine = await host.add(group, {"Mine": 0})
    theirs = await host.add(others, {"Theirs": 0})
    key, all_groups = await host.make_key(group), await host.make_key()
    await tab.watch(key, group)
    await tab.shows(["Mine"])
    await host.heartbeat(all_groups, theirs["Theirs"])
    await host.heartbeat(all_groups, mine["Mine"])
    await expect(tab.row("Mine").locator(".seen")).to_have_text(re.compile(r"^\d s$"))
    await expect(tab.page.locator(".spark")).to_have_count(1)
    received = await tab.received()
    await tab.open(f"/#/group/{others}")
    await expect(tab.page.get_by_role("heading", name="No devices")).to_be_visible()
    await tab.open(f"/#/group/{group}/device/{theirs['Theirs']}")
    await expect(tab.page.get_by_role("heading", name="Device not found")).to_be_visible()
    received += await tab.received()
    assert mine["Mine"] in received
    assert "Theirs" not in received + await tab.page.content()
    assert '"service"' not in received
    assert "event: service" not in received
    assert all("404: /api/v1/locations" in one or "console" in one for one in tab.problems)
    tab.problems.clear()


async def test_a_revoked_key_ends_the_session(tab, host, group):
    """The page removes what it showed, and asks for an API key."""
    await host.add(group, {"Cab": 0})
    key = await host.make_key(group)
    await tab.watch(key, group)
    await host.revoke(key)
    await expect(tab.page.get_by_role("alert")).to_contain_text("no longer valid")
    assert await tab.page.evaluate("sessionStorage.length") == 0
    assert "Cab" not in await tab.page.content()
    await tab.page.get_by_label("API key").fill(await host.make_key(group))
    await tab.page.keyboard.press("Enter")
    await tab.shows(["Cab"])
