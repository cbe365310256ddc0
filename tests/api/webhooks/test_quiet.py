"""Quiet hours: nothing is sent in them, and afterwards what has happened."""

import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest

from api.webhooks import delivery_store, quiet
from api.webhooks.quiet import quiet_hours
from tests.support.webhooks import (
    delivering,
    emit,
    make,
    receiving,
    status,
    until,
    until_column,
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "zone", "now", "end"),
    [
        ("12:00-13:30", "UTC", "2026-05-01 11:59:59", None),
        ("12:00-13:30", "UTC", "2026-05-01 12:00", "2026-05-01 13:30"),
        ("12:00-13:30", "UTC", "2026-05-01 13:30", None),
        # Over midnight, in a zone in which it is another day.
        ("22:00-06:00", "Europe/Berlin", "2026-07-01 19:59", None),
        ("22:00-06:00", "Europe/Berlin", "2026-07-01 20:00", "2026-07-02 04:00"),
        ("22:00-06:00", "Europe/Berlin", "2026-07-02 03:59", "2026-07-02 04:00"),
        ("22:00-06:00", "Europe/Berlin", "2026-07-02 04:00", None),
        ("22:00-06:00", "Pacific/Auckland", "2026-07-01 10:00", "2026-07-01 18:00"),
        # The night in which an hour is skipped is shorter, that with an hour twice is longer.
        ("22:00-06:00", "Europe/Berlin", "2026-03-28 21:30", "2026-03-29 04:00"),
        ("22:00-06:00", "Europe/Berlin", "2026-10-24 20:30", "2026-10-25 05:00"),
        ("22:00-06:00", "Europe/Berlin", "2026-10-25 04:30", "2026-10-25 05:00"),
        # The end is skipped: it is an hour later on the clock, as long after the beginning.
        ("22:00-02:30", "Europe/Berlin", "2026-03-29 01:00", "2026-03-29 01:30"),
        ("22:00-02:30", "Europe/Berlin", "2026-03-29 01:30", None),
        # The end is there twice: the first one counts, and it is not quiet again.
        ("22:00-02:30", "Europe/Berlin", "2026-10-25 00:29", "2026-10-25 00:30"),
        ("22:00-02:30", "Europe/Berlin", "2026-10-25 01:15", None),
    ],
)
def test_quiet_hours_end_when_the_clock_says_so(hours, zone, now, end):
    """Over midnight, and in nights in which the clock changes."""
    assert quiet_hours(hours, zone).end_at(utc(now)) == (end and utc(end))


@pytest.mark.parametrize(
    ("hours", "zone", "reason"),
    [
        *((wrong, "UTC", "22:00-06:00") for wrong in ("", "22-6", "24:00-06:00", "22:00-06:60")),
        ("06:00-06:00", "UTC", "end"),
        *(("22:00-06:00", wrong, "zone") for wrong in ("", "Berlin", "Europe", "../etc", "/etc")),
    ],
)
def test_wrong_quiet_hours_are_rejected(hours, zone, reason):
    """The message says what is needed."""
    with pytest.raises(ValueError, match=reason):
        quiet_hours(hours, zone)


def test_a_machine_without_time_zones_says_so(monkeypatch):
    """What to install, and not that the name is wrong."""
    monkeypatch.setattr(quiet, "available_timezones", set)

    def no_data(_name):
        raise zoneinfo.ZoneInfoNotFoundError

    monkeypatch.setattr(quiet, "ZoneInfo", no_data)
    with pytest.raises(ValueError, match="install tzdata"):
        quiet_hours("22:00-06:00", "Europe/Berlin")


def hours_from_now(begin: float, end: float) -> str:
    now = datetime.now(UTC)
    return "-".join(f"{now + timedelta(hours=hours):%H:%M}" for hours in (begin, end))


async def test_nothing_is_sent_in_quiet_hours_and_all_of_it_afterwards(dsn, db):
    """Nor is a batch that has failed before; neither by a process that starts in them."""
    async with receiving(status(500)) as receiver:
        hours = {"quiet": hours_from_now(2, 3), "timezone": "UTC"}
        await make(dsn, receiver.url, **hours)
        await emit(db, 1)
        async with delivering(dsn):
            await until_column(db, "attempts = 1")
            await db.execute(
                "UPDATE webhooks SET retry_at = NULL, quiet = $1", hours_from_now(-1, 3)
            )
            await until_column(db, "quiet_until > now() + interval '2 h'")
        await emit(db, 2)
        await make(dsn, receiver.url)
        async with delivering(dsn):
            await emit(db, 1, group="late")
            await until(lambda: len(receiver.delivered) == 1)  # by the second webhook
            assert await db.fetchval("SELECT filtered_to FROM webhooks WHERE id = 1") == 1
            await db.execute("DELETE FROM webhooks WHERE id = 2")
            await db.execute("UPDATE webhooks SET quiet_until = now()")  # too early: it is extended
            await until_column(db, "quiet_until > now() + interval '2 h'")
            assert len(receiver.delivered) == 1
            await db.execute(
                "UPDATE webhooks SET quiet_until = now(), quiet = $1", hours_from_now(-2, -1)
            )
            await until(lambda: len(receiver.delivered) == 5)
    assert [one["event_id"] for one in receiver.delivered] == ["4", "1", "2", "3", "4"]


async def test_an_unknown_time_zone_delays_nothing(dsn, db, monkeypatch):
    """An alarm at night is better than none; a log line says why it came."""
    monkeypatch.setattr(delivery_store, "log", log := Log())
    async with receiving() as receiver:
        await make(dsn, receiver.url, quiet="00:00-23:59", timezone="Mars/Olympus")
        await emit(db, 1)
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 1)
    (fields,) = log.errors
    assert (fields["webhook"], fields["timezone"]) == (1, "Mars/Olympus")


class Log:
    def __init__(self):
        self.errors = []

    def error(self, _event, **fields):
        self.errors.append(fields)
