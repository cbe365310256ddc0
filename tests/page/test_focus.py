"""Shows that the page can be used with a keyboard and a screen reader."""

import asyncio

import pytest
from playwright.async_api import expect

from tests.support.page_service import IDLE_S

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_focus_moves_to_the_title_of_a_new_view_and_stays_on_a_filter(tab, host, group):
    await host.add(group, {f"Van {n:03}": IDLE_S for n in range(150)})
    await host.add(f"{group}-too", {"Bus": 0})
    await tab.sign_in(await host.make_key())
    page = tab.page
    await expect(page.get_by_role("heading", name="Groups")).to_be_focused()
    await page.get_by_role("link", name=f"{group} 150 devices").click()
    await tab.live()
    await expect(page.get_by_role("heading", name=group)).to_be_focused()
    await page.get_by_role("link", name="Next").first.click()
    await expect(tab.rows()).to_have_count(50)
    idle = page.locator(".filter", has_text="Idle")
    await idle.focus()
    await page.keyboard.press("Enter")
    await expect(tab.rows()).to_have_count(100)
    await expect(idle).to_be_focused()


async def test_the_focus_stays_on_its_device_when_another_row_is_removed(tab, host, group):
    """If its own row is removed, the focus moves to the title."""
    ids = await host.add(group, dict.fromkeys(("Ann", "Bob", "Cid", "Dan"), IDLE_S))
    await tab.watch(await host.make_key(), group, "?sort=name")
    page = tab.page
    await page.get_by_role("columnheader", name="Device").get_by_role("link").focus()
    while await page.evaluate("document.activeElement.innerText") != "Cid":
        await page.keyboard.press("Tab")
    await host.db.execute("UPDATE devices SET is_active = false WHERE device_id = $1", ids["Ann"])
    await tab.shows(["Bob", "Cid", "Dan"])
    await expect(tab.row("Cid").get_by_role("link")).to_be_focused()
    await host.db.execute("UPDATE devices SET is_active = false WHERE device_id = $1", ids["Cid"])
    await tab.shows(["Bob", "Dan"])
    await expect(page.get_by_role("heading", name=group)).to_be_focused()


async def test_a_screen_reader_announces_an_outage_once(tab, host, group):
    """The focus does not move when the outage ends."""
    await host.add(group, {"Cab": IDLE_S})
    await tab.watch(await host.make_key(), group)
    await tab.page.evaluate(
        "window.announced = []; new MutationObserver(() => announced.push(announcer.textContent))"
        ".observe(announcer, { childList: true, characterData: true, subtree: true });"
        "document.activeElement.blur();"
    )
    sent = len(tab.requests)
    await host.stop()
    async with asyncio.timeout(60):
        while len(tab.requests) < sent + 3:
            await asyncio.sleep(0.1)
    await host.start()
    await tab.live()
    announced = await tab.page.evaluate("announced")
    assert len(announced) == len(set(announced))
    assert announced[0].startswith("Connection lost")
    assert announced[-1] == "Live"
    assert await tab.page.evaluate("document.activeElement === document.body")
    tab.problems.clear()


async def test_everything_can_be_done_by_keyboard(tab, host, group):
    """From sign-in to a device and back; each focused element has an outline."""
    await host.add(group, {"Cab": 0, "Bus": IDLE_S})
    await tab.open()
    page, keyboard = tab.page, tab.page.keyboard
    await expect(page.get_by_label("API key")).to_be_focused()
    await keyboard.insert_text(await host.make_key(group))
    await keyboard.press("Enter")
    await tab.live()

    async def walk_to(name: str) -> None:
        for _ in range(40):
            await keyboard.press("Tab")
            # Behind the last element the body is active, which has the text of all.
            words = (
                "document.activeElement === document.body ? '' : "
                "document.activeElement.innerText || document.activeElement.placeholder || ''"
            )
            if name in await page.evaluate(words):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert await page.evaluate(outline) == "solid"
                return
        raise AssertionError(f"{name} is out of reach")

    await walk_to("Idle")
    await keyboard.press("Enter")
    await tab.shows(["Bus"])
    await walk_to("Search")
    await keyboard.insert_text("bu")
    await walk_to("Device")
    await keyboard.press("Enter")
    await expect(page.get_by_role("columnheader", name="Device")).to_have_attribute(
        "aria-sort", "ascending"
    )
    await walk_to("Bus")
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Bus")).to_be_focused()
    await page.evaluate("document.activeElement.blur()")
    await walk_to("All devices")
    await keyboard.press("Enter")
    await expect(tab.row("Bus").get_by_role("link")).to_be_focused()
