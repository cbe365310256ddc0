"""When more than half of a group goes offline within a minute, one event stands for all of it."""

from collections import defaultdict
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from api.events.log import Event
from api.webhooks.outages import FEW
from api.webhooks.outgoing import MOST_EVENTS, GroupSummary
from api.webhooks.rules import Rules
from tests.support.webhook_filter import START, Webhook, shown


def vanish(webhook: Webhook, devices: range, at: float, *, kind="offline", each: float = 0.05):
    for number, device in enumerate(devices):
        webhook.happen(kind, device, at + number * each)


def test_a_group_that_vanishes_is_one_event_and_so_is_its_return():
    """The first few devices are sent one by one: it is not known yet that there are many."""
    webhook = Webhook(sizes={"vans": 500})
    vanish(webhook, range(500), 0)
    few = 500 // 20
    sent = webhook.filter_at(25)
    assert sent == [*(f"offline {device}" for device in range(few)), "group.offline 500/500"]
    summary = webhook.sent[-1]
    assert isinstance(summary, GroupSummary)
    assert summary.event_id == "251-group.offline"
    assert summary.at == datetime.fromtimestamp(START + 12, UTC)
    assert summary.link == "/api/v1/devices?group_id=vans&presence=offline"
    assert webhook.filter_at(600) == []
    vanish(webhook, range(500), 600, kind="online")
    # Those that were sent one by one return one by one.
    assert webhook.filter_at(630) == [f"online {device}" for device in range(few)]
    assert webhook.filter_at(690) == ["group.online 0/500"]
    assert webhook.filter_at(5000) == []
    assert (webhook.states, webhook.groups) == ({}, {})


def test_half_of_a_group_is_sent_device_by_device():
    """After a minute in which it was not known whether there would be more."""
    webhook = Webhook(sizes={"vans": 100})
    vanish(webhook, range(50), 0, each=1)
    assert webhook.filter_at(50) == [f"offline {device}" for device in range(FEW)]
    assert webhook.filter_at(200) == [f"offline {device}" for device in range(FEW, 50)]


def test_devices_that_vanish_more_slowly_are_sent_one_by_one():
    """No more than half of them within a minute."""
    webhook = Webhook(sizes={"vans": 100})
    vanish(webhook, range(100), 0, each=1.3)
    webhook.filter_at(500)
    assert [shown(one) for one in webhook.sent] == [f"offline {device}" for device in range(100)]


def test_a_group_of_a_few_devices_is_sent_one_by_one():
    """A summary of ten events would save nothing."""
    webhook = Webhook(sizes={"vans": FEW})
    vanish(webhook, range(FEW), 0)
    assert len(webhook.filter_at(1)) == FEW


def test_a_device_that_returns_before_an_outage_is_detected_is_sent():
    """Its silence was held back for the sake of its group, and there is no outage."""
    webhook = Webhook(sizes={"vans": 100})
    vanish(webhook, range(20), 0)
    webhook.happen("online", 15, 30)
    assert webhook.filter_at(30)[FEW:] == ["offline 15", "online 15"]


def test_devices_that_stay_offline_are_counted_at_the_end_and_sent_when_they_return():
    """An outage ends when few devices change and no more than half of them are offline in it."""
    webhook = Webhook(sizes={"vans": 100})
    vanish(webhook, range(100), 0)
    webhook.filter_at(100)
    vanish(webhook, range(FEW, 59), 200, kind="online")
    assert webhook.filter_at(900) == []  # 51 of 100 are left
    webhook.happen("online", 59, 900)
    assert webhook.filter_at(900) == ["group.online 50/100"]
    webhook.happen("online", 60, 1000)
    webhook.happen("offline", 20, 1000)
    assert webhook.filter_at(1000) == ["online 60", "offline 20"]


def test_a_snooze_that_ends_with_most_of_a_group_offline_is_one_event():
    """So is a time of --after that ends for all of them at once."""
    for rules in (Rules(after_s=600), Rules(snoozes={"vans": [(START, START + 600)]})):
        webhook = Webhook(rules, sizes={"vans": 100})
        vanish(webhook, range(90), 0)
        vanish(webhook, range(10), 300, kind="online")
        sent = webhook.filter_at(700)
        assert sent[FEW:] == ["group.offline 80/100"]
        vanish(webhook, range(10, 90), 900, kind="online")
        assert webhook.filter_at(1000)[FEW:] == ["group.online 0/100"]


