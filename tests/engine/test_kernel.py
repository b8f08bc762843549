"""Units, timers, downtimes and bounds, as the kernel decides them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.reference.shell import (
    Shell,
    check,
    effects,
    ns,
    raw,
    rules,
    statuses,
)

from headrace import on, silent
from headrace.engine import record as r
from headrace.engine.decider import NoRules
from headrace.engine.kernel import Kernel
from headrace.engine.state import Effect
from headrace.triggers.nodes_clock import EveryNode
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

a, b = on("a"), on("b")


def every(seconds: float) -> Pattern[Any]:
    return Pattern(EveryNode(ns(seconds)))


# ---------------------------------------------------------------- units


def test_an_event_and_what_follows_from_it_are_one_unit() -> None:
    """L7: after a crash the event is there with its firings, or nothing of it."""
    shell = Shell(rules(a, b, a)).start(ns(1))
    shell.emit(ns(2), "a")

    kinds = [type(r.decode(stored)) for stored in shell.units[-1]]
    assert kinds == [r.EventStored, r.RuleFired, r.RuleFired]
    check(shell)


def test_rules_fire_in_the_order_of_their_declaration() -> None:
    """L5: several rules may fire on one event, in the order in which they were registered."""
    named = [Rule(name, a, "parallel") for name in ("zebra", "ant", "mole")]
    shell = Shell(rules(*named)).start(ns(1))
    shell.emit(ns(2), "a")

    assert [rule for rule, _, _ in shell.fired()] == ["zebra", "ant", "mole"]
    check(shell)


def test_a_firing_is_the_id_of_its_run() -> None:
    """The sequence of the decision names the run, so no number has to be drawn."""
    shell = Shell(rules(a)).start(ns(1))
    event = shell.emit(ns(2), "a")

    assert list(shell.kernel.state.runs.active) == [event + 1]
    assert effects(shell) == [("start", event + 1)]


def test_an_event_that_nobody_wants_is_kept() -> None:
    """Rules that are written tomorrow may want it."""
    shell = Shell(rules(a)).start(ns(1))
    shell.emit(ns(2), "c", {"x": 1})

    assert [e.subject for e in shell.of_kind(r.EventStored)] == ["c"]
    assert (shell.kernel.state.events, shell.fired()) == (1, [])


def test_no_rule_takes_part_before_the_first_start() -> None:
    """What is in force is what a start has recorded, nothing else."""
    shell = Shell(rules(a, every(1)))
    shell.emit(ns(2), "a")

    assert shell.fired() == []
    assert shell.kernel.due_timer(ns(100)) is None


# ---------------------------------------------------------------- timers first (L3)


def test_timers_fire_in_the_order_of_due_time_then_arming() -> None:
    """Whatever the rules are called, and in whatever order they are declared."""
    named = [
        Rule("z", silent(on("z"), for_=4), "parallel"),
        Rule("y", silent(on("y"), for_=3), "parallel"),
        Rule("x", silent(on("x"), for_=2), "parallel"),
    ]
    shell = Shell(rules(*named)).start(ns(0))
    for at_s, subject in [(1, "y"), (2, "x"), (2, "z"), (2, "x")]:
        shell.emit(ns(at_s), subject)
    shell.emit(ns(50), "other")

    fired = [(f.rule, f.due_ns) for f in shell.of_kind(r.RuleFired)]
    assert fired == [("y", ns(4)), ("x", ns(4)), ("z", ns(6))]
    check(shell)


def test_a_timer_at_the_time_of_an_event_goes_first() -> None:
    """The event at the due time comes too late to keep the watchdog quiet."""
    shell = Shell(rules(silent(a, for_=5))).start(ns(0))
    shell.emit(ns(1), "a")
    shell.emit(ns(6), "a")

    kinds = [type(r.decode(unit[0])) for unit in shell.units]
    assert kinds == [r.EngineStarted, r.EventStored, r.TimerFired, r.EventStored]
    (fired,) = shell.of_kind(r.TimerFired)
    assert (fired.at_ns, fired.due_ns) == (ns(6), ns(6))
    check(shell)


def test_a_late_timer_carries_the_time_that_it_was_due() -> None:
    """A firing's time for later stages is its due time, not when somebody looked."""
    pattern = silent(silent(a, for_=2), for_=3)
    shell = Shell(rules(pattern, silent(a, for_=4))).start(ns(0))
    shell.emit(ns(1), "a")
    shell.emit(ns(100), "b")

    assert [(f.rule, f.due_ns) for f in shell.of_kind(r.RuleFired)] == [
        ("r2", ns(5)),
        ("r1", ns(6)),
    ]
    assert {f.at_ns for f in shell.of_kind(r.TimerFired)} == {ns(100)}
    check(shell)


