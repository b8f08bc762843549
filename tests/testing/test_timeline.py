"""A timeline is written by hand or taken from a log, and played in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.stand import of_kind

from headrace import App, Emission, FileLog, MemoryLog, Run, field, on
from headrace.engine.clock import NS
from headrace.engine.errors import LogUnusable
from headrace.engine.record import EventStored
from headrace.testing import (
    Moment,
    Timeline,
    VirtualClock,
    assert_fires,
    firings,
    virtual_time,
)

HOT = on("boilers.*.temperature").where(field("celsius") > 90).key(lambda e: e.tokens[1])


def test_events_are_in_the_order_of_their_times() -> None:
    """Each stream can be written by itself."""
    timeline = Timeline([(5, "a", 1)]).every(10, "b", ["x", "y"], start=1).at(0, "c", key="k")

    assert [moment[:5] for moment in timeline] == [
        (0, "c", None, "k", None), (1, "b", "x", None, None),
        (5, "a", 1, None, None), (11, "b", "y", None, None),
    ]  # fmt: skip
    assert repr(timeline) == "<Timeline of 4 events>"


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (lambda t: t.at(-1, "a"), "expected seconds from 0, found -1"),
        (lambda t: t.at(float("nan"), "a"), "expected seconds from 0, found nan"),
        (lambda t: t.at(0, "a.*"), "a.*"),
        (lambda t: t.every(0, "a", [1]), "expected a period above 0, found 0"),
    ],
)
def test_what_cannot_happen_is_refused(add: Any, said: str) -> None:
    """A mistake is found where it is written."""
    with pytest.raises(ValueError, match=said.replace("*", r"\*")):
        add(Timeline())


def test_keys_and_times_of_events_count() -> None:
    """Patterns that go by an event's own key or time see them."""
    timeline = Timeline().at(0, "a", key="left").at(1, "a", key="right")

    assert [f.key for f in firings(on("a").key(lambda e: e.key), timeline)] == ["left", "right"]
    assert Moment(1, "a").time is None


async def test_headers_of_events_count(tmp_path: Path) -> None:
    """Conditions see them in a trial, and they come from a log and into one."""
    mill = {"tenant": "mill"}
    timeline = Timeline().at(0, "a").at(1, "a", headers=mill)
    assert len(firings(on("a").where(lambda e: e.headers == mill), timeline)) == 1
    async with App("t").open(tmp_path / "log", control=False) as engine:
        await engine.emit("a", headers=mill)
    stored, clock, log = Timeline.from_log(tmp_path / "log"), VirtualClock(), MemoryLog()
    async with App("t").open(log, clock=clock) as engine:
        await stored.play(engine, clock)

    assert [event.headers for event in of_kind(log, EventStored)] == [mill]


async def test_it_is_played_at_its_times() -> None:
    """What is due between two events happens between them."""
    app, seen = App("t"), list[tuple[str, float]]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(30)
        seen.append(("slept", run.now()))

    async with virtual_time(wall_ns=0) as clock, app.open(MemoryLog(), clock=clock) as engine:
        await Timeline([(0, "a", 1), (100, "b", 2)]).play(engine, clock)
        assert clock.now == 100
    assert [(what, round(at)) for what, at in seen] == [("slept", 30)]


async def test_it_is_played_by_hand_too() -> None:
    """A `VirtualClock`, which moves only as a test says, is moved by it."""
    clock = VirtualClock()
    async with App("t").open(MemoryLog(), clock=clock) as engine:
        await Timeline([(0, "a", 1), (100, "b", 2)]).play(engine, clock)

        assert clock.monotonic_ns() == 100 * NS


# ---------------------------------------------------------------- from a log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with events from outside, with keys and times, and one that a run has emitted."""
    app, path = App("t"), tmp_path_factory.mktemp("log") / "boiler.log"

    @app.rule(HOT)
    async def fan(run: Run) -> None:
        await run.emit("fans.start", {})

    async def fill() -> None:
        async with virtual_time() as clock, app.open(FileLog(path), clock=clock) as engine:
            begun_s = clock.wall_ns() / NS
            for number, celsius in enumerate((80.0, 95.0, 97.0)):
                await engine.emit_many([
                    Emission(
                        "boilers.b1.temperature", {"celsius": celsius},
                        time=begun_s + 10 * number - 1, key=f"k{number}",
                    )
                ])  # fmt: skip
                await clock.advance(10)
            await engine.emit("doors.d1", "open")

    anyio.run(fill)
    return path


def test_it_has_the_events_that_came_from_outside(log: Path) -> None:
    """What runs emitted is made again by the runs of the test."""
    timeline = Timeline.from_log(log)

    assert [moment[:5] for moment in timeline] == [
        *((10.0 * number, "boilers.b1.temperature", {"celsius": celsius},
           f"k{number}", 10.0 * number - 1)
          for number, celsius in enumerate((80.0, 95.0, 97.0))),
        (30.0, "doors.d1", "open", None, None),
    ]  # fmt: skip
    assert timeline.begins_at == 1_700_000_000
    assert_fires(HOT, timeline, at=[10, 20], keys=["b1", "b1"])


def test_a_part_of_a_log_is_enough(log: Path) -> None:
    """An incident is a few events of millions."""
    first = Timeline.from_log(log, "boilers.>", after=2)
    with_emitted = Timeline.from_log(log, emitted=True)

    assert [moment.data["celsius"] for moment in first] == [95.0, 97.0]
    assert [moment.t for moment in first] == [0, 10]
    assert [moment.subject for moment in with_emitted].count("fans.start") == 2
    assert len(Timeline.from_log(log, until=4)) < len(with_emitted)


async def test_what_a_log_holds_can_be_played(log: Path) -> None:
    """The events get their own times and keys back, relative to where they are played."""
    timeline, played = Timeline.from_log(log), MemoryLog()
    async with (
        virtual_time(wall_ns=500 * NS) as clock,
        App("t").open(played, clock=clock) as engine,
    ):
        await timeline.play(engine, clock)

    stored = of_kind(played, EventStored)
    assert [event.key for event in stored] == ["k0", "k1", "k2", None]
    assert [event.time_ns for event in stored[:3]] == [
        (500 + 10 * number - 1) * NS for number in range(3)
    ]


def test_a_log_that_has_nothing_of_it_is_told(log: Path, tmp_path: Path) -> None:
    """An empty timeline would let every test of `times=0` pass."""
    with pytest.raises(ValueError, match=r"boiler.log: expected events on 'pumps.>', found none"):
        Timeline.from_log(log, "pumps.>")
    with pytest.raises(LogUnusable):
        Timeline.from_log(tmp_path / "nothing")
