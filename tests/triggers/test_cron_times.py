"""Due times of cron expressions: worked examples, a naive reference, and cronsim itself."""

from __future__ import annotations

import sys
import zoneinfo
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.engine.clock import NS
from headrace.triggers.cron import CronTimes

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
LORD_HOWE = "Australia/Lord_Howe"
MINUTE = timedelta(minutes=1)


def at_ns(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def shown(due_ns: int, tz: str) -> str:
    """Local time with its offset, so that the two of a repeated hour differ."""
    assert due_ns % NS == 0
    return datetime.fromtimestamp(due_ns // NS, ZoneInfo(tz)).strftime("%m-%d %H:%M:%S %z")


def from_start(expression: str, tz: str, start: str, number: int) -> list[str]:
    """The first due times after *start*, which is local, or has an offset."""
    when = datetime.fromisoformat(start)
    due_ns: int | None = at_ns(when if when.tzinfo else when.replace(tzinfo=ZoneInfo(tz)))
    times, found = CronTimes(expression, tz), list[str]()
    for _ in range(number):
        assert due_ns is not None
        due_ns = times.next_ns(due_ns)
        assert due_ns is not None
        found.append(shown(due_ns, tz))
    return found


# Berlin: 2026-03-29 02:00 → 03:00 and 2026-10-25 03:00 → 02:00.  New York: 2026-03-08 02:00 →
# 03:00 and 2026-11-01 02:00 → 01:00.  Lord Howe, half an hour: 2026-04-05 02:00 → 01:30 and
# 2026-10-04 02:00 → 02:30.  Havana at midnight: 2026-03-08 00:00 → 01:00.  St. John's at a
# minute past: 2010-11-07 00:01 → 23:01 of the day before.  Apia left out 2011-12-30.
EXAMPLES: list[tuple[str, str, str, list[str]]] = [
    ("0 6 * * MON", BERLIN, "2026-03-23T06:00", ["03-30 06:00:00 +0200"]),
    ("0 6 * * MON", BERLIN, "2026-03-23T05:59:59.999", ["03-23 06:00:00 +0100"]),
    # A time of day that does not exist fires when clocks are put forward, once.
    (
        "30 2 * * *",
        BERLIN,
        "2026-03-28T00:00",
        ["03-28 02:30:00 +0100", "03-29 03:00:00 +0200", "03-30 02:30:00 +0200"],
    ),
    ("15,45 2,3 29 3 *", BERLIN, "2026-03-28T00:00", ["03-29 03:00:00 +0200"]),
    (
        "0,30 2,3 * * *",
        BERLIN,
        "2026-03-29T00:00",
        ["03-29 03:00:00 +0200", "03-29 03:30:00 +0200", "03-30 02:00:00 +0200"],
    ),
    # One that exists twice fires the first time only …
    ("30 2 * * *", BERLIN, "2026-10-25T00:00", ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]),
    ("45 2 * * *", BERLIN, "2026-10-25T02:30+01:00", ["10-26 02:45:00 +0100"]),
    ("45 2 * * *", BERLIN, "2026-10-25T02:30+02:00", ["10-25 02:45:00 +0200"]),
    ("0 3 * * *", BERLIN, "2026-10-25T02:30+01:00", ["10-25 03:00:00 +0100"]),
    ("30 1 * * *", NEW_YORK, "2026-11-01T00:00", ["11-01 01:30:00 -0400", "11-02 01:30:00 -0500"]),
    # … and what is said with a star goes by the clock on the wall, twice too.
    (
        "*/30 * * * *",
        NEW_YORK,
        "2026-11-01T01:15-04:00",
        ["11-01 01:30:00 -0400", "11-01 01:00:00 -0500", "11-01 01:30:00 -0500"],
    ),
    (
        "0 */2 * * *",
        NEW_YORK,
        "2026-03-08T00:00",
        ["03-08 04:00:00 -0400", "03-08 06:00:00 -0400"],
    ),
    (
        "0 * * * *",
        BERLIN,
        "2026-03-29T01:00",
        ["03-29 03:00:00 +0200", "03-29 04:00:00 +0200"],
    ),
    ("0 30 2 * * *", BERLIN, "2026-03-29T00:00", ["03-30 02:30:00 +0200"]),
    ("0 30 2 * * *", BERLIN, "2026-10-25T02:30+02:00", ["10-25 02:30:00 +0100"]),
    # Half an hour.
    (
        "0 */2 * * *",
        LORD_HOWE,
        "2026-04-05T00:00",
        ["04-05 02:00:00 +1030", "04-05 04:00:00 +1030"],
    ),
    (
        "45 1 * * *",
        LORD_HOWE,
        "2026-04-05T00:00",
        ["04-05 01:45:00 +1100", "04-06 01:45:00 +1030"],
    ),
    ("15 2 * * *", LORD_HOWE, "2026-10-04T00:00", ["10-04 02:30:00 +1100", "10-05 02:15:00 +1100"]),
    ("*/15 2 * * *", LORD_HOWE, "2026-10-04T00:00", ["10-04 02:30:00 +1100"]),
    # Midnight.
    ("0 0 * * SUN", "America/Havana", "2026-03-06T00:00", ["03-08 01:00:00 -0400"]),
    ("0 */2 * * SUN", "America/Havana", "2026-03-06T00:00", ["03-08 02:00:00 -0400"]),
    (
        "30 23 * * *",
        "America/St_Johns",
        "2010-11-06T12:00",
        ["11-06 23:30:00 -0230", "11-07 23:30:00 -0330"],
    ),
    (
        "0 * * * *",
        "America/St_Johns",
        "2010-11-06T23:30-02:30",
        ["11-07 00:00:00 -0230", "11-07 00:00:00 -0330"],
    ),
    (
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T12:00",
        ["12-31 00:00:00 +1400", "12-31 12:00:00 +1400"],
    ),
    # Days.
    ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["02-29 00:00:00 +0000"]),
    ("0 0 L * *", "UTC", "2026-02-01T00:00", ["02-28 00:00:00 +0000", "03-31 00:00:00 +0000"]),
    ("0 0 LW * *", "UTC", "2026-02-01T00:00", ["02-27 00:00:00 +0000"]),
    ("0 0 * * MON#2", "UTC", "2026-02-01T00:00", ["02-09 00:00:00 +0000"]),
    ("0 0 * * 5L", "UTC", "2026-02-01T00:00", ["02-27 00:00:00 +0000"]),
    ("0 0 13 * FRI", "UTC", "2026-02-11T00:00", ["02-13 00:00:00 +0000", "02-20 00:00:00 +0000"]),
    ("0 0 */2 * FRI", "UTC", "2026-02-11T00:00", ["02-13 00:00:00 +0000", "02-27 00:00:00 +0000"]),
    ("0 0 1 jan *", "UTC", "1969-12-31T00:00", ["01-01 00:00:00 +0000"]),
    ("*/20 * * * * *", "UTC", "2026-01-01T00:00:39.5", ["01-01 00:00:40 +0000"]),
]


