"""Rules that do not begin empty: they are as if they had been there as long as the log is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.stand import (
    HANG_S,
    FullLog,
    GatedLog,
    ShortLog,
    StepClock,
    check_live,
    comparable,
    fill_disk,
    make_room,
    nothing,
    of_kind,
    opened,
    quiet,
    records_of,
    refolded,
    until,
)
from tests.reference.happened import Given
from tests.reference.patterns import pattern_of
from tests.reference.playing import START, declared, play
from tests.reference.shell import ns
from tests.reference.spec import Spec
from tests.reference.strategies import ANY
from tests.reference.timelines import timelines

from headrace import (
    App,
    Engine,
    FileLog,
    Firing,
    LogFull,
    MemoryLog,
    Pattern,
    field,
    on,
    sequence,
    silent,
)
from headrace.engine import record as r
from headrace.engine.decider import NoRules
from headrace.engine.restore import restore
from headrace.engine.timers import Timers
from headrace.engine.warm import WarmUp
from headrace.triggers.ruleset import Rule, RuleSet


def app_of(pattern: Pattern[Any], **options: Any) -> App:
    """An app with the rule ``x``."""
    app = App("t")
    app.rule(pattern, name="x", **options)(nothing)
    return app


def fired(log: MemoryLog, rule: str = "x") -> list[list[int]]:
    """The events of each firing."""
    return [one.events for one in of_kind(log, r.RuleFired) if one.rule == rule]


def check_snapshot_and_tail(app: App, log: MemoryLog) -> None:
    """A fold of all and a snapshot with what came after it come to the same state."""
    whole = refolded(log, app.decider())
    assert whole.divergences == []
    assert log.snapshots.sequences(), "there is one"
    assert comparable(restore(log, app.decider(), clock=None)) == comparable(whole)


# ---------------------------------------------------------------- any pattern


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(spec=ANY, timeline=timelines(), restarts=st.frozensets(st.integers(0, 8), max_size=2))
def test_it_is_as_if_it_had_been_there(
    spec: Spec, timeline: list[Given], restarts: frozenset[int]
) -> None:
    """Whatever the pattern: its state and its timers, over restarts and ties, to the byte."""
    shell = play(declared(spec).start(ns(START)), timeline, restarts=restarts)

    def make() -> RuleSet:
        return RuleSet([Rule("r1", pattern_of(spec), "parallel", "1")])

    warm_up = WarmUp(make(), "r1", shell.kernel.state.sources)
    warm_up.feed(enumerate(map(r.decode, shell.records), 1))
    warm_up.advance(shell.at_ns)

    timers, decider = Timers(), make()
    decider.attach(timers, shell.kernel.state.sources)
    decider.activate("r1", shell.at_ns)
    warm_up.hand_over(decider, timers)
    assert decider.dump() == shell.kernel.state.decider.dump()
    assert in_order(timers) == in_order(shell.kernel.state.timers)


def in_order(timers: Timers) -> list[Any]:
    _, armed = timers.dump()
    return [timer[:-1] for timer in armed]


PATTERNS: dict[str, Pattern[Any]] = {
    "count": on("a").key(field("k")).count(3, within=1000),
    "crosses": on("a").key(field("k")).crosses(field("v"), above=10),
    "silent": silent(on("a").key(field("k")), for_=40),
    "silent, expected": silent(on("a").key(field("k")), for_=40, expect=["x", "z"]),
    "hold": on("a").key(field("k")).where(field("v") > 10).hold(for_=40),
    "debounce": on("a").key(field("k")).debounce(30),
    "dedupe": on("a").dedupe(field("k"), 1000),
    "tumbling": on("a").tumbling(60),
    "throttle": on("a").throttle(100, "trailing"),
    "sequence": sequence(on("a"), on("b"), within=200),
    "event time": on("a").event_time(lambda e: e.data["t"], lateness=20).count(2, within=1000),
}


@pytest.mark.parametrize("name", PATTERNS)
async def test_a_rule_that_is_added_has_seen_the_log(name: str) -> None:
    """It fires from now on as the one that has been there since the beginning does."""
    app, log, clock = App("t"), MemoryLog(), StepClock()
    pattern = PATTERNS[name]
    app.rule(pattern, name="since", version="1")(nothing)
    async with opened(app, log, clock) as engine:
        await play_some(engine, clock)
        before = fired(log)
        added = await engine.add_rule(pattern, nothing, name="x", version="1", warm="replay")
        assert fired(log) == before == []  # its past is nobody's
        assert await engine.add_rule(pattern, nothing, name="x", version="1", warm="replay") == 0
        dumped = engine.kernel.state.decider.dump()
        assert dumped["x"] == dumped["since"]
        await check_live(engine)
        await engine.snapshot()
        await play_some(engine, clock)
        await engine.drain()
        dumped = engine.kernel.state.decider.dump()
        assert dumped["x"] == dumped["since"]
        await check_live(engine)

    places = records_of(log)
    since = [one for place, one in places if place > added and isinstance(one, r.RuleFired)]
    assert [(one.key, one.events, one.due_ns) for one in since if one.rule == "x"] == [
        (one.key, one.events, one.due_ns) for one in since if one.rule == "since"
    ]
    assert [one for one in since if one.rule == "x"], "else nothing was seen"
    (changed,) = of_kind(log, r.RuleChanged)
    assert changed.warm == 1
    later = App("t")
    later.rule(pattern, name="since", version="1")(nothing)
    later.rule(pattern, name="x", version="1")(nothing)
    check_snapshot_and_tail(later, log)


async def play_some(engine: Engine, clock: StepClock) -> None:
    """Let some things happen, with a pause in which timers fire."""
    began_s = clock.wall_ns() // 10**9
    for at_s, key, value in [
        (0, "x", 5),
        (10, "x", 20),
        (10, "y", 20),
        (25, "x", 30),
        (60, "y", 1),
    ]:
        await clock.step(engine, began_s + at_s - clock.wall_ns() // 10**9)
        await engine.emit("a", {"k": key, "v": value, "t": began_s + at_s})
        await engine.emit("b")
    await engine.emit("a", {"k": f"at {began_s}", "v": 20, "t": began_s + 60})
    await clock.step(engine, 20)


@pytest.mark.parametrize("name", ["crosses", "silent", "hold", "count"])
async def test_a_rule_that_is_warm_has_its_alarms(name: str) -> None:
    """What is hot since an hour is an alarm at once, and it ends as any other."""
    pattern = PATTERNS[name]
    if name == "count":
        pattern = on("a").key(field("k")).count(1, within=50, mode="edge")
    app, log, clock = App("t"), MemoryLog(), StepClock()
    app.rule(pattern, name="since", on_clear=nothing)(nothing)
    app.rule(on("rule.fired.x"), name="told")(nothing)
    async with opened(app, log, clock) as engine:
        await play_some(engine, clock)
        await engine.add_rule(pattern, nothing, name="x", warm="replay", on_clear=nothing)
        assert fired(log) == []
        assert standing(engine, "x") == standing(engine, "since") != []
        await check_live(engine)
        await engine.snapshot()
        await play_some(engine, clock)
        assert standing(engine, "x") == standing(engine, "since")
        await check_live(engine)
    ends = [one.key for one in of_kind(log, r.RuleFired) if one.rule == "x" and one.task]
    assert ends, "some have ended"


def standing(engine: Engine, rule: str) -> list[tuple[Any, int]]:
    """Key and count of each alarm of *rule*."""
    found = [alarm for alarm in engine.alarms() if alarm.rule == rule]
    return sorted((alarm.key, alarm.count) for alarm in found)


async def test_an_alarm_of_the_past_goes_only_with_its_own_key() -> None:
    """What an operator before it has forgotten meanwhile is no matter of it."""
    pattern = (
        on("a")
        .key(field("k"), keys_max=2)
        .dedupe(field("v"), 1000)
        .crosses(field("v"), above=10, initial=True)
    )
    async with opened(App("t")) as engine:
        for key, value in [("x", 20), ("x", 21), ("x", 22), ("x", 23)]:
            await engine.emit("a", {"k": key, "v": value})
        await engine.add_rule(pattern, nothing, name="x", warm="replay", on_clear=nothing)
        assert standing(engine, "x") == [("x", 1)]
        await engine.emit_many([("a", {"k": key, "v": 30}) for key in "yz"])
        assert [key for key, _ in standing(engine, "x")] == ["y", "z"]
        await check_live(engine)


# ---------------------------------------------------------------- over a restart


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
async def test_a_rule_of_the_app_that_is_new_or_changed(name: str) -> None:
    """A limit is corrected and the app started again: it knows the last hour."""
    log, clock = MemoryLog(), StepClock()
    since = App("t")
    since.rule(PATTERNS[name], name="since", version="1")(nothing)
    async with opened(since, log, clock) as engine:
        await play_some(engine, clock)
    clock.pass_by(35)
    app = App("t")
    app.rule(PATTERNS[name], name="since", version="1")(nothing)
    app.rule(PATTERNS[name], name="x", version="1", warm="replay")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.emit("c")
        dumped = engine.kernel.state.decider.dump()
        assert dumped["x"] == dumped["since"]
        await check_live(engine)
        await engine.snapshot()
        await play_some(engine, clock)
    started = of_kind(log, r.EngineStarted)
    assert [one.warm for one in started] == [{}, {"x": 1}]
    check_snapshot_and_tail(app, log)

    changed = App("t")
    changed.rule(PATTERNS[name], name="since", version="1")(nothing)
    changed.rule(PATTERNS[name], name="x", version="2", warm="replay")(nothing)
    async with opened(changed, log, clock) as engine:
        await engine.emit("c")
        dumped = engine.kernel.state.decider.dump()
        assert dumped["x"] == dumped["since"]
        await check_live(engine)
        await play_some(engine, clock)
    async with opened(changed, log, clock) as engine:  # the same again: nothing is made anew
        await check_live(engine)
    assert [one.warm for one in of_kind(log, r.EngineStarted)] == [{}, {"x": 1}, {"x": 1}, {}]
    check_snapshot_and_tail(changed, log)


async def test_a_new_log_has_nothing_to_see() -> None:
    """Then it begins empty, as any other rule."""
    app, log = app_of(silent(on("a"), for_=10), warm="replay"), MemoryLog()
    async with opened(app, log) as engine:
        assert await engine.add_rule(on("a").count(2, within=5), nothing, warm="replay") > 0
        await check_live(engine)
    assert [one.warm for one in of_kind(log, r.EngineStarted)] == [{}]


async def test_schedules_that_are_warm_keep_to_the_grid_of_the_past() -> None:
    """A rule that fires every minute since yesterday does so today, in the same seconds."""
    app, log, clock = App("t"), MemoryLog(), StepClock()
    app.every(60, name="since")(nothing)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 100)
        (pattern,) = [rule.pattern for rule in app.rules.values()]
        await engine.add_rule(pattern, nothing, name="x", warm="replay")
        await clock.step(engine, 100)
        await check_live(engine)
    dues = {
        rule: [f.due_ns for f in of_kind(log, r.RuleFired) if f.rule == rule]
        for rule in ("x", "since")
    }
    assert len(dues["x"]) == 2
    assert dues["x"] == dues["since"][-2:]


# ---------------------------------------------------------------- the beginning is gone


async def test_what_is_kept_is_what_it_has_seen() -> None:
    """Of a log without its beginning it sees the rest; the record says from where on."""
    log, clock = ShortLog(), StepClock()
    pattern = on("a").count(3, within=1000)
    async with opened(App("t"), log, clock) as engine:
        await engine.emit_many([("a", number) for number in range(10)])
        log.first = 10
        await engine.add_rule(pattern, nothing, name="x", warm="replay")
        await engine.emit("a")
        log.first = 1
        await check_live(engine)
    (changed,) = of_kind(log, r.RuleChanged)
    assert changed.warm == 10
    assert len(fired(log)) == 1


@pytest.mark.parametrize("way", ["added", "started"])
async def test_a_fold_that_finds_its_beginning_gone_says_so(way: str) -> None:
    """Nothing is made up: the rule begins empty, and the log says that it is another one now."""
    pattern = on("a").count(3, within=1000)
    log, clock = ShortLog(), StepClock()
    plain, app = App("t"), app_of(pattern, warm="replay")
    async with opened(plain, log, clock) as engine:
        await engine.emit_many([("a", number) for number in range(2)])
        await engine.snapshot()
        if way == "added":
            await engine.add_rule(pattern, nothing, name="x", warm="replay")
            await engine.emit("b")
    if way == "started":
        async with opened(app, log, clock) as engine:
            await engine.emit("b")
    kept = log.copy()
    log.first = 4  # by now, with a snapshot before the record that put it in force
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        (diverged,) = of_kind(log, r.RuleDiverged)
        assert "its beginning is gone" in diverged.derived
        assert engine.kernel.state.active == {"x"}
        await engine.emit("a")
        await engine.drain()
        assert fired(log) == []
        await engine.emit_many([("a", 1), ("a", 2)])
        assert await engine.snapshot() > 0
    assert len(fired(log)) == 1
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        assert len(of_kind(log, r.RuleDiverged)) == 1

    # With its beginning it would have gone on.
    async with opened(app, kept, clock) as engine:
        await engine.emit("a")
        await check_live(engine)
    assert (len(fired(kept)), of_kind(kept, r.RuleDiverged)) == (1, [])


async def test_a_log_on_a_disk_that_has_lost_its_beginning(tmp_path: Path) -> None:
    """The same with real segments: what retention has removed is not missed."""
    log = FileLog(tmp_path / "log", segment_bytes_max=64 * 1024, keep_bytes=1, durability="flushed")
    pattern, seen = on("a").count(500, within=1e6), list[int]()

    async def act(firing: Firing[Any]) -> None:
        seen.append(firing.count)

    async with App("t").open(log, grace_s=0) as engine:
        for number in range(20):
            await engine.emit_many([("a", "x" * 200)] * 100)
            if number % 5 == 4:
                await engine.snapshot()
        added = await engine.add_rule(pattern, act, name="x", warm="replay")
        changed = r.decode(log.fetch([added])[added])
        assert isinstance(changed, r.RuleChanged)
        assert 1 < changed.warm < added
        counted = sum(
            isinstance(one, r.EventStored)
            for _, batch in log.read(after=changed.warm - 1)
            for one in map(r.decode, batch)
        )
        await engine.emit_many([("a", "x")] * (500 - counted % 500))
        await engine.drain()
    assert seen == [500]


# ---------------------------------------------------------------- while it looks back


class LongLog(MemoryLog):
    """A log that takes long to read in another thread: until it may go on."""

    def __init__(self) -> None:
        """Begin quick."""
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.readers = 0

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `MemoryLog`."""
        if threading.current_thread() is not threading.main_thread():
            self.readers += 1
            assert self.go_on.wait(HANG_S)
        yield from super().read(after=after)


