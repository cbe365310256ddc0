"""Shows that the sparklines plot the service's statistics second by second."""

import asyncio
import re

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_sparklines_show_the_statistics_of_each_target(tab, host, group):
    """Both targets have touches, the coalesced share, the lag and the last flush."""
    ids = await host.add(group, {"Cab": 0})
    key = await host.make_key()
    await tab.watch(key, group)
    sparks = tab.page.locator(".spark")
    await expect(sparks.locator("dt")).to_have_text(
        ["active devices/s", *["touches/s", "coalesced", "lag", "last flush"] * 2]
    )
    for number, figure in enumerate((r"\d+", r"[\d.]+ %", r"\d.* m?s", r"\d.* m?s")):
        pattern = re.compile(rf"^{figure}$")
        async with asyncio.timeout(60):
            while not pattern.match(await sparks.locator(".figure").nth(1 + number).inner_text()):
                await host.heartbeat(key, ids["Cab"])
    assert await sparks.nth(1).locator("svg path").count() > 0


async def test_sparklines_have_gaps_for_missed_seconds_and_restarts(tab):
    """After a restart the totals start at zero; the difference is not a number of touches."""
    await tab.open()
    rates = await tab.module(
        "tracker-stats",
        """(() => {
          const stats = new m.TrackerStats();
          const totals = { 10: [100, 90], 11: [150, 130], 14: [450, 400], 15: [5, 0] };
          for (const [second, [touches, coalesced]] of Object.entries(totals)) {
            const target = { touches, coalesced, lag_s: 1, flush_s: null };
            stats.tick(Number(second), 0);
            stats.serve({ targets: [{ name: "jobs", ...target }] });
          }
          return stats.values("jobs", "touches");
        })()""",
    )
    assert rates == [None, 50, None, None, 100, None]


async def test_sparklines_have_every_second_once(tab):
    """Also if ticks arrive in the middle of a second, where rounding could skip or repeat one."""
    await tab.open()
    seconds = await tab.module(
        "tracker-stats",
        """(() => {
          const stats = new m.TrackerStats();
          for (const now of [10.499, 11.501, 12.498, 13.502, 15.9, 16.9]) stats.tick(now, 1);
          return stats.samples.map((sample) => sample.active);
        })()""",
    )
    assert seconds == [1, 1, 1, 1, None, 1, 1]
