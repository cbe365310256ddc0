"""A device that changes more than six times an hour is sent once as flapping until it rests."""

from api.webhooks.outgoing import Flapping
from api.webhooks.rules import Rules
from tests.support.webhook_filter import START, Webhook

HOUR = 3600


def flap(webhook: Webhook, times: int, *, begin: float = 0, every: float = 60) -> float:
    """Let device 1 go offline and come back in turn; return when it changed last."""
    for number in range(times):
        webhook.happen("online" if number % 2 else "offline", 1, begin + number * every)
    return begin + (times - 1) * every


def test_a_device_that_flaps_is_sent_once_and_its_last_change_after_an_hour():
    """Its seventh change within an hour is the one; it rests when none comes for an hour."""
    webhook = Webhook()
    last = flap(webhook, 20)
    six = ["offline 1", "online 1"] * 3
    assert webhook.filter_at(last) == [*six, "flapping 1"]
    summary = webhook.sent[-1]
    assert isinstance(summary, Flapping)
    assert (summary.event_id, summary.changes) == ("7-flapping", 7)
    assert summary.at == webhook.log[6].event.at
    assert webhook.filter_at(last + HOUR - 1) == []
    assert webhook.filter_at(last + HOUR) == ["online 1"]
    assert webhook.dropped == 13
    webhook.filter_at(last + 2 * HOUR)
    assert (webhook.states, webhook.groups) == ({}, {})


def test_a_device_that_stays_offline_after_flapping_is_sent_as_offline():
    """With the event of its last change; afterwards it is filtered from the start."""
    webhook = Webhook()
    last = flap(webhook, 9)
    webhook.filter_at(last)
    assert webhook.filter_at(last + HOUR) == ["offline 1"]
    assert webhook.sent[-1] == webhook.log[8].event
    again = flap(webhook, 1, begin=last + HOUR + 60)  # it was offline already: no change of use
    webhook.log.pop()
    webhook.happen("online", 1, again)
    assert webhook.filter_at(again) == ["online 1"]


def test_six_changes_within_an_hour_are_sent():
    """The seventh comes an hour after the first one."""
    webhook = Webhook()
    last = flap(webhook, 30, every=HOUR / 6)
    assert len(webhook.filter_at(last)) == 30


def test_a_device_that_keeps_flapping_is_not_sent_again():
    """However long it flaps, and whenever that is filtered."""
    webhook = Webhook()
    last = flap(webhook, 400, every=HOUR / 8)
    early = webhook.filter_at(last / 2)
    assert (len(early), early[-1]) == (7, "flapping 1")
    assert webhook.filter_at(last) == []


def test_changes_that_are_not_sent_do_not_count_as_flapping():
    """Neither those shorter than --after nor those within a snooze."""
    for rules in (Rules(after_s=600), Rules(snoozes={"vans": [(START, START + 2 * HOUR)]})):
        webhook = Webhook(rules)
        last = flap(webhook, 21)
        assert webhook.filter_at(2 * HOUR + last) == ["offline 1"]


def test_a_device_that_leaves_while_it_flaps_is_sent_in_order():
    """What it did last is not sent any more; then it is filtered from the start."""
    webhook = Webhook()
    last = flap(webhook, 9)
    webhook.happen("moved", 1, last + 1, from_group_id="bikes")
    webhook.happen("deactivated", 1, last + 2)
    webhook.happen("registered", 1, last + 3)
    webhook.happen("offline", 1, last + 4)
    sent = webhook.filter_at(last + 4)
    assert sent[6:] == ["flapping 1", "moved 1", "deactivated 1", "registered 1", "offline 1"]


def test_types_decide_whether_flapping_is_sent():
    """It stands for changes of presence."""
    for types, expected in ((["device.online"], ["flapping 1"]), (["device.registered"], [])):
        webhook = Webhook(Rules(types=types))
        last = flap(webhook, 9)
        assert [one for one in webhook.filter_at(last) if one != "online 1"] == expected