async def test_nothing_that_happens_meanwhile_is_missed() -> None:
    """Reading a long log takes its time: events, new sources and timers of that time count."""
    app, log, clock = App("t"), LongLog(), StepClock()
    since = on("a").where(lambda e: e.source != "t").count(5, within=1e6)
    app.rule(since, name="since", version="1")(nothing)
    app.rule(silent(on("a"), for_=10), name="other")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.emit_many([("a", 1), ("a", 2)])
        log.readers = 0
        log.go_on.clear()
        async with anyio.create_task_group() as group:
            add = partial(engine.add_rule, since, nothing, version="1", warm="replay")
            group.start_soon(partial(add, name="x"))
            group.start_soon(partial(add, name="y"))
            await until(lambda: log.readers)
            for source in ("s", "t", "u"):
                await engine.emit("a", 3, source=source)
            await clock.step(engine, 20)
            log.go_on.set()
        dumped = engine.kernel.state.decider.dump()
        assert dumped["x"] == dumped["y"] == dumped["since"]
        await engine.emit("a", 5)
        await engine.drain()
        await check_live(engine)

    assert fired(log, "x") == fired(log, "y") == fired(log, "since") != []
    assert len(fired(log, "other")) == 1


async def test_the_same_rule_by_several_at_once_is_added_once() -> None:
    """Each of a hundred runs may add the rule that all of them need."""
    log, sequences = MemoryLog(), list[int]()

    async def add() -> None:
        pattern = on("a").count(5, within=1e6)
        sequences.append(await engine.add_rule(pattern, nothing, name="x", warm="replay"))

    async with opened(App("t"), log) as engine:
        await engine.emit("a")
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(add)
        await check_live(engine)
    (changed,) = [place for place, one in records_of(log) if isinstance(one, r.RuleChanged)]
    assert sorted(sequences) == [0] * 19 + [changed]


