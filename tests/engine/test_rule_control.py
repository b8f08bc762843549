"""Rules that are added, replaced, removed and paused while the engine runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.stand import (
    Gate,
    GatedLog,
    StepClock,
    check_live,
    check_replay,
    noted,
    nothing,
    of_kind,
    opened,
    outcomes,
    quiet,
    records_of,
)

from headrace import (
    App,
    EngineClosed,
    EventRefused,
    Firing,
    MemoryLog,
    Run,
    on,
    queue,
    silent,
)
from headrace.engine import record as r
from headrace.engine.errors import RuleNotFound
from headrace.engine.offline import OfflineLog


class Reading(msgspec.Struct):
    celsius: float


# ---------------------------------------------------------------- added


async def test_a_rule_takes_events_from_its_record_on() -> None:
    """Who adds a rule knows from which place in the log on it counts, for ever."""
    log, seen = MemoryLog(), list[Any]()
    async with opened(App("t"), log) as engine:
        await engine.emit("a", 1)
        sequence = await engine.add_rule(on("a"), noted(seen), name="late")
        assert sequence == log.committed_sequence
        await engine.emit("a", 2)
        await engine.drain()
        await check_live(engine)
        (rule,) = engine.state().rules
        assert (rule.name, rule.active, rule.fired) == ("late", True, 1)

    assert seen == [2]
    (changed,) = of_kind(log, r.RuleChanged)
    assert dict(records_of(log))[sequence] == changed
    pattern = App("other")
    pattern.rule(on("a"), name="late")(nothing)
    assert changed.fingerprint == pattern.decider().fingerprints()["late"]
    assert (changed.rule, changed.warm, changed.cause) == ("late", 0, "")


async def test_the_same_rule_again_records_nothing() -> None:
    """A task that adds a rule can be repeated; its new code counts all the same."""
    app, log, first, second = App("t"), MemoryLog(), list[Any](), list[Any]()
    app.rule(on("b"), name="own")(nothing)
    async with opened(app, log) as engine:
        assert await engine.add_rule(on("a"), noted(first), name="x") > 0
        before = engine.kernel.sequence
        assert await engine.add_rule(on("a"), noted(second), name="x") == 0
        assert await engine.add_rule(on("b"), noted(second), name="own") == 0
        assert engine.kernel.sequence == before
        await engine.emit_many([("a", 1), ("b", 2)])
        await engine.drain()
        await check_live(engine)

    assert (first, second) == ([], [1, 2])
    check_replay(app, log)


async def test_nobody_is_told_before_it_is_durable() -> None:
    """Also who adds what somebody else has added just now: after a crash it has to be there."""
    log, told = GatedLog(), list[int]()

    async def add() -> None:
        told.append(await engine.add_rule(on("a"), nothing))

    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(add)
        group.start_soon(add)
        await quiet(engine)
        assert told == []
        log.release()

    assert sorted(told) == [0, 2]


async def test_the_last_code_counts() -> None:
    """Also if the rule that it comes with is not stored yet."""
    log, seen = GatedLog(), list[str]()

    def act(name: str) -> Callable[..., Any]:
        async def say() -> None:
            seen.append(name)

        return say

    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await engine.add_rule(on("b"), act("first"), name="x")
        log.hold = True
        for name in ("second", "third", "fourth"):
            group.start_soon(partial(engine.add_rule, on("a"), act(name), name="x"))
            await quiet(engine)
        log.release()
        await quiet(engine)
        await engine.emit("a")
        await engine.drain()
    assert seen == ["fourth"]


async def test_a_rule_can_be_added_by_a_task() -> None:
    """A rule that watches what another one found: made by the run that knows of it."""
    app, log, seen = App("t"), MemoryLog(), list[Any]()

    @app.rule(on("found"))
    async def watch(run: Run, firing: Firing[str]) -> int:
        name = firing.events[0].data
        return await run.rules.add(
            on(f"things.{name}").count(2, within=60), noted(seen), name=f"watch-{name}"
        )

    async with opened(app, log) as engine:
        await engine.emit("found", "x")
        await engine.drain()
        await engine.emit("found", "x")
        await engine.drain()
        await engine.emit_many([("things.x", 1), ("things.x", 2)])
        await engine.drain()
        await check_live(engine)

    assert seen == [2]
    (sequence,) = [place for place, x in records_of(log) if isinstance(x, r.RuleChanged)]
    results = [msgspec.msgpack.decode(end.result) for end in of_kind(log, r.RunCompleted)]
    assert results[:2] == [sequence, 0]
    check_replay(app, log)


async def test_other_rules_can_tell_of_a_change() -> None:
    """Who changes what the plant reacts to is seen: by an event, as everything else."""
    app, log, seen = App("t"), MemoryLog(), list[Any]()
    app.rule(on("rule.changed.*"), name="told")(noted(seen))
    async with opened(app, log) as engine:
        added = await engine.add_rule(on("a"), nothing, name="x")
        await engine.remove_rule("x")
        await engine.drain()
        await check_live(engine)

    kinds = [(told["rule"], told["fingerprint"] is None, told["cause"]) for told in seen]
    assert kinds == [("x", False, ""), ("x", True, "")]
    (first, *_) = [event for event in of_kind(log, r.EventStored) if event.hops]
    assert first.trace == added


# ---------------------------------------------------------------- replaced and removed


async def test_a_rule_that_is_replaced_begins_empty() -> None:
    """Another limit is another rule: what the old one had seen says nothing of the new one."""
    app, log, clock, seen = App("t"), MemoryLog(), StepClock(), list[Any]()
    app.rule(silent(on("a").count(2, within=1000), for_=50), name="x")(noted(seen))
    async with opened(app, log, clock) as engine:
        await engine.emit_many([("a", 1), ("a", 2), ("a", 3)])
        await engine.add_rule(silent(on("a").count(2, within=1000), for_=70), noted(seen), name="x")
        await clock.step(engine, 60)
        assert seen == []
        await engine.emit_many([("a", 4), ("a", 5)])
        await clock.step(engine, 75)
        await check_live(engine)

    assert seen == [5]
    assert [fired.due_ns is not None for fired in of_kind(log, r.RuleFired)] == [True]


async def test_runs_of_the_version_before_keep_their_code_and_their_events() -> None:
    """What has begun under one rule ends under it, whatever the next one looks at."""
    app, log, gate, seen = App("t"), GatedLog(), Gate(), list[Any]()

    @app.rule(on("a", Reading), mode=queue(10), name="x")
    async def old(firing: Firing[Reading]) -> None:
        await gate.wait()
        seen.append(("old", firing.events[0].data.celsius))

    async def new(firing: Firing[Any]) -> None:
        seen.append(("new", firing.events[0].data))

    async with opened(app, log) as engine:
        await engine.emit_many([("a", {"celsius": 1}), ("a", {"celsius": 2})])
        await quiet(engine)
        log.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: engine.add_rule(on("b"), new, name="x"))
            await quiet(engine)
            assert len(engine.runs("active")) == 1
            log.release()
        gate.open()
        await engine.emit("b", 3)
        await engine.drain()

    # The one that waited begins with the code of now, and still gets its event.
    assert seen == [("old", 1.0), ("new", 3), ("new", Reading(2.0))]


async def test_runs_of_a_removed_rule_end_with_their_firing() -> None:
    """Removing a rule takes back no promise: its runs finish, retries and typed events included."""
    app, log, clock, gate, seen = App("t"), MemoryLog(), StepClock(), Gate(), list[Any]()

    @app.rule(on("a", Reading), mode=queue(10))
    async def act(run: Run, firing: Firing[Reading]) -> None:
        await gate.wait()
        await run.sleep(5)
        seen.append(firing.events[0].data)

    async with opened(app, log, clock) as engine:
        await engine.emit_many([("a", {"celsius": 1}), ("a", {"celsius": 2})])
        await quiet(engine)
        removed = await engine.remove_rule("act")
        assert await engine.emit("a", {"celsius": 3}) == removed + 1
        gate.open()
        await clock.step(engine, 20)
        await engine.drain()
        await check_live(engine)
        assert [rule.name for rule in engine.state().rules if rule.active] == []

    assert seen == [Reading(1.0), Reading(2.0)]
    assert outcomes(log, "act") == ["run", "waiting"]


async def test_at_the_next_start_the_rules_of_the_app_are_in_force() -> None:
    """What was added is gone if the app does not declare it, and the log says both."""
    app, log, seen = App("t"), MemoryLog(), list[Any]()
    app.rule(on("a"), name="own")(nothing)
    async with opened(app, log) as engine:
        await engine.add_rule(on("b"), noted(seen), name="extra")
        await engine.remove_rule("own")
        assert await engine.emit("a") > 0
    async with opened(app, log) as engine:
        assert sorted(engine.kernel.state.rules) == ["own"]
        await engine.emit_many([("a", 1), ("b", 1)])
        await engine.drain()
        await check_live(engine)
        assert await engine.snapshot() == log.committed_sequence

    assert (seen, outcomes(log, "own")) == ([], ["run"])
    check_replay(app, log)


async def test_an_app_that_declares_it_by_then_finds_its_state() -> None:
    """Tried out while the plant runs, then written into the app: it goes on where it was."""
    app, later, log, clock = App("t"), App("t"), MemoryLog(), StepClock()
    pattern = on("a").count(3, within=1000)
    later.rule(pattern, name="x")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.add_rule(pattern, nothing, name="x")
        await engine.emit_many([("a", 1), ("a", 2)])
        assert await engine.snapshot() > 0
        await engine.emit("b")
    async with opened(later, log, clock) as engine:
        await engine.emit("a", 3)
        await engine.drain()
        await check_live(engine)

    (fired,) = of_kind(log, r.RuleFired)
    assert len(fired.events) == 3
    check_replay(later, log)


# ---------------------------------------------------------------- paused


async def test_a_paused_rule_looks_on_and_starts_nothing() -> None:
    """While the fan is in repair nothing is started, and nobody loses the count."""
    app, log, clock, seen = App("t"), MemoryLog(), StepClock(), list[Any]()
    app.rule(on("a").count(2, within=1000), name="pairs")(noted(seen))
    app.rule(on("rule.paused.*"), name="told")(noted(told := list[Any]()))
    app.rule(on("rule.resumed.*"), name="untold")(noted(told))
    async with opened(app, log, clock) as engine:
        await engine.emit("a", 1)
        paused = await engine.pause("pairs", "in repair")
        assert await engine.pause("pairs", "again") == 0
        await engine.emit_many([("a", 2), ("a", 3)])
        await check_live(engine)
    async with opened(app, log, clock) as engine:
        assert engine.state().rules[0].paused
        await engine.emit_many([("a", 4), ("a", 5)])
        await engine.drain()
        assert await engine.resume("pairs") > paused
        assert await engine.resume("pairs") == 0
        await engine.emit("a", 6)
        await engine.drain()
        await check_live(engine)
        (rule, *_) = engine.state().rules
        assert (rule.paused, rule.fired) == (False, 3)
        assert engine.kernel.state.stats["pairs"].paused == 2

    assert outcomes(log, "pairs") == ["paused", "paused", "run"]
    assert seen == [6]
    assert [(one["rule"], one["reason"]) for one in told] == [("pairs", "in repair"), ("pairs", "")]
    check_replay(app, log)


async def test_a_pause_holds_over_snapshots_and_changes_but_not_over_a_removal() -> None:
    """It is the rule's name that is paused: another version of it starts nothing either."""
    app, log, clock = App("t"), MemoryLog(), StepClock()
    app.rule(on("a"), name="x")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.pause("x")
        await engine.snapshot()
    async with opened(app, log, clock) as engine:
        await engine.add_rule(on("a.b"), nothing, name="x")
        await engine.emit("a.b")
        await check_live(engine)
        assert outcomes(log, "x") == ["paused"]
        await engine.remove_rule("x")
        await engine.add_rule(on("a.b"), nothing, name="x")
        await engine.emit("a.b")
        await engine.drain()
        await check_live(engine)
    assert outcomes(log, "x") == ["paused", "run"]
    check_replay(app, log)


