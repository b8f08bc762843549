from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from tests.reference.shell import Shell, fold, ns, raw, rules

from headrace import App, Firing, MemoryLog, on, silent
from headrace.engine import record as r
from headrace.engine.lifecycle import Lifecycle
from headrace.testing import VirtualClock
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

RECORDS_MAX = 2000


class BoundedLog(MemoryLog):
    """Turns an endless loop into a failure."""

    def append(self, unit: Any) -> None:
        assert self.next_sequence < RECORDS_MAX, "the engine never stops talking to itself"
        super().append(unit)


def raises(event: Any) -> bool:
    raise ValueError("this condition always fails")


def lifecycle_events(log: MemoryLog) -> list[tuple[str, Any]]:
    found = [r.decode(stored) for _, batch in log.read() for stored in batch]
    return [
        (event.subject, msgspec.msgpack.decode(event.data))
        for event in found
        if isinstance(event, r.EventStored) and event.hops
    ]


def divergences_of(app: App, log: MemoryLog) -> list[Any]:
    records = [stored for _, batch in log.read() for stored in batch]
    return list(fold(app.decider, records).divergences)


# ---------------------------------------------------------------- what is told, and to whom


@pytest.mark.parametrize("subject", ["run.completed.work", "run.>", "run.completed.*"])
async def test_the_end_of_a_run_is_an_event(subject: str) -> None:
    """Chaining, alerts and dead letters need no second mechanism: a rule reacts to a run."""
    app, log, seen = App("plant"), BoundedLog(), []

    @app.rule(on("a"))
    async def work() -> None: ...

    @app.rule(on(subject).where(lambda e: e.data["task"] == "work"))
    async def after(firing: Firing[Any]) -> None:
        seen.append(firing.events[0].data)

    async with app.open(log, clock=VirtualClock()) as engine:
        await engine.emit("a")
        await engine.drain()

    assert [(data["task"], data["status"], data["attempt"]) for data in seen] == [
        ("work", "completed", 1)
    ]


async def test_a_dead_letter_is_an_event_with_its_reason() -> None:
    """An alert on every run that is given up is one rule."""
    app, log, seen = App("plant"), BoundedLog(), []

    @app.rule(on("a"))
    async def work() -> None:
        raise OSError("no route to host")

    @app.rule(on("run.failed.>"))
    async def alert(firing: Firing[Any]) -> None:
        seen.append(firing.events[0].data)

    async with app.open(log, clock=VirtualClock()) as engine:
        await engine.emit("a")
        await engine.drain()

    assert [(data["status"], data["error"]) for data in seen] == [
        ("dead", "OSError: no route to host")
    ]


async def test_a_firing_is_an_event_and_the_engine_goes_on() -> None:
    """A rule may react to another rule's firing; the event is stored once, and that is it."""
    app, log = App("plant"), BoundedLog()

    @app.rule(on("a"))
    async def first() -> None: ...

    @app.rule(on("rule.fired.first"))
    async def second() -> None: ...

    with anyio.fail_after(20):
        async with app.open(log, clock=VirtualClock()) as engine:
            await engine.emit("a")
            await engine.emit("a")
            await engine.drain()
            fired = {rule.name: rule.fired for rule in engine.state().rules}

    stored = [r.decode(x) for _, batch in log.read() for x in batch]
    events = {s for s, x in enumerate(stored, 1) if isinstance(x, r.EventStored) and not x.hops}
    assert fired == {"first": 2, "second": 2}
    assert {x.trace for x in stored if isinstance(x, r.RuleFired)} == events
    assert [subject for subject, _ in lifecycle_events(log)] == ["rule.fired.first"] * 2
    assert divergences_of(app, log) == []