def test_a_run_s_timers_go_by_the_same_order() -> None:
    """Sleeps and retries are timers like any others."""
    shell = Shell(rules(a, silent(a, for_=5))).start(ns(0))
    shell.emit(ns(1), "a")
    (run,) = statuses(shell)
    shell.put(r.SleepRequested(ns(1), run, 1, ns(6)))
    shell.put(r.AttemptFailed(ns(2), run, 1, "OSError", "", ns(6), []))
    shell.tick(ns(10))

    owners = [(f.owner, f.slot, f.key) for f in shell.of_kind(r.TimerFired)]
    assert owners == [("r2", 0, None), ("", run, 1), ("", run, 0)]
    check(shell)


# ---------------------------------------------------------------- after downtime

DOWNTIMES = [
    # started at, due times that are recorded up to 40, and how many others each stands for
    (14, [(10, 0), (20, 0), (30, 0), (40, 0)]),
    (20, [(10, 0), (20, 0), (30, 0), (40, 0)]),
    (21, [(10, 1), (30, 0), (40, 0)]),
    (35, [(10, 2), (40, 0)]),
    (9, [(10, 0), (20, 0), (30, 0), (40, 0)]),
    (10, [(10, 0), (20, 0), (30, 0), (40, 0)]),
]


@pytest.mark.parametrize(("started_s", "expected"), DOWNTIMES)
@pytest.mark.parametrize("kind", ["every", "silent"])
def test_of_the_firings_in_a_downtime_one_happens(
    kind: str, started_s: int, expected: list[tuple[int, int]]
) -> None:
    """A repeating timer that was due before the start fires once with `missed`, on its grid."""
    pattern = every(10) if kind == "every" else silent(a, for_=10, repeat="every")
    before = Shell(rules(pattern)).start(ns(0))
    before.emit(ns(0), "a")
    shell = before.crashed().start(ns(started_s))
    shell.tick(ns(40))

    fired = [(f.due_ns // ns(1), f.missed) for f in shell.of_kind(r.TimerFired)]
    assert fired == expected
    runs = shell.kernel.state.runs.active.values()
    assert [(run.due_ns, run.missed) for run in runs] == [(ns(d), m) for d, m in expected]
    check(shell)


def test_a_timer_that_does_not_repeat_fires_after_the_downtime() -> None:
    """It is late, and says for when it was scheduled; nothing is missed."""
    before = Shell(rules(silent(a, for_=10))).start(ns(0))
    before.emit(ns(0), "a")
    shell = before.crashed().start(ns(1000))

    (fired,) = shell.of_kind(r.TimerFired)
    assert (fired.at_ns, fired.due_ns, fired.missed) == (ns(1000), ns(10), 0)
    check(shell)


def test_a_slow_engine_misses_no_beat() -> None:
    """Only a downtime is summed up: what is late for other reasons still fires each time."""
    shell = Shell(rules(every(10))).start(ns(0))
    shell.emit(ns(45), "a")

    assert [f.due_ns // ns(1) for f in shell.of_kind(r.TimerFired)] == [10, 20, 30, 40]
    check(shell)


def test_overdue_timers_fire_before_the_first_new_event() -> None:
    """A sensor that comes back after the downtime does not hide that it was silent."""
    before = Shell(rules(silent(a, for_=10))).start(ns(0))
    before.emit(ns(0), "a")
    shell = before.crashed().start(ns(1000))
    shell.emit(ns(1000), "a")

    kinds = [type(r.decode(unit[0])) for unit in shell.units[-3:]]
    assert kinds == [r.EngineStarted, r.TimerFired, r.EventStored]
    check(shell)


@pytest.mark.parametrize("restarts", [1, 2, 7])
def test_the_grid_outlives_any_number_of_restarts(restarts: int) -> None:
    """A schedule does not drift because the process was restarted."""
    shell = Shell(rules(every(10))).start(ns(0))
    for number in range(1, restarts + 1):
        shell = shell.crashed().start(ns(13 * number))
    shell.tick(ns(13 * restarts + 10))

    dues = [f.due_ns // ns(1) for f in shell.of_kind(r.TimerFired)]
    assert all(due % 10 == 0 for due in dues)
    assert dues[-1] == (13 * restarts + 10) // 10 * 10
    check(shell)


# ---------------------------------------------------------------- the bounds of L6


def test_the_key_that_was_unheard_of_for_longest_is_evicted() -> None:
    """A count over more keys than fit forgets the oldest, and says so."""
    pattern = a.key(lambda e: e.data, keys_max=3).count(3, within=100)
    shell = Shell(rules(pattern)).start(ns(0))
    for at_s, key in enumerate(["w", "x", "y", "w", "z", "v", "w", "x"], 1):
        shell.emit(ns(at_s), "a", key)

    # "x" and "y" made room, although "w" was there before them: it was heard of since.
    # At 7 it fired and held nothing any more.
    assert [(e.rule, e.key, e.what) for e in shell.of_kind(r.RuleEvicted)] == [
        ("r1", "x", "key"),
        ("r1", "y", "key"),
    ]
    assert [key for _, key, _ in shell.fired()] == ["w"]
    assert shell.stats("r1")["evicted"] == 2
    assert shell.kernel.state.decider.counters()["r1"]["keys"] == 3
    check(shell)


def test_a_key_without_state_is_not_evicted_but_gone() -> None:
    """Keys whose window is empty make room without a record: nothing is lost with them."""
    keyed = a.key(lambda e: e.data, keys_max=3)
    shell = Shell(rules(keyed.count(2, within=10, mode="edge"))).start(ns(0))
    for at_s in range(1, 200):
        shell.emit(ns(5 * at_s), "a", f"k{at_s}")

    assert shell.of_kind(r.RuleEvicted) == []
    assert shell.kernel.state.decider.counters()["r1"]["keys"] == 2
    check(shell)


def test_a_window_that_is_too_full_forgets_its_oldest_event() -> None:
    """Memory by key is bounded; the firing has the latest events, and says what was lost."""
    pattern = a.count(2, within=100, mode="every", partials_max=3)
    shell = Shell(rules(pattern)).start(ns(0))
    events = [shell.emit(ns(at_s), "a") for at_s in range(1, 6)]

    assert [(e.key, e.what) for e in shell.of_kind(r.RuleEvicted)] == [(None, "event")] * 2
    last = shell.fired()[-1]
    assert len(last[2]) == 3
    assert set(last[2]) <= {*events, *range(shell.kernel.sequence)}
    check(shell)


def test_an_evicted_watchdog_does_not_bark() -> None:
    """Its timer goes with it; the eviction is what is recorded instead."""
    keyed = a.key(lambda e: e.data, keys_max=2)
    shell = Shell(rules(silent(keyed, for_=10))).start(ns(0))
    for at_s, key in enumerate(["x", "y", "x", "z"], 1):
        shell.emit(ns(at_s), "a", key)
    shell.tick(ns(100))

    assert [e.key for e in shell.of_kind(r.RuleEvicted)] == ["y"]
    assert [
        (key, f.due_ns)
        for (_, key, _), f in zip(shell.fired(), shell.of_kind(r.RuleFired), strict=True)
    ] == [("x", ns(13)), ("z", ns(14))]
    assert len(shell.kernel.state.timers) == 0
    check(shell)


def test_automata_without_state_are_deleted() -> None:
    """What has fired or been answered leaves nothing behind."""
    shell = Shell(
        rules(a.key(lambda e: e.data).count(2, within=9), silent(a.key(lambda e: e.data), for_=5))
    ).start(ns(0))
    for number in range(20):
        for _ in range(2):
            shell.emit(ns(number), "a", number)
    shell.tick(ns(100))

    assert {name: c["keys"] for name, c in shell.kernel.state.decider.counters().items()} == {
        "r1": 0,
        "r2": 0,
    }
    check(shell)


# ---------------------------------------------------------------- without an app


def test_a_log_can_be_folded_without_its_app() -> None:
    """Recorded decisions hold: runs and counts are there, and nothing is derived."""
    shell = Shell(rules(a, silent(a, for_=5), Rule("s", a, "restart"))).start(ns(0))
    for at_s in (1, 2, 9):
        shell.emit(ns(at_s), "a", id=f"e{at_s}")
    shell.put(r.RunCompleted(ns(9), next(iter(statuses(shell))), raw(1)))
    shell.tick(ns(50))

    kernel = Kernel(NoRules())
    for sequence, stored in enumerate(shell.records, 1):
        kernel.fold(sequence, r.decode(stored))
    kernel.finish_fold()
    bare, whole = kernel.state, shell.kernel.state
    assert kernel.divergences == []
    assert bare.runs.dump() == whole.runs.dump()
    assert (bare.stats, bare.events, bare.at_ns) == (whole.stats, whole.events, whole.at_ns)
    assert bare.dedupe.dump() == whole.dedupe.dump()
    assert bare.active == set()


def test_records_of_the_future_do_not_stop_a_fold() -> None:
    """A newer headrace's records between ours are counted and passed over."""
    shell = Shell(rules(a)).start(ns(0))
    shell.emit(ns(1), "a")
    newer = [b"\x93\x2f\x01\x02", b"\x92\x64\x01"]  # an input of kind 47, a decision of kind 100
    records = [*shell.records, *newer]
    kernel = Kernel(shell.make_rules())
    for sequence, stored in enumerate(records, 1):
        kernel.fold(sequence, r.decode(stored))
    kernel.finish_fold()

    assert (kernel.sequence, kernel.unknown, kernel.divergences) == (len(records), 2, [])
    later = Shell(shell.make_rules, [*shell.units, newer]).start(ns(5))
    later.emit(ns(6), "a")
    assert [events for _, _, events in later.fired()] == [[later.kernel.sequence - 1]]
    check(later)


def test_effects_name_what_to_do_once() -> None:
    """What the shell takes is gone; a fold collects the same for whoever wants it."""
    shell = Shell(rules(a)).start(ns(0))
    shell.emit(ns(1), "a")
    folded = shell.refold().state.effects

    assert folded == shell.kernel.state.effects == [Effect("start", 3)]
