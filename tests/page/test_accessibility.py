"""Shows that every view is accessible in every display mode, whatever devices are called."""

import re

import pytest
from playwright.async_api import expect

from tests.support.browser import PHONE, open_tab
from tests.support.page_service import HOSTILE_NAMES

pytestmark = pytest.mark.asyncio(loop_scope="package")


LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark", "reduced_motion": "reduce"},
    "forced colours": {"forced_colors": "active"},
    "phone": {"viewport": PHONE, "has_touch": True, "is_mobile": True},
    "zoomed to 400 %": {"viewport": {"width": 320, "height": 256}},
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
async def test_every_view_is_accessible_and_as_narrow_as_the_screen(browser, host, group, look):
    """axe-core finds no violation in any display mode, also with hostile names."""
    ids = await host.add(group, HOSTILE_NAMES)
    await host.add("another", {"Another": 0})
    for device_id in ids.values():
        await host.move(device_id, (48, 2), (48.5, 2.2))
    async with open_tab(browser, host.url, **look) as tab:
        page = tab.page
        await tab.open()
        await expect(page.get_by_label("API key")).to_be_visible()
        paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (
            look.get("color_scheme") == "dark"
        )
        await tab.check_accessible()
        await tab.sign_in(await host.make_key())
        await expect(page.locator(".group-list")).to_contain_text(group)
        await tab.check_accessible()
        await page.locator(".group-list a").filter(has_text=group).click()
        await tab.live()
        await expect(tab.rows()).to_have_count(len(HOSTILE_NAMES))
        await tab.check_accessible()
        await page.get_by_label("Search by name or id").fill("nobody")
        await expect(page.get_by_role("heading", name="No device matches")).to_be_visible()
        await tab.check_accessible()
        await page.get_by_role("link", name="Show all devices").click()
        await expect(page.get_by_role("list", name="Latest events")).to_contain_text("W" * 50)
        await page.get_by_role("link", name="W" * 50).first.click()
        await expect(page.get_by_role("region", name="Reports", exact=True)).to_be_visible()
        await expect(page.get_by_role("img", name=re.compile("^Timeline: online"))).to_be_visible()
        await tab.check_accessible()
        tab.check_well()


async def test_hostile_names_are_shown_as_text(tab, host, group):
    """They run no script, hide nothing, and change the direction of no other text."""
    ids = await host.add(group, HOSTILE_NAMES)
    await tab.watch(await host.make_key(group), group, "?sort=name")
    names = await tab.names()
    assert "<img src=x onerror=alert(1)>" in names
    assert "{{7*7}}${7*7}</script>" in names
    assert "gnihton ekil" in names
    assert names.count("(no name)") == 2
    heights = await tab.rows().evaluate_all("rows => rows.map(row => row.offsetHeight)")
    assert len(set(heights)) <= 2  # the first has no line above it
    assert await tab.page.locator(".devices img, .devices script").count() == 0
    await tab.open(f"/#/group/{group}/device/{ids['<img src=x onerror=alert(1)>']}")
    await expect(tab.page.get_by_role("heading", name="<img")).to_be_visible()