@pytest.mark.parametrize(("expression", "tz", "start", "due"), EXAMPLES)
def test_worked_examples(expression: str, tz: str, start: str, due: list[str]) -> None:
    """The next due times, where clocks are changed and where they are not."""
    assert from_start(expression, tz, start, len(due)) == due


def test_what_is_due_once_in_forty_years_is_found() -> None:
    """A Sunday, the 29th of February; the leap year 2100 that is none lies between."""
    times = CronTimes("0 0 29 2 */7", "UTC")

    found = times.next_ns(at_ns(datetime(2088, 2, 29, tzinfo=UTC)))

    assert found == at_ns(datetime(2128, 2, 29, tzinfo=UTC))


# ---------------------------------------------------------------- a naive reference

EDGES = [  # zones, and days on which something happens there
    ("UTC", "2026-02-28"),
    (BERLIN, "2026-03-29"),
    (BERLIN, "2026-10-25"),
    (NEW_YORK, "2026-03-08"),
    (NEW_YORK, "2026-11-01"),
    (LORD_HOWE, "2026-04-05"),
    (LORD_HOWE, "2026-10-04"),
    ("America/Havana", "2026-03-08"),
    ("America/Havana", "2026-11-01"),
    ("America/St_Johns", "2010-11-07"),
    ("America/St_Johns", "2011-03-13"),
    ("Pacific/Apia", "2011-12-30"),
    ("Asia/Kathmandu", "1985-12-31"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Antarctica/Troll", "2026-03-29"),
    ("Asia/Kolkata", "2026-06-01"),
]


@st.composite
def fields(draw: st.DrawFn, first: int, last: int) -> tuple[str, set[int]]:
    """A field of an expression, and the numbers that it stands for.

    Days up to 28 are in every month; a star stands for all 31.
    """
    number = st.integers(first, last)
    kind = draw(st.sampled_from(["star", "star", "step", "list", "range"]))
    if kind == "star":
        return "*", set(range(first, (31 if last == 28 else last) + 1))
    if kind == "step":
        step = draw(st.integers(1, last))
        return f"*/{step}", set(range(first, (31 if last == 28 else last) + 1, step))
    if kind == "list":
        chosen = draw(st.lists(number, min_size=1, max_size=4))
        return ",".join(map(str, chosen)), set(chosen)
    low, high = sorted((draw(number), draw(number)))
    return f"{low}-{high}", set(range(low, high + 1))


LOOKS_BEFORE = timedelta(days=4)
LOOKS_AFTER = timedelta(days=3)
"""What is looked at around noon of a day; two more days before say what was passed by then."""


@cache
def minutes_around(tz: str, day: str) -> list[tuple[datetime, datetime, list[datetime]]]:
    """Each minute around noon of *day*, what a clock on the wall shows, and what it newly passes.

    The examples are all around the same few days.
    """
    noon = datetime.fromisoformat(f"{day}T12:00+00:00")
    zone, at, found = ZoneInfo(tz), noon - LOOKS_BEFORE, list[Any]()
    reached = at.astimezone(zone).replace(tzinfo=None)
    while (at := at + MINUTE) < noon + LOOKS_AFTER:
        local = at.astimezone(zone).replace(tzinfo=None)
        passed = list[datetime]()
        while reached < local:
            reached += MINUTE
            passed.append(reached)
        found.append((at, local, passed))
    return found


class Expression:
    """An expression as sets of numbers, made anew from the manual page of cron."""

    def __init__(self, parts: list[tuple[str, set[int]]]) -> None:
        self.texts = [text for text, _ in parts]
        self.minutes, self.hours, self.days, self.months, self.weekdays = (
            numbers for _, numbers in parts
        )

    def __repr__(self) -> str:
        return " ".join(self.texts)

    @property
    def by_star(self) -> bool:
        return self.texts[0].startswith("*") or self.texts[1].startswith("*")

    def matches(self, local: datetime) -> bool:
        if local.minute not in self.minutes or local.hour not in self.hours:
            return False
        by_day = local.day in self.days
        by_weekday = local.isoweekday() % 7 in self.weekdays
        with_star = self.texts[2].startswith("*") or self.texts[4].startswith("*")
        return local.month in self.months and (
            by_day and by_weekday if with_star else by_day or by_weekday
        )

    def due(self, tz: str, day: str, start: datetime, end: datetime) -> list[datetime]:
        """Look at each minute in between: at the clock on the wall, and at what it has passed."""
        around = minutes_around(tz, day)
        first = (start - around[0][0]) // MINUTE + 1
        looked_at = around[first : first + (end - start) // MINUTE - 1]
        if self.by_star:
            return [at for at, local, _ in looked_at if self.matches(local)]
        return [at for at, _, passed in looked_at if any(map(self.matches, passed))]


EXPRESSIONS = st.tuples(
    fields(0, 59), fields(0, 23), fields(1, 28), fields(1, 12), fields(0, 6)
).map(lambda parts: Expression(list(parts)))


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    expression=EXPRESSIONS,
    edge=st.sampled_from(EDGES),
    before=st.integers(0, 2 * 1440),
    minutes=st.integers(1, 3 * 1440),
    cut=st.integers(0, 10_000),
)
def test_times_are_those_of_a_look_at_each_minute(
    expression: Expression, edge: tuple[str, str], before: int, minutes: int, cut: int
) -> None:
    """One by one, counted, and passed over: the same as by looking at each minute."""
    tz, day = edge
    start = datetime.fromisoformat(f"{day}T12:00+00:00") - before * MINUTE
    end = start + minutes * MINUTE
    expected = [at_ns(due) for due in expression.due(tz, day, start, end)]
    times = CronTimes(repr(expression), tz)

    found = list[int]()
    due_ns = times.next_ns(at_ns(start))
    while due_ns is not None and due_ns < at_ns(end):
        found.append(due_ns)
        due_ns = times.next_ns(due_ns)
    assert found == expected
    assert times.count(at_ns(start), at_ns(end)) == len(expected)
    if expected:
        number = cut % len(expected)
        middle = expected[number]
        assert times.next_ns(at_ns(start), skipped=number) == middle
        assert times.count(at_ns(start), middle) == number
        assert times.count(at_ns(start), middle + 1) == number + 1
        assert times.count(middle, at_ns(end)) == len(expected) - number - 1


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    expression=EXPRESSIONS,
    tz=st.sampled_from(["UTC", BERLIN, NEW_YORK, "Asia/Tokyo"]),
    start=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
)
@example(Expression([("30", {30}), ("2", {2}), ("*", set()), ("3", {3}), ("*", set())]), BERLIN,
         datetime(2026, 3, 29))  # fmt: skip # noqa: DTZ001