async def test_a_pause_ends_with_the_rule_at_a_start() -> None:
    """A rule that the app does not declare any more is not paused when it comes back."""
    app, log, clock = App("t"), MemoryLog(), StepClock()
    app.rule(on("a"), name="x")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.pause("x")
    async with opened(App("t"), log, clock):
        pass
    async with opened(app, log, clock) as engine:
        assert not engine.state().rules[0].paused
        await check_live(engine)


# ---------------------------------------------------------------- while no engine runs


async def test_a_rule_is_paused_while_no_engine_runs() -> None:
    """What is asked of a stopped engine holds from its next start on."""
    app, log, clock, seen = App("t"), MemoryLog(), StepClock(), list[Any]()
    app.rule(on("a"), name="x")(noted(seen))
    app.rule(silent(on("a"), for_=10), name="quiet")(nothing)
    app.rule(on("rule.paused.*"), name="told")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.emit("a", 1)
        await engine.drain()
    clock.pass_by(5000)
    with OfflineLog(log, clock=clock) as offline:
        with pytest.raises(RuleNotFound, match="found 'nix'; there are quiet, told, x"):
            offline.pause("nix", "", paused=True)
        with pytest.raises(EventRefused):
            offline.pause("x", "\udcff", paused=True)
        assert offline.pause("x", "", paused=False) == 0
        sequence = offline.pause("x", "r" * 5000, paused=True)
        assert offline.pause("x", "again", paused=True) == 0
    paused = records_of(log)[sequence - 1][1]
    assert isinstance(paused, r.RulePaused)
    assert len(paused.reason) == 1000

    async with opened(app, log, clock) as engine:
        await engine.emit("a", 2)
        await engine.drain()
        await check_live(engine)
    assert (outcomes(log, "x"), outcomes(log, "told")) == (["run", "paused"], ["run"])
    assert seen == [1]
    with OfflineLog(log) as offline:
        assert offline.pause("x", "", paused=False) > sequence
    check_replay(app, log)


