"""Projections: state that events are folded into, live and over restarts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from tests.engine.stand import (
    FullLog,
    ShortLog,
    StepClock,
    borders,
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
)

from headrace import App, Emission, Event, Firing, MemoryLog, RuleNotFound, any_of, on
from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace.engine.projected import View
from headrace.engine.restore import from_snapshot, new_kernel, restore
from headrace.engine.snapshot import Snapshot, load
from headrace.triggers.fold import STATE_BYTES_MAX


class Reading(Struct):
    celsius: float


class Summary(Struct):
    """What a fold makes of readings."""

    count: int = 0
    peak: float = -273.0
    seen: list[float] = []


class Longer(Summary):
    """The same with one thing more."""

    more: int = 0


def summed(state: Summary, event: Event[Reading]) -> Summary:
    """Change the state in place, and fail half-way through for what is below -100."""
    state.count += 1
    state.seen.append(event.data.celsius)
    if event.data.celsius < -100:
        raise ValueError("broken sensor")
    state.peak = max(state.peak, event.data.celsius)
    return state


def make_app(
    function: Callable[[Summary, Event[Reading]], Summary] = summed, **options: Any
) -> App:
    """An app with the projection ``summary``, and a rule on the same events."""
    app = App("plant")
    readings = on("sensors.*.temperature", Reading)
    app.rule(readings.where(lambda e: e.data.celsius > 90), name="hot")(nothing)
    options = {"key": lambda e: e.tokens[1], "initial": Summary(), "name": "summary", **options}
    app.projection(readings, **options)(function)
    return app


def reading(sensor: str, celsius: float) -> tuple[str, Any]:
    """A reading of a sensor."""
    return f"sensors.{sensor}.temperature", Reading(celsius)


def some(count: int, seed: int = 1) -> list[tuple[str, Any]]:
    """Readings of seven sensors; some cannot be folded, and some are of another type."""
    rng = Random(seed)
    return [
        ("sensors.t1.temperature", {"amiss": 1})
        if number % 17 == 3
        else reading(f"t{rng.randrange(7)}", -200 if number % 11 == 5 else rng.randrange(99))
        for number in range(count)
    ]


def by_hand(events: list[tuple[str, Any]]) -> dict[str, Summary]:
    """What the projection should make of *events*."""
    found: dict[str, Summary] = {}
    for subject, data in events:
        if isinstance(data, Reading) and data.celsius >= -100:
            state = found.setdefault(subject.split(".")[1], Summary(0, -273.0, []))
            state.count += 1
            state.seen.append(data.celsius)
            state.peak = max(state.peak, data.celsius)
    return found


# ---------------------------------------------------------------- what it shows


async def test_events_are_folded_by_key() -> None:
    """The view is a mapping of the state as it is, whenever it is asked."""
    app = make_app()
    async with opened(app) as engine:
        view = engine.view(summed)
        assert (dict(view), len(view), "t1" in view, view.get("t1")) == ({}, 0, False, None)
        await engine.emit(*reading("t1", 20.0))
        await engine.emit_many([reading("t2", 30.0), reading("t1", 25.0)])
        assert view["t1"] == Summary(2, 25.0, [20.0, 25.0])
        assert "t2" in view
        assert view.get("t3") is None
        with pytest.raises(KeyError, match="t3"):
            view["t3"]
        assert [3.5j, ["t1"]] not in [*view]
        assert 3.5j not in view
        assert list(view) == ["t2", "t1"], "the one that changed last is the last"
        assert list(view.values()) == [view["t2"], view["t1"]]
        assert (view.since, view.name) == (1, "summary")
        assert dict(engine.view("summary")) == dict(view)


async def test_states_are_copies() -> None:
    """Whoever changes what a view gives changes nothing but that."""
    app = make_app()
    async with opened(app) as engine:
        await engine.emit(*reading("t1", 20.0))
        view = engine.view(summed)
        view["t1"].seen.clear()
        for state in view.values():
            state.count = 99
        assert view["t1"] == Summary(1, 20.0, [20.0])
        assert Summary() == Summary(0, -273.0, []), "nor has the initial one changed"


async def test_iteration_outlives_changes() -> None:
    """Who waits for something in the middle of it sees the states as they were."""
    app = make_app()
    async with opened(app) as engine:
        await engine.emit_many([reading("t1", 1.0), reading("t2", 2.0)])
        found: dict[str, int] = {}
        for key, state in engine.view(summed).items():
            await engine.emit_many([reading("t1", 3.0), reading("t2", 3.0), reading("t3", 3.0)])
            found[key] = state.count
        assert found == {"t1": 1, "t2": 1}


async def test_without_a_key_there_is_one_state() -> None:
    """It is that of ``None``; the function begins with ``None`` if there is nothing else."""
    app = App("t")

    @app.projection(on("n", int))
    def total(state: int | None, event: Event[int]) -> int:
        return (state or 0) + event.data

    async with opened(app) as engine:
        await engine.emit_many([("n", 1), ("n", 2)])
        assert dict(engine.view(total)) == {None: 3}
        await check_live(engine)


async def test_none_forgets_a_key_if_that_is_declared() -> None:
    """So what is done takes no place; the key begins anew then."""
    app = App("t")

    @app.projection(on("orders.*"), key=lambda e: e.tokens[1], initial=0)
    def open_orders(state: int, event: Event[Any]) -> int | None:
        return None if event.data == "paid" else state + 1

    async with opened(app) as engine:
        view = engine.view(open_orders)
        await engine.emit_many([("orders.a", ""), ("orders.b", ""), ("orders.a", "paid")])
        assert dict(view) == {"b": 1}
        await engine.emit_many([("orders.a", ""), ("orders.c", "paid")])
        assert dict(view) == {"b": 1, "a": 1}
        await check_live(engine)


async def test_several_kinds_of_events_make_one_state() -> None:
    """With `any_of`; an event that several branches match counts once."""
    app = App("t")
    both = any_of(on("in.*", int), on("out.*", int), on("in.>", int).where(lambda e: e.data > 5))

    @app.projection(both, key=lambda e: e.tokens[1], initial=0)
    def level(state: int, event: Event[int]) -> int:
        return state + (event.data if event.tokens[0] == "in" else -event.data)

    async with opened(app) as engine:
        await engine.emit_many([("in.a", 7), ("out.a", 3), ("in.b", 1)])
        assert dict(engine.view(level)) == {"a": 4, "b": 1}
        await check_live(engine)


async def test_it_is_no_rule() -> None:
    """Nothing fires; it is not listed among the rules, and cannot be paused as one."""
    app, log = make_app(), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([reading("t1", number) for number in range(20)])
        state = engine.state()
        assert [rule.name for rule in state.rules] == ["hot"]
        (projection,) = state.projections
        assert (projection.name, projection.keys, projection.active) == ("summary", 1, True)
        for name in ("summary", "projection.summary"):
            with pytest.raises(RuleNotFound, match=r"expected a rule that is in force.*is hot$"):
                await engine.pause(name)
            with pytest.raises(RuleNotFound):
                await engine.remove_rule(name)
    kinds = [type(record) for _, record in records_of(log)]
    assert kinds.count(r.EventStored) == 20
    assert len(kinds) == 22, "besides these only that the engine started and stopped"


async def test_what_is_no_projection_is_said() -> None:
    """With what there is."""
    app = make_app()
    async with opened(app) as engine:
        with pytest.raises(RuleNotFound, match=r"projection of the app \(summary\), found 'hot'"):
            engine.view("hot")
        with pytest.raises(TypeError, match=r"found nothing; declare it with @app.projection"):
            engine.view(nothing)  # type: ignore[arg-type]
    async with opened(App("t")) as engine:
        with pytest.raises(RuleNotFound, match=r"\(none\), found 'summary'"):
            engine.view("summary")


# ---------------------------------------------------------------- errors (law L4)


async def test_a_function_that_raises_is_a_recorded_error() -> None:
    """The state is as it was, also if the function has changed it by then; the rest goes on."""
    app, log = make_app(), MemoryLog()
    async with opened(app, log) as engine:
        events = [reading("t1", 95.0), reading("t1", -200.0), reading("t1", 96.0)]
        await engine.emit_many([*events, ("sensors.t1.temperature", {"amiss": 1})])
        assert engine.view(summed)["t1"] == Summary(2, 96.0, [95.0, 96.0])
        (projection,) = engine.state().projections
        assert (projection.errors, projection.mismatched) == (1, 1)
        await engine.drain()
        assert [rule.fired for rule in engine.state().rules] == [2]
        await check_live(engine)
    (error,) = of_kind(log, r.RuleError)
    assert (error.rule, error.place) == ("projection.summary", "fold")
    assert error.error == "ValueError: broken sensor"
    assert [one.rule for one in of_kind(log, r.RuleMismatch)] == ["hot", "projection.summary"]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "TypeError: expected the function to return Summary, found None"),
        ("text", "ValidationError: Expected `object`, got `str`"),
        (Summary(count="many"), "ValidationError: Expected `int`, got `str` - at `$.count`"),  # type: ignore[arg-type]
        (Summary(peak=object()), "TypeError: Encoding objects of type object"),  # type: ignore[arg-type]
        (Summary(seen=[0.5] * STATE_BYTES_MAX), "ValueError: expected a state of at most 65536"),
    ],
)
async def test_what_is_no_state_is_a_recorded_error(returned: Any, said: str) -> None:
    """It is found when it is returned, not when it is needed."""

    def wrong(state: Summary, event: Event[Reading]) -> Summary:
        if event.data.celsius > 50:
            state = returned
        else:
            state.count += 1
        return state

    app, log = make_app(wrong, version="1"), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([reading("t1", number) for number in (1, 60, 2)])
        assert engine.view(wrong)["t1"].count == 2
        await check_live(engine)
    (error,) = of_kind(log, r.RuleError)
    assert error.error.startswith(said)


async def test_a_rule_can_react_to_the_error() -> None:
    """As to that of a rule: there is an event about it."""
    app, seen = make_app(), list[Any]()

    @app.rule(on("rule.error.>"))
    async def told(firing: Firing[Any]) -> None:
        seen.append(firing.events[0].subject)

    async with opened(app) as engine:
        await engine.emit(*reading("t1", -200.0))
        await engine.drain()
    assert seen == ["rule.error.projection.summary"]


async def test_a_bad_key_is_a_recorded_error() -> None:
    """And an event without a key is counted."""
    app = App("t")

    @app.projection(on("n"), key=lambda e: e.data["key"], initial=0)
    def count(state: int, event: Event[Any]) -> int:
        return state + 1

    async with opened(app) as engine:
        keys: list[Any] = ["a", 1, 1.0, None, [], {}]
        await engine.emit_many([("n", {"key": key}) for key in keys] + [("n", 1)])
        view = engine.view(count)
        assert dict(view) == {"a": 1, 1: 2}
        assert (view[1.0], view[True]) == (2, 2)
        (projection,) = engine.state().projections
        assert (projection.errors, projection.unkeyed) == (3, 4)
        await check_live(engine)


async def test_of_too_many_keys_the_one_unheard_of_for_longest_goes() -> None:
    """That is recorded (law L6)."""
    app, log = make_app(keys_max=3), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([reading(f"t{n}", 1.0) for n in (1, 2, 3, 1, 4, 1, 5)])
        assert list(engine.view(summed)) == ["t4", "t1", "t5"]
        assert engine.state().projections[0].evicted == 2
        await check_live(engine)
    assert [one.key for one in of_kind(log, r.RuleEvicted)] == ["t2", "t3"]


# ---------------------------------------------------------------- over restarts


@pytest.mark.slow
async def test_crash_at_every_record() -> None:
    """Wherever it comes, with snapshots or without: the state is that of what was stored."""
    app, log, events = make_app(), MemoryLog(), some(60)
    async with opened(app, log) as engine:
        for number, event in enumerate(events):
            await engine.emit(*event)
            if number % 13 == 7:
                await engine.snapshot()
        await engine.drain()
    for upto in borders(log):
        left = log.copy(upto)
        stored = [
            (one.subject, events[number][1])
            for number, one in enumerate(of_kind(left, r.EventStored))
        ]
        assert restored_bytes(left, app) == refolded(left, app.decider()).dump()
        async with opened(app, left) as engine:
            assert dict(engine.view(summed)) == by_hand(stored), upto
            await engine.emit_many(events[len(stored) :])
            assert dict(engine.view(summed)) == by_hand(events), upto
            await check_live(engine)
        assert of_kind(left, r.RuleDiverged) == []


def restored_bytes(log: MemoryLog, app: App) -> bytes:
    """The state that a start comes to, but for the effects of what it finds."""
    return restore(log, app.decider(), clock=None).dump()


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_is_of_one_moment(seed: int) -> None:
    """Written piecemeal while states change, are forgotten and come: it is of when it began."""
    rng = Random(seed)
    app = make_app(keys_max=40)
    kernel = Kernel(app.decider())
    kernel.submit(r.EngineStarted(1, "", "system", dict(kernel.state.declared), 0))

    def more(count: int) -> None:
        for _ in range(count):
            raw = msgspec.Raw(msgspec.msgpack.encode(Reading(rng.randrange(-110, 99))))
            kernel.submit(r.EventStored(1, f"sensors.t{rng.randrange(50)}.temperature", raw))

    more(200)
    for _ in range(3):
        before = kernel.dump()
        snapshot, parts = Snapshot(kernel), list[bytes]()
        while (part := snapshot.step(3)) is not None:
            parts.append(part)
            more(2)
        assert kernel.dump() != before
        during = dict(view_of(kernel))
        while not snapshot.settle(3):
            assert dict(view_of(kernel)) == during
        loaded = new_kernel(MemoryLog(), app.decider())
        load(loaded, parts)
        assert loaded.dump() == before
        more(1)


def view_of(kernel: Kernel) -> View[Any]:
    """The view of the only projection of *kernel*."""
    decider = kernel.state.decider
    return View("", lambda: decider.folded(decider.projection("summary")), lambda: 1)


async def test_an_unchanged_function_goes_on_from_the_snapshot() -> None:
    """No event is folded twice."""
    calls: list[int] = []

    def counted(state: Summary, event: Event[Reading]) -> Summary:
        calls.append(event.sequence)
        return summed(state, event)

    def app() -> App:
        return make_app(counted, version="1")

    log = MemoryLog()
    async with opened(app(), log) as engine:
        await engine.emit_many([reading("t1", number) for number in range(10)])
        await engine.snapshot()
        await engine.emit_many([reading("t1", number) for number in range(3)])
    calls.clear()
    async with opened(app(), log) as engine:
        assert engine.view("summary")["t1"].count == 13
        assert len(calls) == 3


async def test_a_changed_function_sees_the_log_once_more() -> None:
    """At the next start, from its beginning; what the one before made is forgotten."""
    events = some(50)
    log = MemoryLog()
    async with opened(make_app(), log) as engine:
        await engine.emit_many(events)
        await engine.snapshot()

    def changed(state: Summary, event: Event[Reading]) -> Summary:
        state.count += 1000
        return state

    app = make_app(changed)
    async with opened(app, log) as engine:
        fresh = dict(engine.view(changed))
        expected = [event for event in events if isinstance(event[1], Reading)]
        assert sum(state.count for state in fresh.values()) == 1000 * len(expected)
        await engine.emit(*reading("t1", 1.0))
        await engine.snapshot()
        await check_live(engine)
    assert [one.warm for one in of_kind(log, r.EngineStarted)] == [{}, {"projection.summary": 1}]
    async with opened(app, log) as engine:  # it is not changed any more
        await check_live(engine)
    assert of_kind(log, r.EngineStarted)[-1].warm == {}


@pytest.mark.parametrize("what", ["initial", "key", "type", "condition"])
async def test_all_that_it_is_made_of_counts(what: str) -> None:
    """Not the function alone: with another initial state, key, type or pattern it is another."""

    def also(state: Any, event: Event[Reading]) -> Longer:
        state.count += 1
        return Longer(state.count)

    def plain(state: Any, event: Event[Reading]) -> Summary:
        state.count += 1
        return Summary(state.count)

    others: dict[str, dict[str, Any]] = {
        "initial": {"initial": Summary(5)},
        "key": {"key": lambda e: e.tokens[2]},
        "type": {"initial": Longer()},
        "condition": {},
    }
    log = MemoryLog()
    first = make_app(plain, version="1")
    async with opened(first, log) as engine:
        await engine.emit(*reading("t1", 1.0))
        await engine.snapshot()
    app = make_app(also if what == "type" else plain, version="1", **others[what])
    if what == "key":
        app = make_app(plain, version="2", **others[what])
    elif what == "condition":
        app = App("plant")
        app.projection(
            on("sensors.>", Reading), key=lambda e: e.tokens[1], initial=Summary(), version="1",
            name="summary",
        )(plain)  # fmt: skip
    async with opened(app, log) as engine:
        (state,) = engine.view("summary").values()
        assert state.count == (6 if what == "initial" else 1)
    assert of_kind(log, r.EngineStarted)[-1].warm == {"projection.summary": 1}


@pytest.mark.slow
async def test_one_that_is_new_sees_the_log_at_every_cut() -> None:
    """Also the events that the engine owes of its last life, which come before the start."""
    before = make_app()

    @before.rule(on("run.*.hot"), name="runs")
    async def runs() -> None: ...

    log = MemoryLog()
    async with opened(before, log) as engine:
        await engine.emit_many(some(12))
        await engine.emit(*reading("t1", 98.0))
        await engine.drain()

    def told(state: int, event: Event[Any]) -> int:
        return state + 1

    for upto in borders(log):
        app, left = make_app(), log.copy(upto)
        app.rule(on("run.*.hot"), name="runs")(nothing)
        app.projection(
            any_of(on("run.>"), on("rule.>")), key=lambda e: e.subject, initial=0
        )(told)  # fmt: skip
        async with opened(app, left) as engine:
            await engine.drain()
            await check_live(engine)
            counts = sum(engine.view(told).values())
            own = [
                one
                for one in of_kind(left, r.EventStored)
                if one.subject.startswith(("run.", "rule."))
            ]
            assert counts == len(own), upto


# ---------------------------------------------------------------- what is not kept any more


async def test_where_the_beginning_is_gone_it_says_so() -> None:
    """It is folded from the oldest record that is kept; snapshots know that, too."""
    log = ShortLog()
    async with opened(make_app(), log) as engine:
        await engine.emit_many([reading("t1", number) for number in range(10)])
        await engine.snapshot()
    log.first = 7

    def changed(state: Summary, event: Event[Reading]) -> Summary:
        state.count += 1
        return state

    app = make_app(changed)
    async with opened(app, log) as engine:
        view = engine.view(changed)
        assert (view["t1"].count, view.since) == (5, 7)
        await engine.emit(*reading("t1", 1.0))
        await engine.snapshot()
    async with opened(app, log) as engine:
        view = engine.view(changed)
        assert (view["t1"].count, view.since) == (6, 7)
        assert engine.state().projections[0].since == 7


async def test_a_fold_that_finds_its_beginning_gone_folds_what_there_is() -> None:
    """It had seen more; that it has not any more is recorded, and it is not left empty."""
    log = ShortLog()
    plain, app = App("t"), make_app()
    plain.rule(on("a"), name="a")(nothing)
    async with opened(plain, log) as engine:
        await engine.emit_many([reading("t1", number) for number in range(10)])
        await engine.snapshot()
    async with opened(app, log) as engine:
        assert engine.view(summed)["t1"].count == 10
    log.first = 9  # by now, with a snapshot before the record that put it in force
    for _ in range(2):
        async with opened(app, log) as engine:
            view = engine.view(summed)
            assert (view["t1"].count, view.since) == (3, 9)
        (diverged,) = of_kind(log, r.RuleDiverged)
        assert (diverged.rule, diverged.derived) == ("projection.summary", "its beginning is gone")


async def test_one_that_does_not_repeat_itself_is_folded_anew() -> None:
    """A function that reads what is no event: the difference is recorded, and the log decides."""
    is_cold = [True]

    def moody(state: Summary, event: Event[Reading]) -> Summary:
        if is_cold[0]:
            raise ValueError("too cold")
        state.count += 1
        return state

    log, app = MemoryLog(), make_app(moody, version="1")
    async with opened(app, log) as engine:
        await engine.emit_many([reading("t1", 1.0), reading("t1", 2.0)])
        assert dict(engine.view(moody)) == {}
    is_cold[0] = False
    async with opened(app, log) as engine:
        assert engine.view(moody)["t1"].count == 2
        await engine.emit(*reading("t1", 3.0))
        await engine.snapshot()
    (diverged,) = of_kind(log, r.RuleDiverged)
    assert (diverged.rule, diverged.derived) == ("projection.summary", "nothing")
    async with opened(app, log) as engine:
        assert engine.view(moody)["t1"].count == 3
    assert len(of_kind(log, r.RuleDiverged)) == 1


# ---------------------------------------------------------------- other ways to a state


async def test_it_goes_on_over_a_full_disk() -> None:
    """A view shows the engine's state, whichever kernel has it by now."""
    app, log, clock = make_app(), FullLog(), StepClock()
    async with opened(app, log, clock) as engine:
        await engine.emit(*reading("t1", 1.0))
        view = engine.view(summed)
        await fill_disk(engine, log)
        assert view["t1"].count == 1
        await make_room(engine, log, clock)
        await engine.emit(*reading("t1", 2.0))
        assert view["t1"].count == 2
        await check_live(engine)