def test_times_are_those_of_cronsim(expression: Expression, tz: str, start: datetime) -> None:
    """Where clocks change by whole hours and not at midnight, cronsim's own answer is the same."""
    begin = start.replace(microsecond=0, tzinfo=ZoneInfo(tz))
    first = CronSim(repr(expression), begin)
    times = CronTimes(repr(expression), tz)
    due_ns: int | None = at_ns(begin)
    for _ in range(5):
        assert due_ns is not None
        due_ns = times.next_ns(due_ns)
        assert due_ns is not None
        assert shown(due_ns, tz) == next(first).strftime("%m-%d %H:%M:%S %z")


SPANS = st.integers(0, 40 * 366 * 86_400)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    expression=EXPRESSIONS,
    tz=st.sampled_from([BERLIN, LORD_HOWE, "Africa/Casablanca"]),
    start_s=st.integers(0, 10**9),
    spans=st.tuples(SPANS, SPANS),
)
def test_counts_of_long_times_add_up(
    expression: Expression, tz: str, start_s: int, spans: tuple[int, int]
) -> None:
    """Over decades too, what is counted is what is passed over."""
    times = CronTimes(repr(expression), tz)
    start, end = start_s * NS, (start_s + spans[0] % (5 * 366 * 86_400)) * NS
    count = times.count(start, end)
    following = times.next_ns(start, skipped=count)
    assert following is not None
    assert following >= end
    if count:
        last = times.next_ns(start, skipped=count - 1)
        assert last is not None
        assert start < last < end
        assert times.next_ns(last) == following
        middle = times.next_ns(start, skipped=spans[1] % count)
        assert middle is not None
        assert times.count(start, middle) == spans[1] % count