def test_a_log_without_rules_has_none_to_pause() -> None:
    """Nothing was in force yet, and nothing is written."""
    log = MemoryLog()
    with OfflineLog(log) as offline:
        with pytest.raises(RuleNotFound, match="there is none"):
            offline.pause("x", "", paused=True)
        with pytest.raises(RuleNotFound, match="there is none"):
            offline.acknowledge("x", None, by="", note="")
    assert log.committed_sequence == 0


# ---------------------------------------------------------------- log time by input


async def test_by_input_a_rule_may_come_before_log_time() -> None:
    """Recorded data may be of any year: a rule that comes first must not bring today with it."""
    app, log, seen = App("t"), MemoryLog(), list[Any]()
    app.rule(on("a"), name="own")(nothing)
    async with opened(app, log, "input") as engine:
        assert await engine.add_rule(on("a").count(2, within=60), noted(seen), name="x") == 0
        assert await engine.remove_rule("own") == 0
        with pytest.raises(RuleNotFound):
            await engine.remove_rule("own")
        with pytest.raises(RuleNotFound):
            await engine.pause("x")
        assert log.committed_sequence == 0
        await engine.emit("a", 1, time=1000.0)
        await engine.emit("a", 2, time=1010.0)
        await engine.drain()
        await check_live(engine)

    assert seen == [2]
    (started,) = of_kind(log, r.EngineStarted)
    assert (list(started.rules), started.at_ns) == (["x"], 1000 * 10**9)
    assert of_kind(log, r.RuleChanged) == []