def test_a_wildcard_first_token_does_not_hear_of_the_engine() -> None:
    """A rule on everything would otherwise fire on its own firing for ever."""
    shell = Shell(rules(on(">"), on("*.*.*"))).start(ns(1))
    shell.emit(ns(2), "a.b.c")

    assert [rule for rule, _, _ in shell.fired()] == ["r1", "r2"]
    assert [e.subject for e in shell.of_kind(r.EventStored)] == ["a.b.c"]


def test_nobody_is_told_what_nobody_wants() -> None:
    """An app without rules on lifecycle events pays nothing for them in its log."""
    shell = Shell(rules(on("a"))).start(ns(1))
    shell.emit(ns(2), "a")

    assert len(shell.of_kind(r.EventStored)) == 1
    assert shell.kernel.state.lifecycle.dump() == []


# ---------------------------------------------------------------- cause and depth


def test_the_chain_of_causes_survives_the_log() -> None:
    """What led to a lifecycle event is in its bytes, or a fold could not know the depth."""
    event = r.EventStored(5, "rule.fired.a", raw(1), trace=3, hops=7)

    decoded = r.decode(r.encode(event))

    assert isinstance(decoded, r.EventStored)
    assert (decoded.trace, decoded.hops) == (3, 7)


def test_a_rule_on_its_own_firing_ends_at_the_hop_limit() -> None:
    """A loop of causes is a recorded `rule.loop` at the limit, never an endless log."""
    chain = rules(Rule("echo", on("rule.fired.*"), "parallel"), Rule("a", on("a"), "parallel"))
    shell = Shell(chain, hops_max=5).start(ns(1))
    shell.emit(ns(2), "a")

    assert [fired.hops for fired in shell.of_kind(r.RuleFired)] == [1, 2, 3, 4, 5]
    assert [(loop.rule, loop.hops) for loop in shell.of_kind(r.RuleLoop)] == [("echo", 6)]
    assert shell.stats("echo")["loops"] == 1
    assert shell.refold().dump() == shell.kernel.dump()
    assert shell.refold().divergences == []


def test_a_run_that_causes_itself_ends_at_the_hop_limit() -> None:
    """A rule whose run emits what fires it again is stopped, with a record that says so."""
    shell = Shell(rules(on("a")), hops_max=4).start(ns(1))
    event = shell.emit(ns(2), "a")
    for at_s in range(3, 20):
        for run in list(shell.kernel.state.runs.active.values()):
            shell.put(
                r.EventStored(
                    ns(at_s), "a", raw(1), run=run.id, ordinal=1, trace=run.trace, hops=run.hops
                )
            )
            shell.put(r.RunCompleted(ns(at_s), run.id, raw(None)))

    fired = shell.of_kind(r.RuleFired)
    assert [(f.hops, f.trace) for f in fired] == [(hops, event) for hops in (1, 2, 3, 4)]
    assert [(loop.rule, loop.hops) for loop in shell.of_kind(r.RuleLoop)] == [("r1", 5)]
    assert shell.refold().dump() == shell.kernel.dump()


@pytest.mark.parametrize(
    "pattern",
    [
        on("rule.error.*").where(raises),
        on("rule.>").where(raises),
        on("rule.mismatch.*", int),
        on("rule.>", int),
    ],
    ids=repr,
)
async def test_a_rule_that_fails_on_its_own_failures_ends(pattern: Pattern[Any]) -> None:
    """A wrong alert rule costs two records a failure; it does not fill the disk."""
    app, log = App("plant"), BoundedLog()

    @app.rule(on("a").where(raises))
    async def failing() -> None: ...

    @app.rule(on("a", str))
    async def mistyped() -> None: ...

    @app.rule(pattern)
    async def alert() -> None: ...

    @app.rule(on("b"))
    async def other() -> None: ...

    with anyio.fail_after(20):
        async with app.open(log, clock=VirtualClock()) as engine:
            await engine.emit("a", 1)
            await engine.emit("b", 1)
            await engine.drain()
            fired = {rule.name: rule.fired for rule in engine.state().rules}

    assert fired["other"] == 1
    assert log.next_sequence < 40
    assert divergences_of(app, log) == []


