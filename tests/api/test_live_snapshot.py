"""The picture of a group: what watchers are told of it, however it is read."""

import json
from collections.abc import Iterable

import pytest

from api.live import snapshot as snapshot_module
from api.live.snapshot import Fleet

NOW = 1000.0


def told(events: Iterable[bytes]) -> dict[str, list]:
    """Return the ids of all devices that some events tell of, and the numbers of those gone."""
    found: dict[str, list] = {"devices": [], "gone": []}
    for event in events:
        data = json.loads(event.partition(b"data: ")[2])
        found["devices"] += [one["device_id"] for one in data.get("devices", [])]
        found["gone"] += data.get("gone", [])
    return found


@pytest.fixture
def fleet() -> Fleet:
    """A fleet of one, which all watchers know."""
    fleet = Fleet()
    fleet.keep([fleet.put("a", "Ann", "p", 1)])
    assert told(fleet.changes(NOW))["devices"] == ["a"]
    return fleet


def test_who_is_told_of_before_the_reading_ends_is_told_again(fleet):
    """A newcomer's picture, drawn meanwhile, has not got it."""
    number = fleet.put("b", "Bob", "p", 1)
    assert told(fleet.changes(NOW))["devices"] == ["b"]
    assert told(fleet.pieces())["devices"] == ["a"]
    fleet.keep([0, number])
    assert told(fleet.changes(NOW))["devices"] == ["b"]
    assert told(fleet.changes(NOW))["devices"] == []


def test_who_left_before_the_reading_ended_is_gone(fleet):
    """Though it never was one of those that were kept."""
    number = fleet.put("b", "Bob", "p", 1)
    assert told(fleet.changes(NOW))["devices"] == ["b"]
    fleet.keep([0])
    assert told(fleet.changes(NOW)) == {"devices": [], "gone": [number]}
    assert told(fleet.changes(NOW))["gone"] == []


def test_all_devices_are_looked_for_in_the_end():
    """A few at a time, all of them, again and again; who left is not."""
    fleet = Fleet()
    fleet.keep([fleet.put(str(n), str(n), "p", 1) for n in range(5)])
    fleet.next_to_locate(5)
    rounds = []
    for _ in range(6):
        fleet.patrol(2)
        rounds.append(fleet.next_to_locate(5)[0])
    assert rounds == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    fleet.keep([4])
    fleet.patrol(2)
    assert fleet.next_to_locate(5)[0] == [4]


def test_a_fleet_through_which_too_many_have_passed_is_worn_out(monkeypatch):
    """Their numbers are never given to others, so it had better be made anew."""
    monkeypatch.setattr(snapshot_module, "_MOST_NUMBERS", 3)
    fleet = Fleet()
    for number in range(4):
        assert not fleet.worn_out
        fleet.keep([fleet.put(str(number), "N", "p", 1)])
    assert fleet.worn_out