def test_a_year_of_minutes_is_counted_by_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not half a million steps at the first start after a long time."""
    times, asked = CronTimes("* * * * *", BERLIN), list[Any]()
    match_day = times._spec.match_day

    def counted(day: Any) -> bool:
        asked.append(day)
        return match_day(day)

    monkeypatch.setattr(times._spec, "match_day", counted)
    start = at_ns(datetime(2026, 1, 1, tzinfo=UTC))
    year = 365 * 86_400 * NS

    assert times.count(start, start + year) == 365 * 1440 - 1
    assert times.next_ns(start, skipped=365 * 1440 - 1) == start + year
    assert len(asked) < 1500


# ---------------------------------------------------------------- what cannot work

REFUSED = {
    "": "expected 5 fields .* found 0",
    "* * * *": "expected 5 fields .* found 4",
    "@daily": "expected 5 fields .* found 1",
    "* * * * * * *": "found 7",
    "60 * * * *": r"field 1 \(minute\): expected 0 to 59.*found '60'",
    "* 24 * * *": r"field 2 \(hour\): expected 0 to 23.*found '24'",
    "* * 0 * *": r"field 3 \(day of month\).*found '0'",
    "* * * 13 *": r"field 4 \(month\): expected 1 to 12.*found '13'",
    "* * * * MONDAY": r"field 5 \(day of week\).*found 'MONDAY'",
    "60 * * * * *": r"field 1 \(second\).*found '60'",
    "* 1,2,x * * *": r"field 2 \(hour\).*found '1,2,X'",
    "*/0 * * * *": r"field 1 \(minute\).*found '\*/0'",
    "5-1 * * * *": r"field 1 \(minute\).*found '5-1'",
    "0 0 30 2 *": "there is no such day in any year",
    "0 0 31 4,6,9,11 *": "there is no such day in any year",
    "0 0 */28 * MON#3": "there is no such day in any year",
    "* " * 300: "expected up to 200 characters",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_expressions_that_cannot_work_are_refused(expression: str) -> None:
    """In one line, with the field."""
    with pytest.raises(ValueError, match=REFUSED[expression]) as caught:
        CronTimes(expression.upper(), "UTC")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.text("0123456789*/-,#LWFRIJAN \t\n²", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever somebody types is an expression, or a `ValueError` that says why not."""
    times = None
    with suppress(ValueError):
        times = CronTimes(text, "UTC")
    assert times is None or times.next_ns(0) is not None


