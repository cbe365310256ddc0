"""Quiet hours: the time of day in which a webhook is sent nothing, in a time zone."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_HOURS: Final = re.compile(r"(?:(?:^|-)(?:[01][0-9]|2[0-3]):[0-5][0-9]){2}")
_DAY: Final = timedelta(days=1)


class QuietHours(NamedTuple):
    """From when until when a webhook is quiet on each day; the end may be on the next day."""

    begin: time
    end: time
    zone: ZoneInfo

    def end_at(self, now: datetime) -> datetime | None:
        """Return when the quiet hours end in which a time is, in UTC; None if it is in none.

        A time of day that is skipped when the clock changes counts as one that is as much later; of
        one that there is twice the first one counts.
        """
        today = now.astimezone(self.zone).date()
        for day in (today - _DAY, today):
            last_day = day if self.begin < self.end else day + _DAY
            if self._at(day, self.begin) <= now < (end := self._at(last_day, self.end)):
                return end
        return None

    def _at(self, day: date, at: time) -> datetime:
        return datetime.combine(day, at, self.zone).astimezone(UTC)


def quiet_hours(hours: str, timezone: str) -> QuietHours:
    """Return quiet hours.

    Args:
        hours: as `22:00-06:00`.
        timezone: as the IANA names it, such as `Europe/Berlin`.

    Raises:
        ValueError: one of them is wrong, or there are no time zones on this machine.
    """
    if not _HOURS.fullmatch(hours):
        raise ValueError("two times of day from 00:00 to 23:59 are needed, as 22:00-06:00")
    begin, end = (time.fromisoformat(part) for part in hours.split("-"))
    if begin == end:
        raise ValueError("the quiet hours must end at another time than they begin")
    return QuietHours(begin, end, _zone(timezone))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is an OSError
        if not available_timezones():
            raise ValueError(
                "this machine has no time zones: install tzdata, as a package of the system "
                "or with pip"
            ) from None
        raise ValueError("there is no such time zone: names are as Europe/Berlin or UTC") from None
