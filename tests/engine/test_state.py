"""Rules that have changed since, and rules that say something else than they did (law L8)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from tests.reference.shell import MakeRules, Shell, fold, ns, raw, rules

from headrace import any_of, on, silent
from headrace.engine import record as r
from headrace.engine.decider import RunMode
from headrace.engine.kernel import Kernel
from headrace.triggers import ruleset
from headrace.triggers.nodes_clock import EveryNode
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

a, b = on("a"), on("b")
BEAT: Pattern[Any] = Pattern(EveryNode(ns(7)))

OUTSIDE: dict[str, Any] = {}
"""What an impure condition reads: nothing that the log or the fingerprint knows of."""


def named(**patterns: Pattern[Any]) -> MakeRules:
    return rules(*(Rule(name, pattern, "parallel") for name, pattern in patterns.items()))


def fired_by(shell: Shell) -> list[str]:
    return [rule for rule, _, _ in shell.fired()]


def check(shell: Shell) -> None:
    """The bytes say all that the kernel knows, and nothing that was written is doubted."""
    folded = shell.refold()
    assert folded.dump() == shell.kernel.dump()


# ---------------------------------------------------------------- rules that were changed


def test_an_unchanged_rule_keeps_its_state_and_a_changed_one_starts_empty() -> None:
    """Editing one rule does not cost another its window."""
    before = Shell(named(same=a.count(2, within=100), edited=a.count(2, within=100))).start(ns(1))
    before.emit(ns(2), "a")
    make = named(same=a.count(2, within=100), edited=a.count(2, within=99))
    shell = Shell(make, before.units)
    assert shell.kernel.changed == [(1, "edited")]
    assert shell.kernel.state.active == {"same"}

    shell.start(ns(3))
    shell.emit(ns(4), "a")
    assert fired_by(shell) == ["same"]
    assert shell.kernel.divergences == []
    shell.emit(ns(5), "a")
    assert fired_by(shell) == ["same", "edited"]
    check(shell)
    assert shell.refold().divergences == []


def test_a_change_and_its_reversal_start_empty_twice() -> None:
    """What a rule saw before it was another one does not come back."""
    keyed = a.key(lambda e: e.data)
    first, second = named(r=keyed.count(2, within=100)), named(r=keyed.count(3, within=100))
    shell = Shell(first).start(ns(1))
    shell.emit(ns(2), "a", "k")
    shell.emit(ns(2), "a", None)
    shell = Shell(second, shell.units).start(ns(3))
    shell = Shell(first, shell.units).start(ns(4))
    assert shell.kernel.state.decider.counters()["r"] == {"keys": 0}
    shell.emit(ns(5), "a", "k")
    assert fired_by(shell) == []
    shell.emit(ns(6), "a", "k")

    assert fired_by(shell) == ["r"]
    check(shell)
    assert shell.refold().divergences == []


def test_a_rule_that_was_removed_leaves_its_runs_and_nothing_else() -> None:
    """Its timers do not fire any more; what it has started is still there to be finished."""
    before = Shell(named(quiet=silent(a, for_=5, repeat="every"), work=a, beat=BEAT)).start(ns(0))
    before.emit(ns(1), "a")
    before.tick(ns(8))
    shell = Shell(named(other=b), before.units).start(ns(9))
    assert shell.kernel.changed == [(1, rule) for rule in ("beat", "quiet", "work")]
    shell.tick(ns(1000))

    assert len(shell.kernel.state.timers) == 0
    assert fired_by(shell) == []
    assert {run.rule for run in shell.kernel.state.runs.active.values()} == {
        "quiet",
        "work",
        "beat",
    }
    assert shell.kernel.divergences == []
    check(shell)


def test_a_rule_that_is_new_begins_with_its_first_start() -> None:
    """It does not see what was before, and its schedule begins then."""
    shell = Shell(named(old=a)).start(ns(0))
    shell.emit(ns(1), "a")
    make = named(old=a, late=a.count(1, within=50), beat=BEAT, quiet=silent(a, for_=3, expect=[1]))
    shell = Shell(make, shell.units).start(ns(10))
    shell.tick(ns(20))

    assert [(f.rule, f.due_ns) for f in shell.made if isinstance(f, r.RuleFired)] == [
        ("quiet", ns(13)),
        ("beat", ns(17)),
    ]
    check(shell)
    assert shell.refold().divergences == []


def test_the_order_of_declaration_is_no_difference() -> None:
    """Moving a rule up in the file changes neither the past nor any rule's state."""
    patterns: dict[str, Pattern[Any]] = {
        "one": a,
        "two": silent(a, for_=5),
        "three": silent(a, for_=5, repeat="every"),
        "four": a.count(2, within=9),
        "five": BEAT,
    }
    shell = Shell(named(**patterns)).start(ns(0))
    for at_s in (1, 2, 9):
        shell.emit(ns(at_s), "a")
    backwards = named(**dict(reversed(patterns.items())))
    folded = fold(backwards, shell.records)

    assert folded.divergences == []
    assert folded.changed == []
    assert folded.state.runs.dump() == shell.kernel.state.runs.dump()
    again = Shell(backwards, shell.units).start(ns(9))
    again.emit(ns(10), "a")
    assert again.refold().divergences == []
    check(again)