def test_an_outage_does_not_make_devices_flap_nor_concern_other_groups():
    """Changes that are not sent one by one do not count."""
    webhook = Webhook(sizes={"vans": 100, "bikes": 100})
    for number in range(4):
        vanish(webhook, range(100), number * 300)
        vanish(webhook, range(100), number * 300 + 100, kind="online")
        webhook.happen("offline", 1000 + number, number * 300, group="bikes")
    webhook.log.sort(key=lambda one: one.stored_at)
    webhook.log = [one._replace(position=at) for at, one in enumerate(webhook.log, start=1)]
    sent = webhook.filter_at(4000)
    assert sum(one.startswith("flapping") for one in sent) == FEW
    assert sum(one == "group.offline 100/100" for one in sent) == 4
    assert sum(one == "group.online 0/100" for one in sent) == 4


def test_devices_that_are_deactivated_in_an_outage_are_not_waited_for():
    """Nor those that leave for another group, which are sent there when they return."""
    webhook = Webhook(sizes={"vans": 100})
    vanish(webhook, range(100), 0)
    webhook.filter_at(50)
    vanish(webhook, range(10, 60), 100, kind="deactivated")
    webhook.happen("moved", 60, 110, group="bikes", from_group_id="vans")
    webhook.happen("online", 60, 120, group="bikes")
    sent = webhook.filter_at(200)
    assert sent[-3:] == ["moved 60", "online 60", "group.online 49/100"]


def test_summaries_are_selected_by_the_types_that_they_replace():
    """And have room in a request."""
    for types, expected in (
        (["device.offline"], ["group.offline 200/200"]),
        (["device.online"], ["group.online 0/200"]),
        (["device.registered"], []),
    ):
        webhook = Webhook(Rules(types=types), sizes={"vans": 200})
        vanish(webhook, range(200), 0)
        vanish(webhook, range(200), 100, kind="online")
        sent = webhook.filter_at(500)
        assert [one for one in sent if one.startswith("group")] == expected


def test_no_request_has_too_many_events_whatever_happens():
    """Many groups vanish at once."""
    webhook = Webhook(sizes={f"g{group}": 30 for group in range(50)})
    for device in range(25):
        for group in range(50):
            webhook.happen("offline", group * 100 + device, device, group=f"g{group}")
    sizes = []
    while not sizes or sizes[-1]:
        before = len(webhook.sent)
        webhook._filter_page(START + 600)
        sizes.append(len(webhook.sent) - before)
    assert max(sizes) <= MOST_EVENTS
    assert sum(sizes) == 50 * (FEW + 1)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 150)), min_size=30, max_size=30),
    filtered=st.lists(st.integers(0, 600)),
    page=st.sampled_from([7, 20]),
    after_s=st.sampled_from([None, 30]),
)
def test_outages_do_not_depend_on_when_and_how_often_a_group_is_decided(
    times, filtered, page, after_s
):
    """The same devices and the same outages are sent; a count may be that of an earlier time."""
    often, once = (Webhook(Rules(after_s=after_s), page=size) for size in (page, 1000))
    events = [(at, device, "offline") for device, (at, _) in enumerate(times)]
    events += [(at + lasts, device, "online") for device, (at, lasts) in enumerate(times)]
    for at, device, kind in sorted(events):
        for webhook in (often, once):
            webhook.sizes = {"vans": 40}
            webhook.happen(kind, device, at)
    for now in sorted(filtered):
        often.filter_at(now)
    sent = []
    for webhook in (often, once):
        webhook.filter_at(20_000)
        own = defaultdict(list)
        for event in webhook.sent:
            key = event.device_id if isinstance(event, Event) else "group"
            own[key].append((event.event_id, event.type))
        sent.append(own)
        assert (webhook.states, webhook.groups) == ({}, {})
        of_devices = sum(isinstance(event, Event) for event in webhook.sent)
        assert of_devices + webhook.dropped == len(events)
    assert sent[0] == sent[1]