async def test_by_input_a_change_is_at_the_time_of_the_events() -> None:
    """Time stands still between events, for those who change rules, too."""
    log = MemoryLog()
    async with opened(App("t"), log, "input") as engine:
        await engine.emit("a", 1, time=1000.0)
        await engine.add_rule(
            silent(on("a").key(lambda e: e.data), for_=10, expect=["k"]), nothing, name="x"
        )
        await engine.emit("b", 1, time=1020.0)
        await check_live(engine)

    (changed,) = of_kind(log, r.RuleChanged)
    assert changed.at_ns == 1000 * 10**9
    assert [fired.due_ns for fired in of_kind(log, r.RuleFired)] == [1010 * 10**9]


# ---------------------------------------------------------------- refused


def not_digested() -> Any:
    """Return a pattern whose function has no fingerprint."""
    thing = object()
    return on("b").where(lambda e: e.data is thing)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((on("b"), nothing), {"name": "a b"}, "expected 1 to 64 letters"),
        ((on("b"), lambda: None), {}, "give it one with name="),
        (("b", nothing), {}, "expected a pattern"),
        ((on("b"), nothing), {"name": "check"}, "task 'check' is declared twice"),
        ((on("b"), nothing), {"name": "idle"}, "task 'idle' is declared twice"),
        ((on("b"), nothing), {"name": "own-clear"}, "task 'own-clear' is declared twice"),
        ((on("b"), nothing), {"on_clear": nothing}, "expected a pattern whose condition ends"),
        ((on("b"), nothing), {"mode": "wild"}, "mode"),
        ((on("b"), nothing), {"warm": "yes"}, "expected 'replay' or None"),
        ((on("b"), nothing), {"nix": 1}, "nix"),
        ((not_digested(), nothing), {}, "version="),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
