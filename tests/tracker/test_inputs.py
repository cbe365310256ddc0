"""Keys and times that callers pass: one strict rule for touch and pending, whatever is pending."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction

import pytest

from tests.support.stores import TARGET, Clock
from tracker._buffer.buffer import Buffer

NOW = 1_000_000
ID = "00000000-0000-0000-0000-00000000000a"


class Colour(str, Enum):  # noqa: UP042 - the older kind, whose str() is its name
    """A string of a class of its own."""

    RED = "red"


class Number(IntEnum):
    """An integer of a class of its own."""

    TEN = 10


class Unhashable:
    """A key that cannot even be hashed."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class Double:
    """A key that hashes and compares like another one."""

    def __init__(self, key: object) -> None:
        self.key = key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self.key == other


class BrokenZone(tzinfo):
    """A time zone that raises."""

    def utcoffset(self, _at: datetime | None) -> timedelta:
        raise LookupError("no such zone")


def make_buffer(key_type: str, *pending: object) -> Buffer:
    clock = Clock(NOW)
    buffer = Buffer(replace(TARGET, key_type=key_type), clock=clock, monotonic=clock)
    for key in pending:
        buffer.touch(key)
    return buffer


@pytest.mark.parametrize(
    ("key_type", "key", "canonical"),
    [
        ("uuid", ID, ID),
        ("uuid", uuid.UUID(ID), ID),
        ("uuid", ID.upper(), ID),
        ("uuid", ID.replace("-", ""), ID),
        ("uuid", ID.replace("-", "").upper(), ID),
        ("bigint", 10, 10),
        ("bigint", "10", 10),
        ("bigint", Number.TEN, 10),
        ("bigint", "-9223372036854775808", -(2**63)),
        ("bigint", "0", 0),
        ("integer", 2**31 - 1, 2**31 - 1),
        ("text", "Größe", "Größe"),
        ("text", Colour.RED, "red"),
    ],
)
def test_every_spelling_of_a_key_is_one_entry_that_pending_finds(key_type, key, canonical):
    """Two spellings of one row never become two entries, whichever comes first."""
    for spellings in ([key, canonical], [canonical, key], [key]):
        buffer = make_buffer(key_type, *spellings)
        view = buffer.view()
        assert view.get(key) == view.get(canonical) == NOW
        assert buffer.coalesced == len(spellings) - 1
        (entry,) = buffer.drain()
        assert (entry, type(entry)) == (canonical, type(canonical))


@pytest.mark.parametrize(
    ("key_type", "key", "pending"),
    [
        ("uuid", "no uuid", ID),
        ("uuid", f" {ID}", ID),
        ("uuid", f"{ID}\n", ID),
        ("uuid", f"{{{ID}}}", ID),
        ("uuid", f"urn:uuid:{ID}", ID),
        ("uuid", "+000000000000000000000000000000a", ID),
        ("uuid", "0000_00000000000000000000000000a", ID),
        ("uuid", "-" * 4 + "0" * 32, ID),
        ("uuid", 10, ID),
        ("uuid", None, ID),
        ("uuid", ["unhashable"], ID),
        ("uuid", Double(ID), ID),
        ("bigint", Unhashable(), 1),
        ("bigint", 2**63, 1),
        ("bigint", True, 1),
        ("bigint", False, 0),
        ("bigint", 10.0, 10),
        ("bigint", Decimal(10), 10),
        ("bigint", Fraction(10), 10),
        ("bigint", 10 + 0j, 10),
        ("bigint", Double(10), 10),
        ("bigint", 1.5, 1),
        ("bigint", "1_0", 10),
        ("bigint", " 7 ", 7),
        ("bigint", "7\n", 7),
        ("bigint", "+7", 7),
        ("bigint", "007", 7),
        ("bigint", "-0", 0),
        ("bigint", "٤٢", 42),
        ("bigint", "７", 7),  # noqa: RUF001 - a wide digit
        ("bigint", "7.0", 7),
        ("bigint", "0x7", 7),
        ("bigint", b"7", 7),
        ("bigint", "", 0),
        ("bigint", "1" * 5000, 1),
        ("bigint", str(2**63), 1),
        ("integer", 2**31, 1),
        ("integer", str(2**31), 1),
        ("text", "a\0b", "a"),
        ("text", "\ud800", "a"),
        ("text", b"bytes", "bytes"),
        ("text", 7, "7"),
        ("text", Double("a"), "a"),
    ],
)
def test_an_invalid_key_is_dropped_and_counted(key_type, key, pending):
    """It raises nothing, changes no entry that it happens to equal, and `pending` finds none."""
    for entries in ({}, {pending: NOW}):
        buffer = make_buffer(key_type, *entries)
        buffer._clock.now += 1
        buffer.touch(key)
        assert buffer.view().get(key) is None
        assert buffer.dropped == {"capacity": 0, "invalid": 1, "shutdown": 0}
        assert buffer.drain() == entries


