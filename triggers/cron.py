"""`CronTimes`: when a cron expression is due in a time zone.

cronsim reads the expression and says which days match.  The rest is counting: matches are
found in local time, stretch by stretch of one offset from UTC, so that what happens where
the offset changes is said here once, for every zone, and a year of minutes costs
milliseconds.  Imported only when an app declares a cron.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError
from msgspec import Struct

from headrace.engine.clock import NS
from headrace.triggers.zones import EPOCH_DAY, zone_of

DAY_S: Final = 86_400
HORIZON_S: Final = 51 * 366 * DAY_S
"""What is not due for so long never is: cronsim, too, looks 50 years ahead."""
LOOK_BACK_S: Final = 2 * DAY_S
"""More than any zone was ever moved by at once."""
EXPRESSION_CHARS_MAX: Final = 200
START: Final = datetime(2000, 1, 1)  # noqa: DTZ001 (any local time)
FIELDS: Final = {
    "second": "0 to 59",
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L or LW",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 or SUN to SAT, such as 1#2 or 5L too",
}


class _Stretch(Struct, frozen=True):
    """Local times in seconds, ``[start, end)``, that have one offset from UTC."""

    start: int
    end: int
    offset: int
    at: int | None = None
    """They do not exist: the first match is due at this time instead, the others are not."""


class CronTimes:
    """The due times of an expression: a pure function of it, its zone and the time before.

    An expression whose minute or hour begins with ``*`` is due whenever the local time
    matches.  Any other means times of day: one that exists twice is due the first time,
    and those that do not exist are due once, at the end of the gap.  So it is in Debian's
    cron.  With six fields, of which the first is seconds, it is always the former.
    """

    def __init__(self, expression: str, tz: str) -> None:
        """Read *expression*; *tz* is a name such as ``Europe/Berlin``.

        Raises:
            ValueError: one of them cannot work; says where and why.
        """
        self._spec = spec = _read(expression)
        self._zone = zone_of(tz, "cron")
        self._hours, self._minutes, self._seconds = map(
            sorted, (spec.hours, spec.minutes, spec.seconds)
        )
        self._per_hour = len(self._minutes) * len(self._seconds)
        self._per_day = len(self._hours) * self._per_hour
        fields = expression.split()
        self._is_daily = len(fields) == 5 and not any(f.startswith("*") for f in fields[:2])

    def next_ns(self, after_ns: int, *, skipped: int = 0) -> int | None:
        """Return the due time after *after_ns*, or the one *skipped* due times later.

        ``None`` if there is none for fifty years.
        """
        for stretch in self._stretches(after_ns // NS + 1):
            count = self._count(stretch)
            if skipped < count:
                local = self._nth(stretch, skipped)
                return NS * (local - stretch.offset if stretch.at is None else stretch.at)
            skipped -= count
        return None

    def count(self, after_ns: int, before_ns: int) -> int:
        """Return how many due times lie between two times, without these.

        A year costs some milliseconds, however many there are in it.
        """
        end_s = -(-before_ns // NS)
        return sum(map(self._count, self._stretches(after_ns // NS + 1, end_s)))

    # ------------------------------------------------------------ offsets from UTC

    def _offset(self, at_s: int) -> int:
        offset = datetime.fromtimestamp(at_s, self._zone).utcoffset()
        assert offset is not None
        return offset // timedelta(seconds=1)

    def _change(self, start_s: int, end_s: int) -> int:
        """Return the time up to *end_s* from which on there is another offset."""
        offset = self._offset(start_s)
        while end_s - start_s > 1:
            middle_s = (start_s + end_s) // 2
            if self._offset(middle_s) == offset:
                start_s = middle_s
            else:
                end_s = middle_s
        return end_s

    def _stretches(self, start_s: int, end_s: int | None = None) -> Iterator[_Stretch]:
        """Yield the local times from *start_s* on, before *end_s*, in order: a day or less each."""
        stop_s = start_s + HORIZON_S if end_s is None else end_s
        at_s = start_s - LOOK_BACK_S if self._is_daily else start_s
        offset = self._offset(at_s)
        seen = at_s + offset  # local times before this one were there already
        while at_s < stop_s:
            until_s = at_s + DAY_S
            next_offset = self._offset(until_s)
            if next_offset != offset:
                until_s = self._change(at_s, until_s)
                next_offset = self._offset(until_s)
            first = max(at_s, start_s) + offset
            if self._is_daily:
                first = max(first, seen)
            last = min(until_s, stop_s) + offset
            if first < last:
                yield _Stretch(first, last, offset)
            if self._is_daily and next_offset > offset:
                # With the first time after the gap: that is the same firing.
                seen = until_s + next_offset + 1
                if start_s <= until_s < stop_s:
                    yield _Stretch(until_s + offset, seen, offset, until_s)
            elif next_offset < offset:
                seen = until_s + offset
            at_s, offset = until_s, next_offset

    # ------------------------------------------------------------ local times

    def _count(self, stretch: _Stretch) -> int:
        """Return how many due times *stretch* has."""
        first_day, first = divmod(stretch.start, DAY_S)
        last_day, last = divmod(stretch.end, DAY_S)
        count = 0
        for day in range(first_day, last_day + 1):
            if (day < last_day or last) and self._is_day(day):
                count += self._rank(last) if day == last_day else self._per_day
                count -= self._rank(first) if day == first_day else 0
        return count if stretch.at is None else min(count, 1)

    def _nth(self, stretch: _Stretch, number: int) -> int:
        """Return match *number* of *stretch*, from 0; there is one."""
        day, first = divmod(stretch.start, DAY_S)
        while True:
            if self._is_day(day):
                number += self._rank(first)
                if number < self._per_day:
                    break
                number -= self._per_day
            day, first = day + 1, 0
        hour, rest = divmod(number, self._per_hour)
        minute, second = divmod(rest, len(self._seconds))
        time_s = self._hours[hour] * 3600 + self._minutes[minute] * 60 + self._seconds[second]
        return day * DAY_S + time_s

    def _is_day(self, day: int) -> bool:
        on = date.fromordinal(EPOCH_DAY + day)
        return on.month in self._spec.months and self._spec.match_day(on)

    def _rank(self, time_s: int) -> int:
        """Return how many matches a day has before *time_s*."""
        hour, rest = divmod(time_s, 3600)
        minute, second = divmod(rest, 60)
        place = bisect_left(self._hours, hour)
        rank = place * self._per_hour
        if place < len(self._hours) and self._hours[place] == hour:
            place = bisect_left(self._minutes, minute)
            rank += place * len(self._seconds)
            if place < len(self._minutes) and self._minutes[place] == minute:
                rank += bisect_left(self._seconds, second)
        return rank


def _read(expression: str) -> CronSim:
    place = f"cron({expression!r})"
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise ValueError(f"cron(…): expected up to {EXPRESSION_CHARS_MAX} characters")
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise ValueError(
            f"{place}: expected 5 fields (minute, hour, day of month, month, day of week), or 6 "
            f"with seconds before them; found {len(fields)}"
        )
    names = list(FIELDS)[-len(fields) :]
    for number, (name, field) in enumerate(zip(names, fields, strict=True), 1):
        alone = ["*"] * 6
        alone[list(FIELDS).index(name)] = field
        try:
            CronSim(" ".join(alone), START)
        except CronSimError:
            raise ValueError(
                f"{place}, field {number} ({name.replace('-', ' ')}): expected {FIELDS[name]}, "
                f"*, lists (1,5), ranges (1-5) or steps (*/5); found {field!r}"
            ) from None
    try:
        spec = CronSim(expression, START)
        next(spec)
    except (CronSimError, StopIteration):
        raise ValueError(f"{place}: there is no such day in any year") from None
    return spec