async def test_who_is_cancelled_meanwhile_has_added_nothing() -> None:
    """And the next one can."""
    log = GatedLog()
    async with opened(App("t"), log) as engine:
        await engine.emit("a")
        log.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(engine.emit, "a")
            await quiet(engine)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await engine.add_rule(on("a"), nothing, name="x", warm="replay")
            assert engine.kernel.state.rules == {}
            log.release()
        assert await engine.add_rule(on("a"), nothing, name="x", warm="replay") > 0
        await check_live(engine)


async def test_a_disk_that_is_full_meanwhile() -> None:
    """Who asked is told that nothing was stored, and can ask again once there is room."""
    log, clock, told = FullLog(), StepClock(), list[Exception]()

    async def add() -> None:
        try:
            await engine.add_rule(on("a").count(3, within=1e6), nothing, name="x", warm="replay")
        except LogFull as full:
            told.append(full)

    async with opened(App("t"), log, clock) as engine:
        await engine.emit_many([("a", 1), ("a", 2)])
        log.full_at = log.commits + 1
        async with anyio.create_task_group() as group:
            group.start_soon(add)
        assert len(told) == 1
        await make_room(engine, log, clock)
        assert engine.kernel.state.rules == {}
        await add()
        await fill_disk(engine, log)
        await make_room(engine, log, clock)
        await engine.emit("a", 3)
        await engine.drain()
        await check_live(engine)
    assert len(fired(log)) == 1


# ---------------------------------------------------------------- without the app


async def test_who_reads_the_log_without_rules_needs_no_past() -> None:
    """The command line folds any log: what a rule has seen is no matter of it."""
    log = ShortLog()
    async with opened(App("t"), log) as engine:
        await engine.emit("a")
        await engine.snapshot()
        await engine.add_rule(on("a").count(2, within=9), nothing, name="x", warm="replay")
    log.first = 3
    kernel = restore(log, NoRules(), clock=None)
    assert kernel.state.rules.keys() == {"x"}
    assert kernel.divergences == []
