"""`app.cron` and `app.at` in a whole engine, in virtual time and by the events' own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.engine.stand import StepClock, of_kind, opened, quiet

from headrace import App, Engine, Firing, MemoryLog
from headrace.engine.clock import NS
from headrace.engine.emission import Emission
from headrace.engine.record import EngineStarted, TimerFired
from headrace.triggers.nodes_clock import CatchUp

HOUR = 3600


def local(tz: str, *when: int) -> datetime:
    year, month, day, hour, minute = (*when, 0, 0)[:5]
    return datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(tz))


def clock_at(when: datetime) -> StepClock:
    return StepClock(wall_ns=int(when.timestamp()) * NS)


def said(tz: str, at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / NS, ZoneInfo(tz)).strftime("%d %H:%M %z")


CHANGES = [
    (
        "Europe/Berlin",
        (2026, 3, 28, 12),
        "30 2 * * *",
        ["29 03:00 +0200", "30 02:30 +0200", "31 02:30 +0200"],
    ),
    (
        "Europe/Berlin",
        (2026, 10, 24, 12),
        "30 2 * * *",
        ["25 02:30 +0200", "26 02:30 +0100", "27 02:30 +0100"],
    ),
    (
        "America/New_York",
        (2026, 10, 31, 12),
        "30 1 * * *",
        ["01 01:30 -0400", "02 01:30 -0500", "03 01:30 -0500"],
    ),
    (
        "America/New_York",
        (2026, 3, 7, 21),
        "0 */2 8 * *",
        ["08 00:00 -0500"] + [f"08 {hour:02}:00 -0400" for hour in range(4, 24, 2)],
    ),
    (
        "Australia/Lord_Howe",
        (2026, 4, 4, 12),
        "45 1 * * *",
        ["05 01:45 +1100", "06 01:45 +1030", "07 01:45 +1030"],
    ),
    (
        "Australia/Lord_Howe",
        (2026, 10, 3, 12),
        "15 2 * * *",
        ["04 02:30 +1100", "05 02:15 +1100", "06 02:15 +1100"],
    ),
]


@pytest.mark.parametrize(("tz", "start", "expression", "expected"), CHANGES)
@pytest.mark.parametrize("by", ["clock", "input"])
async def test_clocks_that_are_changed(
    by: str, tz: str, start: tuple[int, ...], expression: str, expected: list[str]
) -> None:
    """A job fires as people read its time from the wall, live and with recorded events."""
    app, log, fired, lateness = App("t"), MemoryLog(), list[str](), set[int]()
    begin = local(tz, *start)

    @app.cron(expression, tz=tz)
    async def job(firing: Firing[Any]) -> None:
        assert firing.due_ns is not None
        fired.append(said(tz, firing.due_ns))
        lateness.add(firing.lateness_ns)

    if by == "clock":
        clock = clock_at(begin)
        async with opened(app, log, clock) as engine:
            await clock.step(engine, 72 * HOUR)
    else:
        async with opened(app, log, clock="input") as engine:
            for hours in (0, 1, 72):
                time = begin.timestamp() + hours * HOUR
                await engine.emit_many([Emission("a", time_ns=int(time) * NS)])
            await engine.drain()

    assert fired == expected
    assert lateness == {0}


async def downtime(catch_up: CatchUp) -> tuple[list[Any], MemoryLog]:
    """What fires of a job at 6, from Monday noon; nothing runs from Tuesday to Friday, 8:00."""
    app, log, fired = App("t"), MemoryLog(), list[Any]()
    clock = clock_at(local("Europe/Berlin", 2026, 3, 23, 12))

    @app.cron("0 6 * * *", tz="Europe/Berlin", catch_up=catch_up)
    async def job(firing: Firing[Any]) -> None:
        assert firing.due_ns is not None
        due = said("Europe/Berlin", firing.due_ns)[:5]
        fired.append((due, firing.missed, firing.lateness_ns // NS / HOUR))

    async with opened(app, log, clock) as engine:
        await clock.step(engine, 20 * HOUR)
    clock.pass_by(72 * HOUR)
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        await clock.step(engine, 24 * HOUR)
    return fired, log


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("last", [("24 06", 0, 0), ("25 06", 2, 50), ("28 06", 0, 0)]),
        (
            "all",
            [("24 06", 0, 0), ("25 06", 0, 50), ("26 06", 0, 26), ("27 06", 0, 2), ("28 06", 0, 0)],
        ),
        ("none", [("24 06", 0, 0), ("28 06", 0, 0)]),
    ],
)
async def test_downtime(catch_up: CatchUp, expected: list[Any]) -> None:
    """Of three mornings without an engine, one firing for all, each, or none."""
    fired, log = await downtime(catch_up)

    assert fired == expected
    missed = [timer.missed for timer in of_kind(log, TimerFired)]
    assert missed == ([0, 3, 0] if catch_up == "none" else [missed for _, missed, _ in expected])


@pytest.mark.parametrize("catch_up", ["all", "last", "none"])
async def test_once_at_a_time(catch_up: CatchUp) -> None:
    """Live, in a downtime, and never again."""
    app, clock, log = App("t"), StepClock(), MemoryLog()
    fired = list[tuple[str, float]]()
    begin = datetime.fromtimestamp(clock.wall_ns() / NS, UTC)

    def note(name: str) -> Any:
        async def job(firing: Firing[Any]) -> None:
            fired.append((name, firing.lateness_ns / NS))

        return job

    for name, seconds in (("past", -5), ("live", 5), ("down", 50), ("later", 200)):
        when = begin + timedelta(seconds=seconds)
        app.at(when, catch_up=catch_up, name=name)(note(name))
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 10)
    clock.pass_by(90)
    for _ in range(3):
        async with opened(app, log, clock) as engine:
            await clock.step(engine, 60)

    assert fired == [
        *([("past", 5)] if catch_up == "all" else []),
        ("live", 0),
        *([] if catch_up == "none" else [("down", 50)]),
        ("later", 0),
    ]


@pytest.mark.slow
async def test_the_same_after_a_restart_at_any_moment() -> None:
    """A stop that no due time falls into changes nothing, in the repeated hour neither."""
    tz = "Europe/Berlin"
    for stop in range(0, 180, 20):
        app, log, fired = App("t"), MemoryLog(), list[str]()
        clock = clock_at(local(tz, 2026, 10, 25, 1, 30))

        @app.cron("15,45 2 * * *", tz=tz, name="fixed")
        @app.cron("*/15 2 * * *", tz=tz, name="star")
        async def job(firing: Firing[Any], fired: list[str] = fired) -> None:
            assert firing.due_ns is not None
            fired.append(f"{firing.rule} {said(tz, firing.due_ns)}")

        for seconds in (stop * 60 + 1, (240 - stop) * 60):
            async with opened(app, log, clock) as engine:
                await clock.step(engine, seconds)

        assert sorted(fired) == sorted(
            [f"fixed 25 02:{minute} +0200" for minute in (15, 45)]
            + [f"star 25 02:{m:02} +0{o}00" for o in (1, 2) for m in (0, 15, 30, 45)]
        )
        assert len(of_kind(log, EngineStarted)) == 2


async def test_recorded_events_begin_the_schedule() -> None:
    """By input time the first event says when the rule begins, and an event moves the time on."""
    app, log, fired = App("t"), MemoryLog(), list[str]()

    @app.cron("0 0 1 * *")
    async def monthly(firing: Firing[Any]) -> None:
        fired.append(datetime.fromtimestamp(firing.at, UTC).date().isoformat())

    @app.at("2014-03-15T12:00:00Z")
    async def once(firing: Firing[Any]) -> None:
        fired.append("once")

    async def play(engine: Engine, *days: str) -> None:
        for day in days:
            time = datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()
            await engine.emit_many([Emission("a", time=time)])
        await engine.drain()

    async with opened(app, log, clock="input") as engine:
        await play(engine, "2014-01-15", "2014-02-01", "2014-02-02")
    async with opened(app, log, clock="input") as engine:
        await play(engine, "2014-04-02")

    assert fired == ["2014-02-01", "2014-03-01", "once", "2014-04-01"]