def test_the_event_of_an_error_names_its_cause() -> None:
    """An alert can find the event that a condition failed on, and what began it all."""
    make = rules(Rule("bad", on("a").where(raises), "parallel"), Rule("x", on("rule.>"), "single"))
    shell = Shell(make).start(ns(1))
    event = shell.emit(ns(2), "a")

    told = next(e for e in shell.of_kind(r.EventStored) if e.subject == "rule.error.bad")
    assert msgspec.msgpack.decode(told.data) == {
        "rule": "bad",
        "event": event,
        "error": "ValueError: this condition always fails",
    }
    assert (told.trace, told.hops) == (event, 1)


# ---------------------------------------------------------------- order and crashes


async def test_timers_go_before_what_is_told_at_their_time() -> None:
    """Law L3 holds for the engine's own events too, or a fold would find timers missing."""
    app, log, clock = App("plant"), BoundedLog(), VirtualClock()

    @app.rule(silent(on("a"), for_=10))
    async def quiet() -> None: ...

    @app.rule(silent(on("a"), for_=10))
    async def still() -> None: ...

    @app.rule(on("rule.fired.*").where(lambda e: e.data["rule"] != "told"))
    async def told() -> None: ...

    async with app.open(log, clock=clock) as engine:
        await engine.emit("a")
        await clock.advance(11)
        await engine.drain()

    records = [r.decode(stored) for _, batch in log.read() for stored in batch]
    kinds = [type(x) for x in records if isinstance(x, (r.TimerFired, r.EventStored))]
    assert kinds[:4] == [r.EventStored, r.TimerFired, r.TimerFired, r.EventStored]
    assert divergences_of(app, log) == []


def owing_units() -> Shell:
    """A shell that crashed after a firing was stored and before its event was."""
    shell = Shell(rules(on("a"), on("rule.fired.r1"))).start(ns(1))
    shell.emit(ns(2), "a")
    kinds = [type(r.decode(unit[0])) for unit in shell.units]
    assert kinds == [r.EngineStarted, r.EventStored, r.EventStored]
    return shell.crashed(2)


def test_a_crash_forgets_nothing_that_is_to_be_told() -> None:
    """An alert on a firing comes although the process died between the two, and comes once."""
    shell = owing_units()
    assert shell.kernel.state.lifecycle.next(ns(2)) is not None
    shell.start(ns(3))

    assert [rule for rule, _, _ in shell.fired()] == ["r2"]
    again = shell.crashed().start(ns(4))
    assert again.fired() == []
    assert again.refold().dump() == again.kernel.dump()


def test_overdue_timers_go_before_what_is_still_to_be_told() -> None:
    """After a downtime the first records are the timers, in their order (law L3)."""
    make = rules(on("a"), on("rule.fired.r1"), silent(on("a"), for_=5))
    before = Shell(make).start(ns(1))
    before.emit(ns(2), "a")
    shell = before.crashed(2).start(ns(100))

    kinds = [type(made) for made in shell.made if not isinstance(made, r.DECISION_KINDS)]
    assert kinds == [r.EngineStarted, r.TimerFired, r.EventStored]
    assert shell.refold().divergences == []
    assert shell.refold().dump() == shell.kernel.dump()


def test_a_debt_is_paid_in_the_order_in_which_it_was_made() -> None:
    """Whoever reads the log of an alert sees the story in its order."""
    lifecycle = Lifecycle(lambda subject: subject != "run.completed.c")
    for name in "abcd":
        lifecycle.owe(f"run.completed.{name}", run=1, trace=1, hops=1, data={"task": name})

    told = []
    while (event := lifecycle.next(5)) is not None:
        told.append(event.subject)
        lifecycle.paid("somebody.else")
        lifecycle.paid(event.subject)

    assert told == ["run.completed.a", "run.completed.b", "run.completed.d"]
