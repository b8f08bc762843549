"""What-if: other rules over the same log, against an engine that had those rules all along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from tests.engine.stand import opened

from headrace import (
    App,
    Emission,
    Event,
    Firing,
    MemoryLog,
    Retry,
    Run,
    any_of,
    on,
    sequence,
    silent,
)
from headrace.engine.record import EventStored, RuleFired, decode, thaw
from headrace.engine.replay.stretch import Stretch
from headrace.engine.replay.tally import Supposed
from headrace.engine.replay.whatif import WhatIf
from headrace.engine.restore import new_kernel
from headrace.replaying import bisect, replay, whatif

T0 = 1_400_000_000
Timeline = list[tuple[float, str, int]]


def plant(
    *,
    limit: int = 6,
    count: int = 3,
    within: float = 30,
    quiet: float = 5,
    silence: float = 20,
    period: float = 40,
    mode: Any = "parallel",
) -> App:
    """Rules of many kinds, each with a number that a test may change."""
    app = App("plant")
    machine = on("m.*", int)

    @app.rule(machine.where(lambda e: e.data > limit).key(lambda e: e.tokens[1]))
    async def high(run: Run, firing: Firing[int]) -> None: ...

    hot = machine.where(lambda e: e.data > limit).key(lambda e: e.tokens[1])

    @app.rule(hot.count(count, within=within), mode=mode)
    async def several(run: Run, firing: Firing[int]) -> None: ...

    @app.rule(machine.key(lambda e: e.tokens[1]).debounce(quiet=quiet, max_wait=3 * quiet))
    async def calm(run: Run, firing: Firing[int]) -> None: ...

    @app.rule(silent(machine.key(lambda e: e.tokens[1]), for_=silence))
    async def still(run: Run, firing: Firing[int]) -> None: ...

    @app.rule(machine.key(lambda e: e.tokens[1]).crosses(lambda e: e.data, above=limit))
    async def crossing(run: Run, firing: Firing[int]) -> None: ...

    low = machine.where(lambda e: e.data < 3).key(lambda e: e.tokens[1])
    peak = machine.where(lambda e: e.data > limit).key(lambda e: e.tokens[1])

    @app.rule(sequence(low, peak, within=within))
    async def jump(run: Run, firing: Firing[int]) -> None: ...

    @app.every(period)
    async def tick(run: Run) -> None: ...

    return app


def timeline(seed: int, events: int = 80) -> Timeline:
    """Readings of three machines, with pauses."""
    random = Random(seed)
    at, made = 0.0, Timeline()
    for _ in range(events):
        at += random.choice([0, 1, 1, 2, 7, 31])
        made.append((at, f"m.{random.choice('abc')}", random.randrange(10)))
    return made


async def played(app: App, events: Timeline, *, restarts: int = 1) -> MemoryLog:
    """The log of an engine that saw *events*, in as many lives."""
    log = MemoryLog()
    each = -(-len(events) // restarts)
    for start in range(0, len(events), each):
        async with opened(app, log, clock="input") as engine:
            for at, subject, data in events[start : start + each]:
                await engine.emit_many([Emission(subject, data, time=T0 + at)])
    return log


def stored(log: MemoryLog) -> dict[int, Any]:
    """All records by sequence."""
    return {
        number: decode(raw)
        for first, batch in log.read()
        for number, raw in enumerate(batch, first)
    }


Said = tuple[Any, ...]


def said(fired: RuleFired, events: dict[int, int]) -> Said:
    """A firing by what does not depend on sequences: its events are counted from 1."""
    places = tuple(events[number] for number in fired.events)
    details = fired.details
    reason = None if details is None else details.reason
    return (fired.rule, thaw(fired.key), places, fired.due_ns, reason, fired.outcome)


def places(log: MemoryLog) -> dict[int, int]:
    """The outside events' sequences, each with its place among them."""
    numbers = [n for n, record in stored(log).items() if type(record) is EventStored]
    return {number: place for place, number in enumerate(numbers, 1)}


def firings(log: MemoryLog) -> Counter[Said]:
    """What an engine has fired."""
    events = places(log)
    return Counter(said(one, events) for one in stored(log).values() if type(one) is RuleFired)


def supposed(log: MemoryLog, found: Supposed) -> Counter[Said]:
    """What a what-if says would have fired: what is recorded, with the differences applied."""
    events = places(log)
    made = firings(log)
    for one in found.differences:
        if one.recorded is not None:
            made[said(one.recorded, events)] -= 1
        if one.derived is not None:
            made[said(one.derived, events)] += 1
    return +made