def test_a_changed_mode_is_a_changed_rule() -> None:
    """Recorded outcomes hold, whatever they would be today."""
    shell = Shell(rules(Rule("r", a, "single"))).start(ns(0))
    shell.emit(ns(1), "a")
    shell.emit(ns(1), "a")
    folded = fold(rules(Rule("r", a, "parallel")), shell.records)

    assert (folded.divergences, folded.changed) == ([], [(1, "r")])
    assert len(folded.state.runs.active) == 1
    assert folded.state.stats["r"].dropped == 1


@pytest.mark.parametrize("mode", ["parallel", "single", "restart"])
def test_recorded_decisions_of_rules_that_are_gone_hold(mode: RunMode) -> None:
    """Replay without the rule gives the run table of the day, to the byte."""
    shell = Shell(rules(Rule("r", a, mode), Rule("s", silent(a, for_=2), mode))).start(ns(0))
    for at_s in (1, 1, 2, 9):
        shell.emit(ns(at_s), "a")
    for run in list(shell.kernel.state.runs.active.values()):
        if run.cancelling:
            shell.put(r.RunCancelled(shell.at_ns, run.id, run.cancelling))
    folded = fold(rules(), shell.records)

    assert folded.divergences == []
    assert msgspec.msgpack.encode(folded.state.runs.dump()) == msgspec.msgpack.encode(
        shell.kernel.state.runs.dump()
    )
    assert folded.state.stats == shell.kernel.state.stats


# ---------------------------------------------------------------- rules that are impure


def outside(event: Any) -> bool:
    return bool(OUTSIDE["open"])


def outside_key(event: Any) -> str:
    return str(OUTSIDE["open"])


def outside_error(event: Any) -> bool:
    if OUTSIDE["open"]:
        raise ValueError("a bad day")
    return False


IMPURE: dict[str, tuple[Pattern[Any], str, str]] = {
    # the pattern, and the beginnings of what was recorded and derived when `open` changes
    "fires no more": (a.where(outside), "rule.fired(", "nothing"),
    "another key": (
        a.key(outside_key),
        "rule.fired(rule='r', key='True'",
        "rule.fired(rule='r', key='False'",
    ),
    "raises no more": (a.where(outside_error), "rule.error(", "nothing"),
    "counts less": (a.where(outside).count(2, within=50), "rule.fired(", "nothing"),
    "has no timer": (silent(a.where(outside), for_=3), "timer due at 5", "no timer"),
    "has another key's timer": (silent(a.key(outside_key), for_=3), "timer due at 5", "no timer"),
    "has a silent timer": (
        silent(a.where(outside), for_=3).count(9, within=50),
        "timer due at 5",
        "no timer",
    ),
    "has fewer branches": (any_of(a, a.where(outside)), "rule.fired(", "rule.fired("),
}


def timers_of_others(kernel: Kernel) -> list[Any]:
    """All timers but those of ``r``, without their number of arming."""
    return [timer[:4] for timer in kernel.state.timers.dump()[1] if timer[0] != "r"]


def lived_through(pattern: Pattern[Any], *, was_open: bool) -> Shell:
    """A shell in which the impure rule ``r`` lived between two pure ones."""
    OUTSIDE["open"] = was_open
    shell = Shell(named(first=a, r=pattern, last=silent(a, for_=3))).start(ns(0))
    for at_s in (1, 2, 10, 11, 20):
        shell.emit(ns(at_s), "a", at_s)
    assert shell.refold().divergences == [], "as long as nothing outside changes"
    return shell