@pytest.mark.parametrize(
    ("at", "second"),
    [
        (NOW - 10, NOW - 10),
        (NOW - 0.001, NOW - 1),
        (Decimal("999990.5"), NOW - 10),
        (datetime.fromtimestamp(NOW - 10, UTC), NOW - 10),
        (datetime.fromtimestamp(NOW - 10, timezone(timedelta(hours=5, minutes=45))), NOW - 10),
        (datetime.fromtimestamp(NOW + 59, UTC), NOW),
        (NOW + 0.5, NOW),
        (NOW + 60, NOW),
        (0, 0),
    ],
)
def test_a_time_is_seconds_or_an_aware_datetime_and_small_skew_counts_as_now(at, second):
    """Two hosts' clocks differ a little; nothing later than now is recorded for that."""
    buffer = make_buffer("bigint")
    buffer.touch(1, at=at)
    assert buffer.drain() == {1: second}
    assert buffer.dropped["invalid"] == 0


@pytest.mark.parametrize(
    "at",
    [
        NOW + 62,
        NOW * 1000,  # milliseconds, a typical mistake
        NOW * 1_000_000,
        2**70,
        datetime.fromtimestamp(NOW + 62, UTC),
        datetime.fromtimestamp(NOW - 10),  # noqa: DTZ006 - a naive one is the case
        datetime(2001, 1, 1, tzinfo=BrokenZone()),
        date(1970, 1, 2),
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("1e1000000"),
        "soon",
        "999990",
        True,
        -5,
        -0.5,
        -1e300,
        [NOW],
    ],
)
def test_an_invalid_or_future_time_is_dropped_and_counted(at):
    """Milliseconds must not count as now: the replay of an old queue would mark all as active."""
    for pending in ((), (1,)):
        buffer = make_buffer("bigint", *pending)
        buffer._clock.now += 1
        buffer.touch(1, at=at)
        assert buffer.dropped["invalid"] == 1
        assert buffer.touches == len(pending) + 1
        assert buffer.coalesced == 0
        assert buffer.drain() == dict.fromkeys(pending, NOW)


def test_pending_of_many_keys_is_that_of_each():
    """`latest` is for keys in the form that is buffered; `get` takes any spelling."""
    buffer = make_buffer("bigint", "10", 11)
    view = buffer.view()
    assert view.latest([10, 11, 12]) == [view.get("10"), view.get("11"), 0]
    assert view.get("12") is view.get(None) is view.get("010") is None


def test_a_local_proxy_outside_of_a_request_is_dropped_and_raises_nothing():
    """Web frameworks have proxies that raise when anything is asked of them, even their class."""

    def outside(_self: object) -> type:
        raise RuntimeError("outside of a request")

    proxy = type("Proxy", (), {"__class__": property(outside)})()
    for key_type in ("uuid", "bigint", "text"):
        buffer = make_buffer(key_type)
        buffer.touch(proxy)
        buffer.touch("1", at=proxy)
        assert buffer.view().get(proxy) is None
        assert buffer.dropped["invalid"] == 2
