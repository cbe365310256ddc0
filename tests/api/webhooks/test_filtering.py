"""The outcome of an event: it is sent, held back or dropped, whenever that is decided."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from api.events.log import Event
from api.webhooks.outgoing import MOST_EVENTS
from api.webhooks.rules import Rules
from api.webhooks.state import decode_device
from tests.support.webhook_filter import START, Webhook, shown

HOUR = 3600
SNOOZED = {"vans": [(START + 200, START + 500)]}
RULES = (Rules(), Rules(after_s=100), Rules(after_s=100, snoozes=SNOOZED), Rules(snoozes=SNOOZED))


def test_without_rules_all_is_sent_as_it_happened():
    """Nothing is remembered of any device."""
    webhook = Webhook()
    webhook.happen("registered", 1, 0)
    webhook.happen("offline", 1, 10)
    webhook.happen("online", 1, 20)
    webhook.happen("online", 2, 20)
    assert webhook.filter_at(20) == ["registered 1", "offline 1", "online 1", "online 2"]
    webhook.filter_at(2 * HOUR)
    assert (webhook.states, webhook.groups, webhook.dropped) == ({}, {}, 0)


def test_a_short_offline_time_is_not_sent_nor_is_its_end():
    """One that lasts is sent when its time is over, with its own time, and so is its end."""
    webhook = Webhook(Rules(after_s=2 * HOUR))
    webhook.happen("offline", 1, 0)
    webhook.happen("offline", 2, 0)
    webhook.happen("online", 1, HOUR)
    assert webhook.filter_at(HOUR) == []
    assert webhook.filter_at(2 * HOUR - 1) == []
    assert webhook.filter_at(2 * HOUR) == ["offline 2"]
    assert webhook.sent[0].at == webhook.log[1].event.at
    webhook.happen("online", 2, 3 * HOUR)
    assert webhook.filter_at(3 * HOUR) == ["online 2"]
    webhook.filter_at(5 * HOUR)
    assert (webhook.states, webhook.dropped) == ({}, 2)


def test_an_event_that_is_held_back_delays_no_other_device():
    """Events of its own device wait behind it, so that they stay in order."""
    webhook = Webhook(Rules(after_s=HOUR))
    webhook.happen("offline", 1, 0)
    webhook.happen("registered", 2, 1)
    webhook.happen("moved", 1, 2, from_group_id="bikes")
    assert webhook.filter_at(10) == ["registered 2"]
    assert webhook.filter_at(HOUR) == ["offline 1", "moved 1"]


def test_a_return_at_the_limit_is_sent_and_one_just_before_it_is_not():
    """Even if the touch of before is written after it: that is waited for."""
    webhook = Webhook(Rules(after_s=HOUR, settle_s=10))
    for device in (1, 2):
        webhook.happen("offline", device, 0)
    webhook.happen("online", 1, HOUR - 1, stored_at=HOUR + 8)
    webhook.happen("online", 2, HOUR, stored_at=HOUR + 8)
    assert webhook.filter_at(HOUR + 1) == []
    assert webhook.filter_at(HOUR + 20) == ["offline 2", "online 2"]
    assert webhook.dropped == 2


def test_a_return_that_is_not_in_the_log_yet_is_waited_for():
    """The row of the device says that there is another event."""
    webhook = Webhook(Rules(after_s=HOUR))
    webhook.happen("offline", 1, 0)
    webhook.happen("online", 1, HOUR - 1, written_at=HOUR + 10, stored_at=HOUR + 60)
    assert webhook.filter_at(HOUR + 30) == []
    assert webhook.filter_at(HOUR + 60) == []
    assert webhook.dropped == 2


def test_an_event_has_the_same_outcome_however_late_it_is_decided():
    """After a pause of the webhook the changes of meanwhile count as long as they lasted."""
    webhook = Webhook(Rules(after_s=HOUR))
    for device in (1, 2, 3):
        webhook.happen("offline", device, 0)
    for device, lasted in ((1, HOUR - 1), (2, HOUR + 1), (3, 2 * HOUR)):
        webhook.happen("online", device, lasted)
    assert webhook.filter_at(24 * HOUR) == ["offline 2", "offline 3", "online 2", "online 3"]


def test_a_return_is_not_sent_unless_its_offline_event_was():
    """As one of a device that was offline before the webhook was made."""
    webhook = Webhook(Rules(after_s=HOUR))
    webhook.happen("online", 1, 0)
    assert webhook.filter_at(1) == []


def test_a_device_that_leaves_is_not_sent_as_offline():
    """It is deactivated, registered again, or moved to a group that the webhook does not get."""
    webhook = Webhook(Rules(group_id="vans", after_s=HOUR))
    for device in (1, 2, 3, 4):
        webhook.happen("offline", device, 0)
    webhook.happen("deactivated", 1, 60)
    webhook.happen("registered", 2, 60)
    webhook.happen("moved", 3, 60, from_group_id="bikes")
    webhook.elsewhere.add(webhook.log[3].event.device_id)
    assert webhook.filter_at(2 * HOUR) == ["deactivated 1", "registered 2", "moved 3"]
    webhook.filter_at(4 * HOUR)
    assert webhook.states == {}


def test_a_device_offline_in_a_snooze_is_sent_at_its_end_if_it_stays_so():
    """A group in maintenance; others are sent, and so is the end of a silence from before it."""
    webhook = Webhook(Rules(snoozes={"vans": [(START + 100, START + 200)]}))
    webhook.happen("offline", 1, 90)
    webhook.happen("offline", 2, 100)
    webhook.happen("offline", 3, 110)
    webhook.happen("offline", 4, 110, group="bikes")
    webhook.happen("online", 1, 120)
    webhook.happen("online", 2, 199)
    webhook.happen("offline", 5, 200)
    assert webhook.filter_at(199) == ["offline 1", "offline 4", "online 1"]
    assert sorted(webhook.filter_at(200)) == ["offline 3", "offline 5"]
    webhook.happen("online", 3, 300)
    assert webhook.filter_at(300) == ["online 3"]


def test_a_snooze_and_after_add_up_to_the_later_one():
    """What would be sent within a snooze waits for its end, and for the end of the next one."""
    vans = [(START + 100, START + 200), (START + 180, START + 250)]
    webhook = Webhook(Rules(after_s=60, snoozes={"vans": vans}))
    for device, at in ((1, 39), (2, 50), (3, 150), (4, 200)):
        webhook.happen("offline", device, at)
    webhook.happen("online", 3, 249)
    assert webhook.filter_at(99) == ["offline 1"]
    assert webhook.filter_at(249) == []
    assert webhook.filter_at(250) == ["offline 2"]
    assert webhook.filter_at(260) == ["offline 4"]


def test_only_selected_types_are_sent():
    """A return is filtered by its silence all the same."""
    webhook = Webhook(Rules(types=["device.online"], after_s=HOUR))
    webhook.happen("offline", 1, 0)
    webhook.happen("offline", 2, 0)
    webhook.happen("online", 1, HOUR - 1)
    webhook.happen("online", 2, HOUR)
    assert webhook.filter_at(HOUR) == ["online 2"]


def test_a_request_has_no_more_events_than_allowed():
    """What has no room is filtered next, with the same result."""
    webhook = Webhook(Rules(after_s=HOUR))
    for device in range(250):
        webhook.happen("offline", device, 0)
    sizes = []
    webhook.filter_at(1)
    while not sizes or sizes[-1]:
        before = len(webhook.sent)
        webhook._filter_page(webhook.log[0].stored_at + HOUR)
        sizes.append(len(webhook.sent) - before)
    assert sizes == [MOST_EVENTS, MOST_EVENTS, 50, 0]


@st.composite
def histories(draw):
    """Return what happens to some devices: alternately offline and online, with gaps."""
    events = []
    for device in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, 50))
        kind = "offline"
        for gap in draw(st.lists(st.integers(1, 200) | st.just(4000), max_size=16)):
            other = draw(st.sampled_from([None] * 8 + ["moved", "deactivated"]))
            events.append((at, device, other or kind))
            if other is None:
                kind = "online" if kind == "offline" else "offline"
            elif other == "deactivated":
                events.append((at + 1, device, "registered"))
                kind = "offline"
            at += gap + 2
    return sorted(events)


@settings(max_examples=80, deadline=None)
@given(
    history=histories(),
    times=st.lists(st.integers(0, 2000)),
    page=st.integers(1, 7),
    rules=st.sampled_from(RULES),
)
def test_outcomes_do_not_depend_on_when_and_how_often_events_are_decided(
    history, times, page, rules
):
    """Each device's events are sent in order, once, and the same ones as when filtered at once."""
    often, once = (Webhook(rules, page=size) for size in (page, 1000))
    for at, device, kind in history:
        data = {"from_group_id": "bikes"} if kind == "moved" else {}
        for webhook in (often, once):
            webhook.happen(kind, device, at, **data)
    for now in sorted(times):
        often.filter_at(now)
    by_device = []
    for webhook in (often, once):
        webhook.filter_at(100_000)
        sent = defaultdict(list)
        for event in webhook.sent:
            sent[event.device_id].append((int(event.event_id.split("-")[0]), shown(event)))
        by_device.append(sent)
        assert all(events == sorted(set(events)) for events in sent.values())
        of_devices = sum(isinstance(event, Event) for event in webhook.sent)
        assert of_devices + webhook.dropped == len(history)
        assert all(decode_device(state).is_offline_sent for state in webhook.states.values())
    assert by_device[0] == by_device[1]