@pytest.mark.parametrize("name", IMPURE)
@pytest.mark.parametrize("was_open", [True, False], ids=["opened", "closed"])
def test_an_impure_rule_diverges_once_and_harms_nobody(name: str, was_open: bool) -> None:
    """The recorded decisions hold, the rule is set aside, and all others go on as they were."""
    pattern, recorded, derived = IMPURE[name]
    shell = lived_through(pattern, was_open=was_open)
    OUTSIDE["open"] = not was_open
    folded = fold(shell.make_rules, shell.records)

    (met,) = folded.divergences
    assert met.rule == "r"
    assert folded.diverged == {"r": met}
    if was_open:
        assert (met.recorded[: len(recorded)], met.derived[: len(derived)]) == (recorded, derived)
    assert folded.state.active == {"first", "last"}
    assert folded.state.runs.dump() == shell.kernel.state.runs.dump()
    assert folded.state.stats == shell.kernel.state.stats
    assert timers_of_others(folded) == timers_of_others(shell.kernel)


@pytest.mark.parametrize("name", IMPURE)
@pytest.mark.parametrize("was_open", [True, False], ids=["opened", "closed"])
def test_after_the_divergence_is_recorded_the_rule_begins_empty(name: str, was_open: bool) -> None:
    """It takes part again, and later starts do not complain of the same place."""
    pattern, _, _ = IMPURE[name]
    before = lived_through(pattern, was_open=was_open)
    OUTSIDE["open"] = not was_open
    shell = before.crashed().start(ns(20))

    (recorded,) = shell.of_kind(r.RuleDiverged)
    assert recorded.rule == "r"
    assert shell.kernel.state.active == {"first", "r", "last"}
    assert shell.kernel.state.decider.counters()["r"]["keys"] == 0
    for at_s in (21, 22, 30):
        shell.emit(ns(at_s), "a", at_s)
    check(shell)

    again = shell.crashed()
    assert len(again.kernel.divergences) == 1, "the place in the past is still there"
    assert again.kernel.diverged == {}, "and is not news"
    assert again.kernel.dump() == shell.kernel.dump()
    again.start(ns(31))
    assert len(again.of_kind(r.RuleDiverged)) == 1


def test_a_divergence_leaves_overdue_timers_of_others_alone() -> None:
    """What is recorded about one rule at the start comes after the timers of all others (L3)."""
    before = lived_through(a.where(outside), was_open=True)
    OUTSIDE["open"] = False
    shell = before.crashed().start(ns(1000))

    kinds = [type(made) for made in shell.made if not isinstance(made, r.DECISION_KINDS)]
    assert kinds == [r.EngineStarted, r.TimerFired, r.RuleDiverged]
    assert [d.rule for d in shell.refold().divergences] == ["r"]
    check(shell)


def test_each_impure_rule_diverges_by_itself() -> None:
    """Two rules that read the same outside are two findings, each with its first place."""
    OUTSIDE["open"] = True
    shell = Shell(named(r=a.where(outside), s=b.where(outside), t=a)).start(ns(0))
    for at_s, subject in enumerate(["b", "a", "b", "a"], 1):
        shell.emit(ns(at_s), subject)
    OUTSIDE["open"] = False
    folded = fold(shell.make_rules, shell.records)

    assert [(d.rule, d.sequence) for d in folded.divergences] == [("s", 3), ("r", 5)]
    assert folded.divergences[0].recorded.startswith("rule.fired(rule='s'")
    assert folded.divergences[0].derived == "nothing"


@pytest.mark.parametrize("mode", ["single", "restart"])
def test_an_impure_rule_keeps_its_recorded_outcomes(mode: RunMode) -> None:
    """Runs that the log says were restarted or dropped were, whatever is derived today."""
    OUTSIDE["open"] = True
    shell = Shell(rules(Rule("r", a.where(outside), mode))).start(ns(0))
    for at_s in (1, 1, 1):
        shell.emit(ns(at_s), "a")
    run = next(iter(shell.kernel.state.runs.active))
    shell.put(r.RunCancelled(ns(2), run, "x"))
    OUTSIDE["open"] = False
    folded = fold(shell.make_rules, shell.records)

    assert [d.rule for d in folded.divergences] == ["r"]
    assert folded.state.runs.dump() == shell.kernel.state.runs.dump()


def test_a_divergence_in_the_last_unit_is_found() -> None:
    """A decision that the log lacks at its very end is noticed when the fold is finished."""
    OUTSIDE["open"] = False
    shell = Shell(named(r=a.where(outside))).start(ns(0))
    shell.emit(ns(1), "a")
    OUTSIDE["open"] = True

    (met,) = fold(shell.make_rules, shell.records).divergences
    assert (met.rule, met.sequence, met.recorded) == ("r", 2, "nothing")
    assert met.derived.startswith("rule.fired(rule='r'")