async def test_what_is_no_rule_is_refused(
    arguments: tuple[Any, Any], options: dict[str, Any], said: str
) -> None:
    """It says which part and why; the rules in force and their code are as they were."""
    app, log, seen = App("t"), MemoryLog(), list[Any]()
    pattern = on("a").count(1, within=10, mode="edge")
    app.rule(pattern, name="own", on_clear=noted(seen))(noted(seen))

    @app.task
    async def check() -> None:
        seen.append("checked")

    @app.action
    async def idle() -> None: ...

    @app.rule(on("check"))
    async def go(run: Run) -> None:
        await run.call(check)

    async with opened(app, log) as engine:
        before = engine.kernel.sequence
        with pytest.raises((TypeError, ValueError), match=said):
            await engine.add_rule(*arguments, **options)
        assert engine.kernel.sequence == before
        await engine.emit_many([("a", 1), ("check", 1)])
        await engine.drain()
        await check_live(engine)

    assert seen == [1, "checked"]


async def test_a_task_belongs_to_one_rule() -> None:
    """Also among rules that were added: no rule's second action is silently another's first."""
    pattern = on("a").count(1, within=10, mode="edge")
    async with opened(App("t")) as engine:
        await engine.add_rule(pattern, nothing, name="x", on_clear=nothing)
        with pytest.raises(ValueError, match="found 'x-clear' of rule 'x'"):
            await engine.add_rule(on("b"), nothing, name="x-clear")
        assert sorted(engine.kernel.state.rules) == ["x"]
        # The rule itself may be replaced, and lose it.
        assert await engine.add_rule(pattern, nothing, name="x") > 0
        await check_live(engine)


async def test_who_is_not_in_force() -> None:
    """The name was mistyped, or the rule is gone: what there is, is said."""
    app = App("t")
    for number in range(12):
        app.rule(on("a"), name=f"r{number}")(nothing)
    async with opened(app) as engine:
        for call in (engine.remove_rule, engine.pause, engine.resume, engine.acknowledge):
            with pytest.raises(
                RuleNotFound, match=r"found 'nix'; there are r0, r1, r10.* and 2 more"
            ):
                await call("nix")
        await engine.remove_rule("r0")
        with pytest.raises(RuleNotFound):
            await engine.remove_rule("r0")
        with pytest.raises(EventRefused):
            await engine.pause("r1", "\udcff")
    for call in (engine.remove_rule, engine.pause, engine.resume, engine.acknowledge):
        with pytest.raises(EngineClosed):
            await call("r1")
    with pytest.raises(EngineClosed):
        await engine.add_rule(on("a"), nothing)