CHANGES: list[dict[str, Any]] = [
    {},
    {"limit": 5},
    {"limit": 8},
    {"count": 2},
    {"within": 90.0},
    {"quiet": 2.0},
    {"quiet": 11.0},
    {"silence": 9.0},
    {"silence": 33.0},
    {"period": 25.0},
    {"limit": 4, "count": 4, "within": 100.0, "quiet": 3.0, "silence": 30.0, "period": 60.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_it_says_what_an_engine_with_those_rules_has_done(
    change: dict[str, Any], seed: int
) -> None:
    """The only proof of a prediction: let it happen. Every firing, with its events and time."""
    events = timeline(seed)
    recorded = await played(plant(), events, restarts=2)
    happened = await played(plant(**change), events, restarts=2)

    found = whatif(recorded, plant(**change), shown_max=10_000)

    assert supposed(recorded, found) == firings(happened)
    assert found.total.differ == len(found.differences)
    assert found.same is (firings(recorded) == firings(happened))
    for rule, counts in found.rules.items():
        shown = [one for one in found.differences if one.rule == rule]
        assert counts.differ == len(shown)


async def test_nothing_differs_with_the_same_rules() -> None:
    """Then its state is that of the log, too: it has seen all of it as the engine did."""
    log = await played(plant(), timeline(3), restarts=3)
    app = plant()
    reached = WhatIf(Stretch(log=log), app.decider(), shown_max=10)
    found = reached.result()
    kernel = new_kernel(log, app.decider())
    for number, record in stored(log).items():
        kernel.fold(number, record)

    assert found.same
    assert found.total.same == firings(log).total() > 50
    assert reached.state.decider.dump() == kernel.state.decider.dump()
    assert reached.state.runs.dump() == kernel.state.runs.dump()


async def test_a_firing_that_only_comes_at_another_time_has_moved() -> None:
    """A watchdog that waits longer tells of the same silence, not of another one."""
    events = [(0.0, "m.a", 1), (100.0, "m.a", 1)]
    log = await played(plant(silence=20), events)
    found = whatif(log, plant(silence=30))

    assert found.rules["still"].moved == 1
    assert found.rules["still"].differ == 1
    (moved,) = [one for one in found.differences if one.rule == "still"]
    assert moved.recorded is not None
    assert moved.derived is not None
    assert moved.derived.due_ns == (T0 + 30) * 10**9
    assert moved.recorded.due_ns == (T0 + 20) * 10**9
    assert moved.run == "recorded"


async def snapshot_in_the_middle(app: App, events: Timeline) -> tuple[MemoryLog, int]:
    """The log of two lives, with a snapshot between them; and the place of that."""
    log, half = MemoryLog(), len(events) // 2
    async with opened(app, log, clock="input") as engine:
        await engine.emit_many([Emission(s, d, time=T0 + at) for at, s, d in events[:half]])
        place = await engine.snapshot()
    async with opened(app, log, clock="input") as engine:
        await engine.emit_many([Emission(s, d, time=T0 + at) for at, s, d in events[half:]])
    return log, place


async def test_it_can_begin_at_a_snapshot() -> None:
    """With the automata, timers and runs of that; a rule that has changed begins empty there."""
    log, place = await snapshot_in_the_middle(plant(), timeline(6))
    found = whatif(log, plant(), begin_at=place)
    whole = whatif(log, plant())

    assert found.begun_after == place
    assert found.same
    assert 0 < found.total.same < whole.total.same
    assert found.last == whole.last == log.committed_sequence
    assert not replay(log, plant(), begin_at=place).diverged
    changed = whatif(log, plant(silence=33.0), begin_at=place)
    assert set(changed.rules) >= {"still"}
    assert {one.rule for one in changed.differences} == {"still"}


def chain(limit: int, *, seconds: float = 0) -> App:
    """A rule whose run emits what another rule reacts to, and a rule about that run's end."""
    app = App("chain")

    @app.rule(on("m.*", int).where(lambda e: e.data > limit).key(lambda e: e.tokens[1]))
    async def alarm(run: Run, firing: Firing[int]) -> None:
        if seconds:
            await run.sleep(seconds)
        await run.emit(f"fans.{firing.key}", 1)

    @app.rule(on("fans.*", int).key(lambda e: e.tokens[1]))
    async def fan(run: Run, firing: Firing[int]) -> None:
        await run.emit(f"noise.{firing.key}")

    @app.rule(any_of(on("run.completed.fan"), on("noise.*")).count(2, within=1000))
    async def loud(run: Run, firing: Firing[Any]) -> None: ...

    return app


async def test_what_a_run_did_goes_with_it() -> None:
    """Its events, what they led to, and the events about its end; outside events stay."""
    events = [(0.0, "m.a", 7), (10.0, "m.b", 9), (20.0, "end", 0)]
    log = await played(chain(5), events)
    assert firings(log).total() == 6
    found = whatif(log, chain(8))

    what = {(one.rule, one.what, one.run) for one in found.differences}
    assert what == {
        ("alarm", "vanished", "gone"),
        ("fan", "vanished", "gone"),
        ("loud", "vanished", "gone"),
    }
    assert found.total.same == 3
    assert found.runs_gone == 3
    assert found.events_gone == 3  # fans.a, noise.a, run.completed.fan
    fan = next(one for one in found.differences if one.rule == "fan")
    assert fan.why.startswith("event ")
    assert fan.at_ns == T0 * 10**9  # when it was, not when it was given up


async def test_of_a_run_that_was_not_nothing_is_known_and_nothing_is_executed() -> None:
    """It says so, instead of guessing what the task would have done."""
    log = await played(chain(8), [(0.0, "m.a", 7), (10.0, "m.b", 9)])
    found = whatif(log, chain(5))

    (appeared,) = found.differences
    assert (appeared.rule, appeared.key, appeared.what) == ("alarm", "a", "appeared")
    assert appeared.run == "unknown"
    assert found.runs_unknown == 1


async def test_what_a_run_did_comes_later_with_a_firing_that_comes_later() -> None:
    """It stands in for the run that follows: same call, same arguments."""

    def app(quiet: float) -> App:
        made = App("late")

        @made.rule(on("m.*", int).debounce(quiet=quiet))
        async def calm(run: Run, firing: Firing[int]) -> None:
            await run.emit("calm", firing.events[-1].data)

        @made.rule(on("calm", int))
        async def told(run: Run, firing: Firing[int]) -> None: ...

        return made

    events = [(0.0, "m.a", 1), (50.0, "m.a", 2), (100.0, "m.a", 3)]
    log = await played(app(5), events)
    later = whatif(log, app(15))
    earlier = whatif(log, app(2))
    too_late = whatif(log, app(60))

    for found in (later, earlier):
        assert (found.total.moved, found.total.same) == (2, 2)
        assert found.events_gone == 0
    assert too_late.rules["told"].vanished == 2
    assert too_late.events_gone == 2


@pytest.mark.parametrize("mode", ["single", "restart", "latest", "queue"])
async def test_run_modes_are_decided_anew(mode: Any) -> None:
    """What a firing comes to depends on the runs that there are: those of the log stand in."""

    def app(how: Any) -> App:
        made = App("modes")

        @made.rule(on("go", int), mode=how)
        async def work(run: Run, firing: Firing[int]) -> None:
            await run.sleep(10)

        return made

    events = [(0.0, "go", 1), (4.0, "go", 2), (8.0, "go", 3), (100.0, "go", 4)]
    log = await played(app("parallel"), events)
    found = whatif(log, app(mode))
    happened = await played(app(mode), events)

    first = {said(one, places(log)) for one in stored(log).values() if type(one) is RuleFired}
    assert len(first) == 4
    assert supposed(log, found) == firings(happened)
    assert {one.what for one in found.differences} == {"changed"}
    back = whatif(happened, app("parallel"))
    assert supposed(happened, back) == firings(log)


@pytest.mark.slow
async def test_replay_and_whatif_say_the_same_of_a_log_in_any_part() -> None:
    """A stretch ends with a whole unit, so no difference comes of where it was cut."""
    log = await played(plant(), timeline(4, 12), restarts=2)
    for until in range(1, log.committed_sequence + 1):
        replayed = replay(log, plant(), until=until)
        assert not replayed.diverged, until
        assert replayed.last >= until
        assert whatif(log, plant(), until=until).same, until


def first_parting(log: MemoryLog, a: App, b: App) -> int | None:
    """The slow way: the first record after which what was fired, or what rules hold, differs."""
    one, other = (WhatIf(Stretch(log=log), app.decider(), shown_max=0) for app in (a, b))
    names: list[str] | None = None
    for mine, theirs in zip(one.units, other.units, strict=True):
        one.take(mine)
        other.take(theirs)
        states = [side.state.decider.dump() for side in (one, other)]
        if names is None:
            names = [rule for rule in states[0] if states[0][rule] == states[1].get(rule)]
        held = [[state[rule] for rule in names] for state in states]
        if held[0] != held[1] or one.fired_digest() != other.fired_digest():
            return mine[0]
    return None


@pytest.mark.parametrize("change", CHANGES[1:], ids=str)
async def test_bisect_finds_where_two_apps_part(change: dict[str, Any]) -> None:
    """The very record, whatever the steps were that led to it."""
    log = await played(plant(), timeline(5, 60), restarts=2)
    found = bisect(log, plant(), plant(**change))

    assert found.at == first_parting(log, plant(), plant(**change))
    assert found.at is not None
    assert found.rules
    assert bisect(log, plant(**change), plant()).at == found.at
    if found.at > 1:
        assert bisect(log, plant(), plant(**change), until=found.at - 1).at is None


async def test_bisect_of_the_same_rules_finds_nothing() -> None:
    """And says how far it has looked."""
    log = await played(plant(), timeline(5), restarts=2)
    found = bisect(log, plant(), plant())

    assert found.at is None
    assert found.last == log.committed_sequence


async def test_bisect_shows_what_each_fires() -> None:
    """Not only that something differs, but what."""
    log = await played(plant(), [(0.0, "m.a", 5), (1.0, "m.a", 7)])
    found = bisect(log, plant(limit=6), plant(limit=4))
    events = [number for number, one in stored(log).items() if type(one) is EventStored]

    assert found.at == events[0]
    assert [fired.rule for fired in found.fired[0]] == []
    assert [fired.rule for fired in found.fired[1]] == ["high"]
    assert "high" in found.rules


def worth(fold: Callable[[Sequence[Event[int]]], int]) -> App:
    """A rule that fires by three events, with what *fold* makes of them."""
    app = App("worth")

    @app.rule(on("w").count(3, within=100).aggregate(fold))
    async def three(run: Run, firing: Firing[int]) -> None: ...

    return app


async def test_bisect_sees_what_firings_are_worth() -> None:
    """Two apps fire on the same events and make other values of them: there they part."""
    timeline_ = [(float(t), "w", t) for t in range(4)]
    log = await played(worth(lambda events: sum(e.data for e in events)), timeline_)
    most, least = (
        worth(lambda es: max(e.data for e in es)),
        worth(lambda es: min(e.data for e in es)),
    )
    found = bisect(log, most, least)
    events = [number for number, one in stored(log).items() if type(one) is EventStored]

    assert found.at == events[2]
    assert found.rules == ["three"]
    values = [[fired.details.value for fired in side if fired.details] for side in found.fired]
    assert values == [[2], [0]]


class Busy(Exception):
    """What the flaky service answers."""


def flaky(retry: Any, *, succeeds_at: int = 3, deadline: float | None = None) -> App:
    """A rule whose run calls a service that answers at the third attempt."""
    app = App("flaky")

    @app.task(retry=retry, deadline=deadline)
    async def ask(run: Run) -> str:
        if run.attempt < succeeds_at:
            raise Busy(f"attempt {run.attempt}")
        return "done"

    @app.rule(on("go"))
    async def start(run: Run, firing: Firing[None]) -> None:
        await run.launch(ask)

    @app.rule(on("run.failed.ask"))
    async def page(run: Run, firing: Firing[Any]) -> None: ...

    @app.rule(on("run.completed.ask"))
    async def note(run: Run, firing: Firing[Any]) -> None: ...

    return app


async def flaky_log(app: App) -> MemoryLog:
    return await played(app, [(0.0, "go", 0), (500.0, "end", 0)])


async def test_retries_are_seen_as_the_policy_of_today_does() -> None:
    """The log tells of each attempt, so a policy can be tried on it as a rule is."""
    log = await flaky_log(flaky(Retry(attempts=5, on=Busy)))
    assert firings(log)[("note", None, (2,), None, None, "run")] == 1

    assert whatif(log, flaky(Retry(attempts=5, on=Busy))).same
    assert whatif(log, flaky(Retry(attempts=3, on=Busy))).same
    fewer = whatif(log, flaky(Retry(attempts=2, on=Busy)))
    what = {(one.rule, one.what): one for one in fewer.differences}
    assert set(what) == {("ask", "changed"), ("page", "appeared"), ("note", "vanished")}
    assert what["ask", "changed"].why == "it would be given up after attempt 2"
    none = whatif(log, flaky(None))
    assert "after attempt 1" in next(one.why for one in none.differences if one.rule == "ask")
    other = whatif(log, flaky(Retry(attempts=5, on=OSError)))
    assert "after attempt 1" in next(one.why for one in other.differences if one.rule == "ask")


async def test_a_wait_that_would_be_another_is_told_and_changes_nothing_else() -> None:
    """The attempts stand in at the times that they had."""
    log = await flaky_log(flaky(Retry(attempts=5, wait_first=4, jitter=0, on=Busy)))
    found = whatif(log, flaky(Retry(attempts=5, wait_first=1, jitter=0, on=Busy)))

    assert [one.why for one in found.differences] == [
        "attempt 2 would begin 1 s after the failure, not 4 s",
        "attempt 3 would begin 2 s after the failure, not 8 s",
    ]
    assert {one.run for one in found.differences} == {"recorded"}


async def test_of_an_attempt_that_was_not_made_nothing_is_known() -> None:
    """With more attempts it might have gone well, or not."""
    log = await flaky_log(flaky(Retry(attempts=2, on=Busy)))
    found = whatif(log, flaky(Retry(attempts=4, on=Busy)))
    what = {(one.rule, one.what, one.run) for one in found.differences}

    assert what == {("ask", "changed", "unknown"), ("page", "vanished", "gone")}
    assert "attempt 3 would follow" in next(one.why for one in found.differences)


async def test_a_longer_wait_may_come_too_late_for_the_deadline() -> None:
    """Then no attempt would follow, though the policy has some left."""
    short = Retry(attempts=5, wait_first=4, jitter=0, on=Busy)
    log = await flaky_log(flaky(short, deadline=60))
    found = whatif(
        log, flaky(Retry(attempts=5, wait_first=90, wait_max=90, jitter=0, on=Busy), deadline=60)
    )
    what = {(one.rule, one.what): one.why for one in found.differences}

    assert whatif(log, flaky(short, deadline=60)).same
    assert what["ask", "changed"] == "it would be given up after attempt 1"
    assert ("page", "appeared") in what


def asking(limit: int, *, quiet: float = 0.5, name: str = "answer") -> App:
    """A rule whose run waits for the answer that the run of another gives above *limit*."""
    app = App("asking")

    @app.rule(on("m.a", int))
    async def ask(run: Run, firing: Firing[int]) -> None:
        await run.wait(on("answer"), timeout=100)
        await run.emit("asked", None)

    high = on("m.b", int).where(lambda e: e.data > limit)

    @app.rule(high.debounce(quiet=quiet), name=name)
    async def answer(run: Run, firing: Firing[int]) -> None:
        await run.emit("answer", None)

    @app.rule(on("asked"))
    async def after(run: Run, firing: Firing[Any]) -> None: ...

    return app


@pytest.mark.parametrize("other", [{"limit": 9}, {"limit": 5, "name": "reply"}], ids=str)
async def test_of_a_run_that_waited_for_what_would_not_be_nothing_is_known(
    other: dict[str, Any],
) -> None:
    """Its wait would have gone on, and what it did then is not in the log."""
    log = await played(asking(5), [(0.0, "m.a", 1), (1.0, "m.b", 9), (200.0, "end", 0)])
    (emitted,) = [
        number for number, one in stored(log).items() if getattr(one, "subject", "") == "answer"
    ]
    found = whatif(log, asking(**other))
    what = {(one.rule, one.what, one.run): one.why for one in found.differences}

    why = f"it waited for event {emitted}, which would not be there"
    assert what["ask", "changed", "unknown"] == why
    assert ("answer", "vanished", "gone") in what
    assert ("after", "vanished", "gone") in what
    assert found.events_gone == 2


async def test_a_wait_ends_later_with_what_comes_later() -> None:
    """The run waits on as long as the answer is not there, and then does what it did."""
    log = await played(asking(5), [(0.0, "m.a", 1), (1.0, "m.b", 9), (200.0, "end", 0)])
    found = whatif(log, asking(5, quiet=7))

    assert whatif(log, asking(5)).same
    assert [(one.rule, one.what, one.run) for one in found.differences] == [
        ("answer", "moved", "recorded")
    ]
    assert (found.events_gone, found.rules["after"].same) == (0, 1)