def test_the_text_of_an_error_is_no_divergence() -> None:
    """Messages name addresses and versions; that a condition failed is what counts."""
    OUTSIDE["open"] = True

    def failing(event: Any) -> bool:
        raise ValueError(OUTSIDE["text"])

    OUTSIDE["text"] = "at 0x7f00"
    shell = Shell(named(r=a.where(failing))).start(ns(0))
    shell.emit(ns(1), "a")
    OUTSIDE["text"] = "at 0x1234"
    folded = fold(shell.make_rules, shell.records)

    assert folded.divergences == []
    assert folded.dump() == shell.kernel.dump()


def test_a_timer_that_the_log_lacks_is_a_divergence() -> None:
    """A log in which a watchdog should have barked and did not was not written by these rules."""
    shell = Shell(named(quiet=silent(a, for_=5))).start(ns(0))
    shell.emit(ns(1), "a")
    shell.put(r.EventStored(ns(50), "b", raw(1)))  # no tick: the timer was not fired

    (met,) = shell.refold().divergences
    assert (met.rule, met.sequence, met.recorded) == ("quiet", 3, "no timer")


# ---------------------------------------------------------------- the fold itself


def test_a_fold_takes_each_sequence_once_and_in_order() -> None:
    """Reading a log from the wrong place is a bug of the reader, and shows at once."""
    shell = Shell(named(r=a)).start(ns(0))
    kernel = Kernel(shell.make_rules())
    kernel.fold(1, r.decode(shell.records[0]))

    for sequence in (1, 3):
        with pytest.raises(AssertionError):
            kernel.fold(sequence, r.decode(shell.records[0]))


def test_counters_are_rebuilt_by_the_fold() -> None:
    """What `state` shows after a restart is what it showed before."""
    shell = Shell(
        named(
            keyed=a.key(lambda e: e.data).count(3, within=50),
            failing=a.where(lambda e: e.data > 1),
            typed=on("a", int),
            quiet=silent(a.key(lambda e: e.data), for_=30, expect=["x"]),
        )
    ).start(ns(0))
    arrived: list[Any] = [None, 1, "x", 2, None, [], "x"]
    for at_s, data in enumerate(arrived, 1):
        shell.emit(ns(at_s), "a", data, id=f"e{at_s}", position=at_s, source=0)
    folded = shell.refold()

    assert folded.state.decider.counters() == shell.kernel.state.decider.counters()
    assert folded.state.decider.counters()["keyed"]["keys"] == 3
    assert folded.state.stats == shell.kernel.state.stats
    assert folded.state.stats["failing"].errors == 5
    check(shell)


def test_a_dump_shows_what_a_rule_holds() -> None:
    """Every event that changes what a rule will do, or has counted, changes its dump."""
    patterns: dict[str, Pattern[Any]] = {
        "reset": a.count(3, within=50),
        "edge": a.count(2, within=5, mode="edge"),
        "every": a.count(2, within=50, mode="every"),
        "keyed": a.key(lambda e: e.data).count(9, within=None),
        "quiet": silent(a.key(lambda e: e.data), for_=50, repeat="every"),
    }
    shell = Shell(named(**patterns)).start(ns(0))
    dumps = [shell.kernel.dump()]
    for at_s, data in enumerate(["x", None, "x", "y"], 1):
        shell.emit(ns(at_s), "a", data)
        dumps.append(shell.kernel.dump())

    automata = [msgspec.msgpack.decode(dump)["automata"] for dump in dumps]
    for before, after in pairwise(automata):
        assert [name for name in patterns if after[name] == before[name]] == []


def see_from_the_second_record(shell: Shell) -> None:
    """Let a rule see the log, of which the first record is gone."""
    shell.kernel.state.read_back = lambda _first, _last: iter(())
    rules_now = shell.kernel.state.rules
    shell.put(r.EngineStarted(ns(1), "", "system", rules_now, warm={"r": 2}))


