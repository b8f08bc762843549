"""Alarms: raised by a firing, counted, acknowledged, and ended by whatever ends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.stand import (
    FullLog,
    StepClock,
    check_live,
    fill_disk,
    make_room,
    nothing,
    of_kind,
    opened,
    records_of,
)
from tests.reference.shell import Shell, check, fold, ns

from headrace import App, EventRefused, Firing, LogFull, MemoryLog, Pattern, field, on, silent
from headrace.engine import record as r
from headrace.engine.alarms import Alarm
from headrace.engine.decider import NoRules
from headrace.engine.errors import RuleNotFound
from headrace.engine.kernel import Kernel
from headrace.engine.offline import OfflineLog
from headrace.engine.snapshot import Snapshot, load
from headrace.testing import firings
from headrace.triggers.reach import clearing


def app_of(pattern: Pattern[Any], **options: Any) -> App:
    """An app with one rule, whose firings are alarms."""
    app = App("t")
    app.rule(pattern, name="hot", on_clear=nothing, **options)(nothing)
    return app


CROSSES = on("a").key(field("k")).crosses(field("v"), above=10, initial=True)


def reading(shell: Shell, at_s: float, value: float, key: str = "x") -> None:
    shell.emit(ns(at_s), "a", {"k": key, "v": value})


def standing(shell: Shell) -> list[tuple[Any, int]]:
    """Key and count of each alarm."""
    return [(alarm.key, alarm.count) for alarm in shell.kernel.state.alarms.all()]


def loaded(shell: Shell, decider: Any) -> Kernel:
    """Return the kernel that a snapshot of now gives."""
    kernel = Kernel(decider)
    load(kernel, list(Snapshot(shell.refold()).parts()))
    return kernel


def check_snapshot(shell: Shell) -> None:
    """A snapshot has all of it, for those with the rules and for those without."""
    check(shell)
    assert loaded(shell, shell.make_rules()).dump() == shell.kernel.dump()
    assert loaded(shell, NoRules()).state.alarms.dump() == shell.kernel.state.alarms.dump()


# ---------------------------------------------------------------- raised and ended


EDGE = on("a").key(field("k")).count(2, within=10, mode="edge")
PATTERNS: dict[str, tuple[Pattern[Any], list[tuple[float, float]], float, float]] = {
    # A pattern; readings (seconds, value); when the alarm is raised and when it ends.
    "crosses": (CROSSES, [(0, 5), (1, 20), (2, 30), (3, 9)], 1, 3),
    "hold": (
        on("a").key(field("k")).where(field("v") > 10).hold(for_=5),
        [(0, 20), (3, 20), (6, 20), (8, 20), (9, 1)],
        5,
        9,
    ),
    "count": (EDGE, [(0, 1), (3, 1)], 3, 10),
    "silent": (silent(on("a").key(field("k")), for_=6), [(0, 1), (3, 1), (20, 1)], 9, 20),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_an_alarm_stands_from_its_firing_to_its_end(name: str) -> None:
    """From the moment when it began to that when it ended, by an event or by a timer."""
    pattern, readings, raised_s, ended_s = PATTERNS[name]
    shell = Shell(app_of(pattern).decider).start(0)
    times = sorted({at_s for at_s, _ in readings} | {raised_s, ended_s})
    for at_s in times:
        shell.tick(ns(at_s))
        for when, value in readings:
            if when == at_s:
                reading(shell, at_s, value)
        assert standing(shell) == ([("x", 1)] if raised_s <= at_s < ended_s else []), at_s
        check_snapshot(shell)

    raised, ended = shell.of_kind(r.RuleFired)
    assert (raised.details and raised.details.alarm, raised.task) == (True, "")
    assert ended.details is not None
    assert (ended.details.reason, ended.details.alarm, ended.task) == ("clear", False, "hot-clear")


def test_an_alarm_says_when_it_was_raised_and_by_what() -> None:
    """Who comes to look finds the firing in the log, and how often it has fired since."""
    pattern = silent(on("a").key(field("k")), for_=6, repeat="every")
    shell = Shell(app_of(pattern).decider).start(0)
    reading(shell, 0, 1)
    reading(shell, 1, 1, "y")
    shell.tick(ns(13))

    firing = next(place for place, x in enumerate(shell.made, 1) if isinstance(x, r.RuleFired))
    first, second = shell.kernel.state.alarms.all()
    assert first == Alarm("hot", "x", firing, first.raised_at_ns, 2)
    assert (first.raised_at_ns, second.key, second.count) == (ns(13), "y", 2)
    assert first.firing < second.firing
    check_snapshot(shell)


def test_a_rule_without_an_end_raises_none() -> None:
    """Only what can end is a state; all else is a moment."""
    app = App("t")
    app.rule(CROSSES, name="hot")(nothing)
    shell = Shell(app.decider).start(0)
    reading(shell, 0, 20)
    assert standing(shell) == []
    check_snapshot(shell)


@pytest.mark.parametrize("mode", ["single", "restart", "latest", "queue"])
def test_an_alarm_does_not_depend_on_what_becomes_of_the_run(mode: str) -> None:
    """It is hot, whether or not somebody is on their way already."""
    shell = Shell(app_of(CROSSES, mode=mode).decider).start(0)
    for at_s, value in enumerate([20, 5, 20, 5, 20]):
        reading(shell, at_s, value)
        assert standing(shell) == ([("x", 1)] if value == 20 else [])
        check_snapshot(shell)
    assert {fired.outcome for fired in shell.of_kind(r.RuleFired)} != {"run"}


def test_a_paused_rule_still_raises_and_ends_alarms() -> None:
    """What is so is shown, also while nobody is called."""
    shell = Shell(app_of(CROSSES).decider).start(0)
    shell.put(r.RulePaused(shell.at_ns, "hot", paused=True))
    reading(shell, 1, 20)
    assert standing(shell) == [("x", 1)]
    check_snapshot(shell)
    reading(shell, 2, 5)
    assert standing(shell) == []
    assert [fired.outcome for fired in shell.of_kind(r.RuleFired)] == ["paused", "paused"]
    check_snapshot(shell)


# ---------------------------------------------------------------- gone with its automaton


def test_an_alarm_goes_with_its_key() -> None:
    """When the bound on keys costs an automaton its place, nothing would ever end its alarm."""
    pattern = on("a").key(field("k"), keys_max=2).crosses(field("v"), above=10, initial=True)
    shell = Shell(app_of(pattern).decider).start(0)
    for at_s, key in enumerate("xyz"):
        reading(shell, at_s, 20, key)
    assert standing(shell) == [("y", 1), ("z", 1)]
    reading(shell, 5, 5, "x")
    assert len(shell.of_kind(r.RuleFired)) == 3
    check_snapshot(shell)


@pytest.mark.parametrize("name", ["count", "hold", "silent"])
def test_every_kind_of_alarm_goes_with_its_key(name: str) -> None:
    """So it is for those that wait for a timer."""
    before = on("a").key(field("k"), keys_max=1)
    pattern: Pattern[Any] = {
        "count": before.count(1, within=100, mode="edge"),
        "hold": before.where(field("v") > 10).hold(for_=1),
        "silent": silent(before, for_=1),
    }[name]
    shell = Shell(app_of(pattern).decider).start(0)
    reading(shell, 0, 20)
    shell.tick(ns(2))
    assert standing(shell) == [("x", 1)]
    reading(shell, 3, 20, "y")
    assert ("x", 1) not in standing(shell)
    shell.tick(ns(500))
    check_snapshot(shell)


def test_an_alarm_stays_while_only_an_operator_before_forgets() -> None:
    """What dedupe remembers is bounded, too, but it is no matter of what stands."""
    pattern = (
        on("a")
        .key(field("k"), keys_max=2)
        .dedupe(field("v"), 1000)
        .crosses(field("v"), above=10, initial=True)
    )
    shell = Shell(app_of(pattern).decider).start(0)
    for at_s, value in enumerate([20, 21, 22, 23]):
        reading(shell, at_s, value)
    assert len(shell.of_kind(r.RuleEvicted)) == 2
    assert standing(shell) == [("x", 1)]
    check_snapshot(shell)
    reading(shell, 9, 5)
    assert standing(shell) == []
    check_snapshot(shell)


def test_a_count_ends_behind_an_operator_with_timers() -> None:
    """A window of another key may run out at the very moment at which its end is due."""
    pattern: Pattern[Any] = Pattern(
        clearing(on("a").key(field()).debounce(10).count(1, within=5, mode="edge").node)
    )
    timeline = [(0, "a", "x"), (5, "a", "y")]

    assert [(f.at, f.key, f.reason) for f in firings(pattern, timeline, until=60)] == [
        (10, "x", None),
        (15, "y", None),
        (15, "x", "clear"),
        (20, "y", "clear"),
    ]


@pytest.mark.parametrize("change", ["another", "none", "diverged"])
def test_an_alarm_goes_with_its_rule(change: str) -> None:
    """A rule that is another, or gone, would never say that it is over."""
    shell = Shell(app_of(CROSSES).decider).start(0)
    reading(shell, 1, 20)
    other = App("t")
    if change == "another":
        other = app_of(on("a").key(field("k")).crosses(field("v"), above=11, initial=True))
    elif change == "diverged":
        other = app_of(CROSSES)
    shell.make_rules = other.decider
    if change != "diverged":
        # Known until the start that changes it: who looks on in between sees it.
        assert loaded(shell, other.decider()).state.alarms.all() == shell.kernel.state.alarms.all()
    again = shell.crashed()
    assert standing(again) == [("x", 1)]
    if change == "diverged":
        again.put(r.RuleDiverged(again.at_ns, "hot", 3, "this", "that"))
    else:
        again.start()
    assert standing(again) == []
    check_snapshot(again)


async def test_an_alarm_goes_with_a_rule_that_is_changed_meanwhile() -> None:
    """The same while the engine runs."""
    app, log = app_of(CROSSES), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", {"k": "x", "v": 20})
        assert [alarm.key for alarm in engine.alarms()] == ["x"]
        assert await engine.add_rule(CROSSES, nothing, name="hot", on_clear=nothing) == 0
        assert len(engine.alarms()) == 1
        await engine.add_rule(CROSSES.where(field("v") > 0), nothing, name="hot")
        assert engine.alarms() == []
        await check_live(engine)
        await engine.add_rule(CROSSES, nothing, name="hot", on_clear=nothing)
        await engine.emit("a", {"k": "x", "v": 20})
        assert engine.state().alarms == 1
        await engine.remove_rule("hot")
        assert engine.state().alarms == 0
        await check_live(engine)


# ---------------------------------------------------------------- acknowledged


async def test_an_acknowledgement_is_kept_until_the_alarm_ends() -> None:
    """Who goes is known to all, over restarts and snapshots; the next alarm is another one."""
    app, log, clock, told = app_of(CROSSES), MemoryLog(), StepClock(), list[Any]()

    @app.rule(on("rule.acknowledged.*"))
    async def note(firing: Firing[Any]) -> None:
        told.append(firing.events[0].data)

    async with opened(app, log, clock) as engine:
        await engine.emit("a", {"k": "x", "v": 20})
        clock.pass_by(5)
        sequence = await engine.acknowledge("hot", "x", by="ada", note="on my way")
        known = dict(records_of(log))[sequence]
        assert isinstance(known, r.AlarmAcknowledged)
        (alarm,) = engine.alarms()
        assert (alarm.by, alarm.note, alarm.acknowledged_at_ns) == ("ada", "on my way", known.at_ns)
        await engine.acknowledge("hot", "x", by="bob")
        await engine.drain()
        await check_live(engine)
        await engine.snapshot()
    async with opened(app, log, clock) as engine:
        (alarm,) = engine.alarms()
        assert (alarm.by, alarm.note, alarm.count) == ("bob", "", 1)
        await check_live(engine)
        await engine.emit_many([("a", {"k": "x", "v": 5}), ("a", {"k": "x", "v": 20})])
        (alarm,) = engine.alarms()
        assert (alarm.by, alarm.acknowledged_at_ns) == ("", None)
        await check_live(engine)

    assert [(one["rule"], one["key"], one["by"]) for one in told] == [
        ("hot", "x", "ada"),
        ("hot", "x", "bob"),
    ]
    kernel = fold(app.decider, [raw for _, batch in log.read() for raw in batch])
    assert kernel.divergences == []


@pytest.mark.parametrize("key", ["x", 7, ("a", 7), b"\x00", 0.5, None], ids=repr)
async def test_an_alarm_of_any_key_can_be_acknowledged(key: Any) -> None:
    """Also of one of several parts, as it is and as it comes out of the log."""
    of: Callable[[Any], Any] = lambda _: key  # noqa: E731 (as a user would give it)
    pattern = on("a").crosses(field(), above=10, initial=True)
    if key is not None:
        pattern = on("a").key(of).crosses(field(), above=10, initial=True)
    log = MemoryLog()
    async with opened(app_of(pattern, version="1"), log) as engine:
        await engine.emit("a", 20)
        assert await engine.acknowledge("hot", key, by="ada") > 0
        if isinstance(key, tuple):
            assert await engine.acknowledge("hot", list(key), by="bob") > 0
        await check_live(engine)
    with OfflineLog(log) as offline:
        assert offline.acknowledge("hot", key, by="eve", note="") > 0
    async with opened(app_of(pattern, version="1"), log) as engine:
        assert [alarm.by for alarm in engine.alarms()] == ["eve"]


@pytest.mark.parametrize("key", ["y", None, {}, ["x", {}], ("x",)], ids=repr)
async def test_what_does_not_stand_cannot_be_acknowledged(key: Any) -> None:
    """A mistyped key is told, and nothing is written; also one that can be no key."""
    log = MemoryLog()
    async with opened(app_of(CROSSES), log) as engine:
        await engine.emit("a", {"k": "x", "v": 20})
        before = engine.kernel.sequence
        with pytest.raises(RuleNotFound, match="of this rule there is 'x'"):
            await engine.acknowledge("hot", key)
        for texts in ({"by": "\udcff"}, {"note": "\udcff"}):
            with pytest.raises(EventRefused):
                await engine.acknowledge("hot", "x", **texts)
        assert engine.kernel.sequence == before
        sequence = await engine.acknowledge("hot", "x", by="b" * 5000, note="n" * 5000)
    known = dict(records_of(log))[sequence]
    assert isinstance(known, r.AlarmAcknowledged)
    assert (len(known.by), len(known.note)) == (1000, 1000)
    before = log.committed_sequence
    with OfflineLog(log) as offline:
        with pytest.raises(RuleNotFound, match="of this rule there is 'x'"):
            offline.acknowledge("hot", key, by="", note="")
        with pytest.raises(EventRefused):
            offline.acknowledge("hot", "x", by="\udcff", note="")
    assert log.committed_sequence == before


async def test_an_alarm_that_ends_at_this_moment_cannot_be_acknowledged() -> None:
    """What is due comes first: nobody is told of going to what is over."""
    log, clock = MemoryLog(), StepClock()
    pattern = on("a").count(1, within=10, mode="edge")
    async with opened(app_of(pattern), log, clock) as engine:
        await engine.emit("a")
        clock.pass_by(10)
        with pytest.raises(RuleNotFound):
            await engine.acknowledge("hot")
        await check_live(engine)
    assert of_kind(log, r.AlarmAcknowledged) == []


async def test_an_acknowledgement_from_a_stopped_engine_comes_before_what_is_overdue() -> None:
    """Log time stands still while nothing runs: the alarm stood, and ends at the start."""
    log, clock = MemoryLog(), StepClock()
    app = app_of(on("a").count(1, within=10, mode="edge"))
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
    clock.pass_by(100)
    with OfflineLog(log, clock=clock) as offline:
        assert offline.acknowledge("hot", None, by="ada", note="") == log.committed_sequence
    async with opened(app, log, clock) as engine:
        await check_live(engine)
        assert engine.alarms() == []


async def test_while_the_disk_is_full_alarms_are_shown() -> None:
    """Looking on is possible; saying something is not, and that is told."""
    log, clock = FullLog(), StepClock()
    async with opened(app_of(CROSSES), log, clock) as engine:
        await engine.emit("a", {"k": "x", "v": 20})
        await fill_disk(engine, log)
        assert [alarm.key for alarm in engine.alarms()] == ["x"]
        with pytest.raises(LogFull):
            await engine.acknowledge("hot", "x")
        await make_room(engine, log, clock)
        assert await engine.acknowledge("hot", "x", by="ada") > 0
        await check_live(engine)