async def test_a_backfill_folds_too() -> None:
    """Events of the past are events."""
    app, log = make_app(), MemoryLog()
    past = [
        Emission(subject, data, time=1e9 + number)
        for number, (subject, data) in enumerate(some(30))
    ]
    app.backfill(log, past)
    async with opened(app, log, clock="system") as engine:
        await engine.emit(*reading("t1", 1.0))
        assert dict(engine.view(summed)) == by_hand([*some(30), reading("t1", 1.0)])
        await quiet(engine)
    quick, _ = from_snapshot(log, app.decider())
    assert quick.sequence == 0, "there is none: all was folded"
    assert comparable(refolded(log, app.decider())) == comparable(engine.kernel)


SETS = """
import sys, msgspec
from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace import App, on
app = App("t")
def names(state: set[str], event) -> set[str]:
    state.add(event.data)
    return state
app.projection(on("a", str), initial=set(), version="1")(names)
kernel = Kernel(app.decider())
kernel.submit(r.EngineStarted(1, "", "system", dict(kernel.state.declared), 0))
for n in range(40):
    kernel.submit(r.EventStored(1, "a", msgspec.Raw(msgspec.msgpack.encode(f"name-{n}"))))
sys.stdout.write(kernel.dump().hex())
"""


@pytest.mark.slow
def test_the_state_does_not_depend_on_the_hash_seed() -> None:
    """Two processes fold a log to the same bytes, also where the state is a set."""
    dumps = [
        subprocess.run(
            [sys.executable, "-c", SETS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]
    assert dumps[0] == dumps[1]
    assert b"name-7".hex() in dumps[0]