ZONES_REFUSED = {
    "Europe/Berln": "did you mean 'Europe/Berlin'",
    "Berlin": "did you mean",
    "europe": "expected a time zone",
    "Europe": "expected a time zone",
    "": "expected a time zone",
    "../etc/passwd": "expected a time zone",
    "/etc/localtime": "expected a time zone",
    "localtime": "expected a time zone",
    "right/Europe/Berlin": "expected a time zone",
    "+01:00": "expected a time zone",
    "a\0b": "expected a time zone",
}


@pytest.mark.parametrize("tz", ZONES_REFUSED)
def test_zones_that_are_none_are_refused(tz: str) -> None:
    """So is what names another zone on each machine."""
    with pytest.raises(ValueError, match=ZONES_REFUSED[tz]) as caught:
        CronTimes("* * * * *", tz)
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a database of time zones."""
    for module in [name for name in sys.modules if name.startswith("tzdata.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tzdata", None)
    path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(())
    ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath(path)
    ZoneInfo.clear_cache()


@pytest.mark.usefixtures("no_zones")
def test_a_machine_without_zones_says_what_to_install() -> None:
    """UTC, the default, works there too."""
    with pytest.raises(ValueError, match=r"no time zone database; install one \(pip install tz"):
        CronTimes("* * * * *", BERLIN)
    assert CronTimes("* * * * *", "UTC").next_ns(0) == 60 * NS
