"""Converts dates and times of day to seconds since 0001-01-01 and back, for clock chips.

Every function accepts any numbers and raises nothing, because a guest may write invalid dates.
"""

from datetime import date
from typing import Final, NamedTuple

DAY: Final = 86_400
UNIX_EPOCH: Final = (date(1970, 1, 1).toordinal() - 1) * DAY
_DAYS: Final = date.max.toordinal()


class Moment(NamedTuple):
    """A second in UTC; weekday 0 is Sunday."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    weekday: int


def from_seconds(seconds: int) -> Moment:
    """Return the moment; after the year 9999 comes the year 1."""
    days, second = divmod(seconds, DAY)
    day = date.fromordinal(days % _DAYS + 1)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return Moment(day.year, day.month, day.day, hour, minute, second, day.isoweekday() % 7)


def to_seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Return the seconds, or None if there is no such moment."""
    if not (hour < 24 and minute < 60 and second < 60):
        return None
    try:
        days = date(year, month, day).toordinal() - 1
    except ValueError:
        return None
    return days * DAY + hour * 3600 + minute * 60 + second


class Wanted(NamedTuple):
    """One part of an alarm's time: a number, or None if every value matches."""

    value: int | None

    def next(self, at_least: int, limit: int) -> int | None:
        """Return the lowest match from `at_least` to below `limit`."""
        if self.value is None:
            return at_least if at_least < limit else None
        return self.value if at_least <= self.value < limit else None


def until(now: int, hours: Wanted, minutes: Wanted, seconds: Wanted) -> int | None:
    """Return the number of seconds from the second `now` of a day to the next alarm.

    The number is at least 1 and at most a day; it is None if the alarm's time is invalid.
    """
    first = _first_from(now + 1, hours, minutes, seconds)
    if first is None:
        first = _first_from(0, hours, minutes, seconds)
        return None if first is None else first + DAY - now
    return first - now


def _first_from(start: int, hours: Wanted, minutes: Wanted, seconds: Wanted) -> int | None:
    """Return the day's first match at or after second `start`."""
    if start >= DAY:
        return None
    hour, rest = divmod(start, 3600)
    minute, second = divmod(rest, 60)
    # Try the current hour and minute, then the next minute, then the next hour.
    for h, m, s in ((hour, minute, second), (hour, minute + 1, 0), (hour + 1, 0, 0)):
        at_hour = hours.next(h, 24)
        if at_hour is None:
            continue
        at_minute = minutes.next(m if at_hour == h else 0, 60)
        if at_minute is None:
            continue
        at_second = seconds.next(s if (at_hour, at_minute) == (h, m) else 0, 60)
        if at_second is not None:
            return at_hour * 3600 + at_minute * 60 + at_second
    return None
