"""The snapshot of a group: what subscribers receive, however it is read."""

import json
from collections.abc import Iterable

import pytest

from api.fleet.presence import PresenceRule
from api.live import snapshot as snapshot_module
from api.live.snapshot import GroupSnapshot

NOW = 1000.0


def told(events: Iterable[bytes]) -> dict[str, list]:
    """Return the ids of all devices in some events, and the numbers of those that are gone."""
    found: dict[str, list] = {"devices": [], "gone": []}
    for event in events:
        data = json.loads(event.partition(b"data: ")[2])
        found["devices"] += [one["device_id"] for one in data.get("devices", [])]
        found["gone"] += data.get("gone", [])
    return found


@pytest.fixture
def snapshot() -> GroupSnapshot:
    """A snapshot of one, which all subscribers know."""
    snapshot = GroupSnapshot(PresenceRule())
    snapshot.keep([snapshot.put("a", "Ann", "p", 1)])
    assert told(snapshot.changes(NOW))["devices"] == ["a"]
    return snapshot


def test_devices_sent_before_the_reading_ends_are_sent_again(snapshot):
    """A newcomer's snapshot, drawn meanwhile, has not got it."""
    number = snapshot.put("b", "Bob", "p", 1)
    assert told(snapshot.changes(NOW))["devices"] == ["b"]
    assert told(snapshot.chunks(NOW))["devices"] == ["a"]
    snapshot.keep([0, number])
    assert told(snapshot.changes(NOW))["devices"] == ["b"]
    assert told(snapshot.changes(NOW))["devices"] == []


def test_devices_that_left_before_the_reading_ended_are_gone(snapshot):
    """Though it never was one of those that were kept."""
    number = snapshot.put("b", "Bob", "p", 1)
    assert told(snapshot.changes(NOW))["devices"] == ["b"]
    snapshot.keep([0])
    assert told(snapshot.changes(NOW)) == {"devices": [], "gone": [number]}
    assert told(snapshot.changes(NOW))["gone"] == []


def test_all_devices_are_queried_in_turn():
    """A few at a time, all of them, repeatedly; not those that left."""
    snapshot = GroupSnapshot(PresenceRule())
    snapshot.keep([snapshot.put(str(n), str(n), "p", 1) for n in range(5)])
    snapshot.next_to_locate(5)
    rounds = []
    for _ in range(6):
        snapshot.recheck(2)
        rounds.append(snapshot.next_to_locate(5)[0])
    assert rounds == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    snapshot.keep([4])
    snapshot.recheck(2)
    assert snapshot.next_to_locate(5)[0] == [4]


def test_a_snapshot_with_too_many_numbers_is_replaced(monkeypatch):
    """Numbers are never used again, so a new snapshot is made."""
    monkeypatch.setattr(snapshot_module, "_MAX_NUMBERS", 3)
    snapshot = GroupSnapshot(PresenceRule())
    for number in range(4):
        assert not snapshot.is_exhausted
        snapshot.keep([snapshot.put(str(number), "N", "p", 1)])
    assert snapshot.is_exhausted