SECTIONS: dict[str, Callable[[Shell], object]] = {
    "at_ns": lambda s: s.put(r.ClockStepped(ns(9), 1)),
    "started_at_ns": lambda s: s.start(ns(9)),
    "clock": lambda s: s.put(r.EngineStarted(ns(9), "", "input", s.kernel.state.rules)),
    "sources": lambda s: s.put(r.SourceOpened(ns(1), 2, "other")),
    "cursors": lambda s: s.emit(ns(1), "c", source=1, position=7),
    "events": lambda s: s.emit(ns(1), "c"),
    "rules": lambda s: s.put(r.EngineStarted(ns(1), "", "system", {"r": "another"})),
    "active": lambda s: s.put(r.EngineStarted(ns(1), "", "system", {})),
    "stats": lambda s: s.emit(ns(1), "a"),
    "timers": lambda s: s.emit(ns(1), "b"),
    "runs": lambda s: s.emit(ns(1), "a"),
    "dedupe": lambda s: s.emit(ns(1), "c", id="e1"),
    "lifecycle": lambda s: s.kernel.submit(r.EventStored(ns(1), "a", raw(1))),
    "offers": lambda s: s.kernel.submit(r.EventOffered(ns(1), 5, "a", raw(1))),
    "automata": lambda s: s.emit(ns(1), "b"),
    "paused": lambda s: s.put(r.RulePaused(ns(1), "r", paused=True)),
    "history": lambda s: s.put(r.HistoryBegan(ns(1), "file:old")),
    "listed": lambda s: s.put(r.RulesListed(ns(1), {"r": "another"})),
    "alarms": lambda s: s.emit(ns(1), "alarm", 5),
    "launches": lambda s: s.put(r.RunLaunched(ns(1), "t", raw({}), "key")),
    "dead": lambda s: s.put(r.RunFailed(ns(1), s.emit(ns(1), "a") + 1, 1, "E: x", "", [])),
    "breakers": lambda s: s.put(r.BreakerMoved(ns(1), "r", "open", 5, ns(9))),
    "crashes": lambda s: s.put(r.EngineStopped(ns(1))),
    "seen_from": see_from_the_second_record,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_dump_shows_all_that_the_engine_knows(section: str) -> None:
    """A comparison of dumps is worth as much as what is in them."""
    high = on("alarm").crosses(lambda e: e.data, above=1, initial=True)
    make = rules(
        Rule("r", a, "parallel"),
        Rule("quiet", silent(b, for_=5), "parallel"),
        Rule("told", on("rule.fired.r"), "parallel"),
        Rule("alarm", high, "parallel", tasks={"clear": "ended"}),
    )
    shell = Shell(make).start(ns(1))
    shell.put(r.SourceOpened(ns(1), 1, "press"))
    before = msgspec.msgpack.decode(shell.kernel.dump(), strict=False)
    SECTIONS[section](shell)
    after = msgspec.msgpack.decode(shell.kernel.dump(), strict=False)

    assert set(before) == {*SECTIONS, "sequence"}
    assert after[section] != before[section]


def test_a_source_s_cursor_is_that_of_its_last_event() -> None:
    """A file that was read half-way is gone on with from where it was."""
    shell = Shell(named(r=a)).start(ns(1))
    for number, name in enumerate(["press", "oven"], 1):
        shell.put(r.SourceOpened(ns(1), number, name))
    for source, position in [(1, 10), (2, 7), (1, 30), (1, None)]:
        shell.emit(ns(2), "c", source=source, position=position)

    assert shell.crashed().kernel.state.cursors == {1: 30, 2: 7}
    assert shell.crashed().kernel.state.sources == ["press", "oven"]


def test_a_dump_is_not_changed_by_what_is_only_a_cache() -> None:
    """Looking at the state, or at recent events, leaves no trace in it."""
    shell = Shell(named(r=a, quiet=silent(a, for_=5))).start(ns(0))
    event = shell.emit(ns(1), "a")
    before = shell.kernel.dump()
    shell.kernel.state.decider.recent(event)
    shell.kernel.state.timers.first()
    shell.kernel.state.decider.wants("a")
    shell.kernel.due_timer(ns(1))

    assert shell.kernel.dump() == before


@pytest.mark.parametrize(("bytes_each", "count"), [(1000, 20), (10, 50)])
def test_what_is_kept_of_recent_events_has_bounds(
    bytes_each: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their size and by their number: no more of them than that, and the last."""
    monkeypatch.setattr(ruleset, "RECENT_BYTES_MAX", 3000)
    monkeypatch.setattr(ruleset, "RECENT_MAX", 10)
    shell = Shell(named(r=a)).start(ns(1))
    made = [shell.emit(ns(2), "a", "x" * bytes_each) for _ in range(count)]
    kept = [sequence for sequence in made if shell.kernel.state.decider.recent(sequence)]

    assert kept == made[-len(kept) :]
    assert len(kept) in ({3, 4, 5} if bytes_each == 1000 else set(range(10, 20)))
