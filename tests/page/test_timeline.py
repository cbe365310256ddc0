"""Shows how events become bars and lines of text."""

import json
from datetime import UTC, datetime

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="package")

CASES = (
    # What it was before the first event follows from that event.
    ("online", "offline 200, online 300", "online 200, offline 300, online 1000"),
    ("offline", "registered 200, offline 900", "absent 200, online 900, offline 1000"),
    ("online", "online 500 100", "unknown 400, offline 500, online 1000"),
    # Events before the span say what it was at its beginning; an idle device is not offline.
    ("idle", "offline -50, online -20", "online 1000"),
    # A touch that was written late.
    ("online", "offline 500, online 450", "online 1000"),
    ("online", "deactivated 300, registered 700", "unknown 300, absent 700, online 1000"),
    ("online", "moved 300", "unknown 600, online 1000"),
    # Nothing is stored of what it is now.
    ("offline", "", "unknown 600, offline 1000"),
    ("idle", "offline 100", "online 100, offline 550, online 1000"),
    ("never", "", "absent 1000"),
)
"""What a device is now, its events with their second and for how long it was offline, and the
pieces from second 0 to 1000 with the second in which each ends."""


async def test_the_bars_of_a_timeline_follow_from_events(tab):
    """They have no gaps; the last one is what the device is now."""
    await tab.open()
    made = [
        [
            {
                "type": f"device.{type_}",
                "at": datetime.fromtimestamp(int(second), UTC).isoformat(),
                "offline_for_s": int((*offline_for, 0)[0]),
            }
            for type_, second, *offline_for in (
                one.split() for one in reversed(events.split(", ")) if one
            )
        ]
        for _, events, _ in CASES
    ]
    devices = [
        {"presence": presence, "since": None if presence == "never" else 600, "seen": 550}
        for presence, _, _ in CASES
    ]
    found = await tab.module(
        "timeline",
        f"{json.dumps(devices)}.map((one, i) => m.piecesOf(one, {json.dumps(made)}[i], 0, 1000))",
    )
    for pieces, (_, _, expected) in zip(found, CASES, strict=True):
        assert ", ".join(f"{one['state']} {one['to']}" for one in pieces) == expected
        assert [one["from"] for one in pieces] == [0, *[one["to"] for one in pieces[:-1]]]


async def test_many_events_are_announced_in_one_line(tab):
    """A screen reader would read nothing else while a group vanishes."""
    await tab.page.clock.install()
    await tab.open()
    await tab.page.evaluate("import('/page/news.js').then((m) => { window.news = new m.News(); })")

    async def line_after(counts: str, *, second: int) -> str:
        event = "{ type: 'device.offline', at: '2026-01-01T03:12:00Z', device_id: 'x' }"
        return await tab.page.evaluate(
            f"(news.add({counts}, [{event}]), news.update('g', () => 'Van {second}'), news.line)"
        )

    assert await line_after("{ 'device.offline': 1 }", second=1) == "03:12:00: Van 1 went offline"
    await tab.page.clock.fast_forward(1000)
    later = "{ 'device.offline': 1200, 'device.online': 1 }"
    assert await line_after(later, second=2) == "03:12:00: Van 1 went offline"
    await tab.page.clock.fast_forward(5000)
    assert await line_after("{ 'device.online': 1 }", second=3) == (
        "1,200 devices went offline, 2 devices came online"
    )


async def test_a_list_of_events_is_bounded_without_duplicates(tab):
    """The newest are kept, and it is known that there are others."""
    await tab.open()
    await tab.page.route("**/api/v1/events*", lambda route: route.fulfill(json={"events": []}))
    found = await tab.module(
        "event-list",
        """(async () => {
          const list = new m.EventList("key", { group_id: "g" }, 3, () => {});
          while (!list.isLoaded) await new Promise((done) => setTimeout(done));
          const states = [list.isComplete];
          const add = (...ids) => list.add(ids.map((one) => ({ event_id: String(one) })));
          add(9, 10);
          add(10);
          states.push(list.isComplete);
          add(12, 11, 10);
          return [...states, list.isComplete, list.newest, list.events.map((one) => one.event_id)];
        })()""",
    )
    assert found == [True, True, False, 12, ["12", "11", "10"]]


async def test_a_service_without_presence_says_so_on_a_device_s_page(tab):
    """Bars would show a device as online for ever."""
    await tab.open()
    shown = await tab.module(
        "history-view",
        """import("/page/vendor/lit-html/lit-html.js").then(({ render }) => {
          const place = document.createElement("div");
          const list = { events: [], isLoaded: true, problem: "" };
          render(m.deviceHistoryView({ presenceEnabled: false, now: 1 }, {}, list), place);
          return place.innerHTML;
        })""",
    )
    assert "switched off" in shown
    assert "timeline" not in shown
