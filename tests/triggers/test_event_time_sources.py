"""Event time of several sources, without events, and over crashes, snapshots and changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.shell import MakeRules, Shell, check, fold, ns, rules

from headrace import all_of, any_of, on, silent
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.kernel import Kernel
from headrace.engine.snapshot import Snapshot, load
from headrace.testing import firings
from headrace.triggers.nodes import Late
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

A, B, C = 1, 2, 3
"""Numbers of sources."""


def timed(
    subject: str = "x", *, lateness: float = 0, idle: float | None = None, late: Late = "drop"
) -> Pattern[Any]:
    """Events on *subject* whose data is their time."""
    return on(subject).event_time(lambda e: e.data, lateness=lateness, idle=idle, late=late)


def started(make_rules: MakeRules) -> Shell:
    """A shell with three sources."""
    shell = Shell(make_rules).start()
    for number, name in enumerate("ABC", 1):
        shell.put(r.SourceOpened(0, number, name))
    return shell


def heard(shell: Shell, at: float, source: int, time: float) -> None:
    """Let *source* bring an event with this time, after all timers that are due before it."""
    let_pass(shell, at)
    shell.emit(ns(at), "x", time, source=source)


def let_pass(shell: Shell, until: float) -> None:
    """Let log time pass, with each timer fired when it is due."""
    timers = shell.kernel.state.timers
    while (first := timers.first()) is not None and first[0] <= ns(until):
        shell.tick(first[0])
    shell.tick(ns(until))


def fired(shell: Shell, rule: str = "r1") -> list[tuple[float, float]]:
    """When a rule fired: in log time and in event time."""
    made: list[tuple[float, float]] = []
    at_ns = 0
    for stored in shell.records:
        record = r.decode(stored)
        at_ns = getattr(record, "at_ns", at_ns)
        if isinstance(record, r.RuleFired) and record.rule == rule:
            assert record.details is not None
            assert record.details.at_ns is not None
            made.append((at_ns / NS, record.details.at_ns / NS))
    return made


def late(shell: Shell) -> list[float]:
    return [made.time_ns / NS for made in shell.of_kind(r.RuleLate)]


def ticks(shell: Shell) -> list[float]:
    """When timers of the kernel fired."""
    return [made.due_ns / NS for made in shell.of_kind(r.TimerFired)]


# ---------------------------------------------------------------- several sources


def test_the_slowest_source_holds_the_watermark() -> None:
    """What one source is ahead of the others waits for them."""
    shell = started(rules(timed(lateness=1)))
    heard(shell, 1, A, 10)
    heard(shell, 2, B, 9.5)  # its own watermark is before that of the rule, which stays
    heard(shell, 3, A, 20)
    assert fired(shell) == []

    heard(shell, 4, B, 12)
    assert fired(shell) == [(4, 9.5), (4, 10)]
    heard(shell, 5, B, 30)
    assert fired(shell)[2:] == [(5, 12)]
    assert late(shell) == []
    check(shell)


def test_a_new_source_does_not_pull_the_watermark_back() -> None:
    """It never goes back, so what the new one has that is older is late, and holds it."""
    shell = started(rules(timed()))
    heard(shell, 1, A, 10)
    heard(shell, 2, B, 5)
    heard(shell, 3, B, 8)
    heard(shell, 3, A, 20)  # waits for B, which is at 8
    heard(shell, 4, B, 11)
    heard(shell, 5, B, 25)

    assert late(shell) == [5, 8]
    assert fired(shell) == [(1, 10), (4, 11), (5, 20)]
    check(shell)


def test_events_of_the_program_itself_are_a_source() -> None:
    """What is emitted in the process is waited for as one source beside the connectors."""
    shell = started(rules(timed()))
    heard(shell, 1, A, 10)
    heard(shell, 2, 0, 12)
    heard(shell, 3, A, 15)
    assert fired(shell) == [(1, 10), (3, 12)]
    check(shell)


def test_a_source_that_another_rule_hears_is_none_of_this_one() -> None:
    """A watermark is a rule's own: of the sources that bring its events."""
    shell = started(rules(timed("x"), timed("y")))
    heard(shell, 1, A, 10)
    shell.emit(ns(2), "y", 3, source=B)
    heard(shell, 3, A, 11)
    assert fired(shell) == [(1, 10), (3, 11)]
    assert fired(shell, "r2") == [(2, 3)]


# ---------------------------------------------------------------- idle sources


def test_a_source_that_is_idle_is_not_waited_for() -> None:
    """`idle` after its last event (half-open), by a timer; then the others go on."""
    shell = started(rules(timed(idle=5)))
    heard(shell, 0, B, 9)
    heard(shell, 1, A, 10)
    heard(shell, 4, A, 20)
    assert fired(shell) == [(0, 9)]

    heard(shell, 5, A, 21)  # at 5 exactly it is idle: timers first
    assert fired(shell)[1:] == [(5, 10), (5, 20), (5, 21)]
    assert ticks(shell) == [5]
    check(shell)


def test_an_idle_source_that_comes_back_is_waited_for_again() -> None:
    """With its next event, be it late."""
    shell = started(rules(timed(idle=5)))
    heard(shell, 0, B, 9)
    heard(shell, 4, A, 20)
    heard(shell, 6, B, 12)  # late: B was idle at 5, and the watermark is at 20
    heard(shell, 7, A, 30)
    assert fired(shell) == [(0, 9), (5, 20)]

    heard(shell, 8, B, 31)
    assert fired(shell)[2:] == [(8, 30)]
    assert late(shell) == [12]
    check(shell)


def test_while_all_are_idle_event_time_goes_on_by_itself() -> None:
    """What waits is let go when log time has passed as long as it is ahead: by one tick each."""
    shell = started(rules(timed(lateness=5, idle=10)))
    for at, time in ((0, 100), (1, 103), (2, 101)):
        heard(shell, at, A, time)
    let_pass(shell, 100)

    # The watermark is 98 when all are idle, at 12.
    assert fired(shell) == [(14, 100), (15, 101), (17, 103)]
    assert ticks(shell) == [12, 14, 15, 17]
    assert len(shell.kernel.state.timers) == 0
    check(shell)


def test_timers_behind_it_fire_while_all_are_idle() -> None:
    """A watchdog by event time notices that nothing comes at all."""
    shell = started(rules(silent(timed(idle=10), for_=6, repeat="every")))
    heard(shell, 0, A, 100)
    let_pass(shell, 30)
    assert fired(shell) == [(16, 106), (22, 112), (28, 118)]

    heard(shell, 31, A, 122)  # before that the watermark is at the last tick
    assert late(shell) == []
    assert fired(shell)[3:] == []
    let_pass(shell, 50)
    assert fired(shell)[3:] == [(47, 128)]
    check(shell)


def test_when_all_are_idle_the_watermark_goes_on_from_where_it_was() -> None:
    """An idle source that was ahead, by a wrong clock say, is not what time goes by."""
    shell = started(rules(timed(idle=5)))
    heard(shell, 0, A, 10)
    heard(shell, 1, B, 1000)
    heard(shell, 4, A, 12)
    let_pass(shell, 20)  # B is idle at 6, A at 9
    assert fired(shell) == [(0, 10), (4, 12)]

    heard(shell, 21, A, 13)
    assert fired(shell)[2:] == [(21, 13)]
    check(shell)


def test_firings_of_a_timeline_that_is_over_come_with_idle() -> None:
    """In a test of a rule, `until` lets what still waits go."""
    pattern = timed(lateness=5, idle=10)
    timeline = [(0, "x", 50), (1, "x", 51)]
    assert firings(pattern, timeline) == []
    assert [f.at for f in firings(pattern, timeline, until=16)] == [50, 51]


def test_no_timer_is_armed_that_leads_to_nothing() -> None:
    """A rule with nothing to wait for costs no records while nothing happens."""
    alone = started(rules(timed(idle=5), timed(lateness=5)))
    heard(alone, 0, A, 10)
    assert len(alone.kernel.state.timers) == 0  # nothing of r1 waits, and r2 has no idle

    two = started(rules(timed(idle=5)))
    heard(two, 0, A, 10)
    heard(two, 1, B, 10)
    let_pass(two, 1000)
    assert ticks(two) == [5, 6]  # that each of them is idle
    assert len(two.kernel.state.timers) == 0


# ---------------------------------------------------------------- downtimes


def test_a_source_that_could_not_be_heard_is_not_idle() -> None:
    """After a downtime sources have the idle time, or all that they bring would be late."""
    shell = started(rules(timed(lateness=1, idle=5)))
    heard(shell, 0, A, 10)
    heard(shell, 0, B, 10)
    shell = shell.crashed().start(ns(1000))
    heard(shell, 1001, B, 900)
    heard(shell, 1002, A, 12)
    assert late(shell) == []
    assert fired(shell) == [(1002, 10), (1002, 10)]

    heard(shell, 1006.5, B, 901)
    let_pass(shell, 1007)  # now A has not been heard of for 5 s
    assert fired(shell)[2:] == [(1007, 12), (1007, 900)]
    check(shell)


def test_event_time_does_not_go_on_while_nothing_runs() -> None:
    """While all were idle before a crash: what comes after it is not late by the downtime."""
    shell = started(rules(silent(timed(idle=5), for_=60)))
    heard(shell, 0, A, 100)
    let_pass(shell, 20)
    shell = shell.crashed().start(ns(1000))
    heard(shell, 1003, A, 155)
    assert late(shell) == []

    let_pass(shell, 1100)
    assert fired(shell) == [(1068, 215)]
    check(shell)


def test_what_was_due_in_a_downtime_comes_after_it() -> None:
    """Put off by the idle time, not for ever, however often the engine is restarted."""
    shell = started(rules(silent(timed(idle=5), for_=60)))
    heard(shell, 0, A, 100)
    let_pass(shell, 20)
    shell = shell.crashed().start(ns(1000))
    shell = shell.crashed().start(ns(1004))
    let_pass(shell, 1005)
    assert fired(shell) == [(1005, 160)]
    check(shell)


# ---------------------------------------------------------------- state


def parity(event: Any) -> int:
    return int(event.data) % 2


def is_odd(event: Any) -> bool:
    return int(event.data) % 2 == 1


EVERYTHING: dict[str, Callable[[], Pattern[Any]]] = {
    "plain": lambda: timed(lateness=3, idle=4),
    "keyed": lambda: timed(lateness=3, idle=4).key(parity).count(2, within=5),
    "values": lambda: timed(lateness=2, idle=6, late="as_now").tumbling(4).aggregate(len),
    "watchdogs": lambda: silent(timed(lateness=1, idle=3).key(parity), for_=3, repeat="every"),
    "held": lambda: timed(lateness=4, idle=5).where(is_odd).key(parity).hold(for_=3),
    "joined": lambda: all_of(
        timed(lateness=2, idle=4).where(is_odd), timed(lateness=2, idle=4), within=5, keep="all"
    ),
    "stacked": lambda: (
        any_of(silent(timed(lateness=2, idle=4), for_=2), timed("*", lateness=2, idle=4))
        .debounce(2)
        .count(2, within=30)
    ),
    "expected": lambda: silent(
        timed(lateness=1, idle=4).key(parity), for_=20, repeat="every", expect=[0, 1]
    ),
    "bounded": lambda: on("x").event_time(
        lambda e: e.data, lateness=9, idle=9, partials_max=2, late="as_now"
    ),
}
ALL = rules(*(Rule(name, make(), "parallel", "1") for name, make in EVERYTHING.items()))


class Heard(NamedTuple):
    """An event of a life."""

    after: int
    source: int
    ahead: int
    """By how much its time is ahead of log time."""


HEARD = st.builds(
    Heard, st.sampled_from([0, 0, 1, 1, 2, 9]), st.sampled_from([0, A, B]), st.integers(-6, 4)
)


LIFE = [Heard(n * 7 % 3, (A, B, 0, A, B)[n % 5], (3, -6, 0, 4, -1, 2)[n % 6]) for n in range(11)]
UNITS_BEFORE = 7
"""Before the first of them: a start, three sources and what they brought."""


def lived(lives: list[Heard], shell: Shell, at: int = 1) -> Iterator[Shell]:
    """Let the events happen one by one."""
    for one in lives:
        at += one.after
        heard(shell, at, one.source, at + one.ahead)
        yield shell


def with_all_heard() -> Shell:
    shell = started(ALL)
    for source in (0, A, B):
        heard(shell, 1, source, 0)
    return shell


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(HEARD, max_size=25))
def test_a_fold_is_what_happened(lives: list[Heard]) -> None:
    """Law: live ≡ fold: whatever sources do, the log says it all."""
    shell = with_all_heard()
    for _ in lived(lives, shell):
        pass
    let_pass(shell, 50)
    check(shell)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(HEARD, max_size=12), st.data())
def test_a_snapshot_at_any_point_is_what_a_fold_is(lives: list[Heard], data: st.DataObject) -> None:
    """And what is read after it leads to the same state, to the byte."""
    shell = with_all_heard()
    for _ in lived(lives, shell):
        pass
    let_pass(shell, 30)
    upto = data.draw(st.integers(1, len(shell.units)))
    folded = fold(ALL, shell.crashed(upto).records)
    loaded = Kernel(ALL())
    load(loaded, Snapshot(folded).parts(2))
    assert loaded.dump() == folded.dump()
    for sequence, stored in enumerate(shell.records[loaded.sequence :], loaded.sequence + 1):
        loaded.fold(sequence, r.decode(stored))
    loaded.finish_fold()
    assert loaded.divergences == []
    assert loaded.dump() == shell.kernel.dump()


@pytest.mark.slow
def test_a_snapshot_at_each_point_of_one_life() -> None:
    """The same after each unit there is."""
    shell = with_all_heard()
    for _ in lived(LIFE, shell):
        pass
    let_pass(shell, 25)
    folded, read = Kernel(ALL()), 0
    for unit in shell.units:
        for stored in unit:
            read += 1
            folded.fold(read, r.decode(stored))
        folded.finish_fold()
        loaded = Kernel(ALL())
        load(loaded, Snapshot(folded).parts(2))
        assert loaded.dump() == folded.dump()


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(HEARD, min_size=1, max_size=12), st.data())
def test_a_start_from_a_snapshot_goes_on_as_if_nothing_was(
    lives: list[Heard], data: st.DataObject
) -> None:
    """Written out bit by bit while the rules go on, as it is live."""
    shell = with_all_heard()
    begin = data.draw(st.integers(0, len(lives) - 1))
    taken: Snapshot | None = None
    parts: list[bytes] = []
    for number, _ in enumerate(lived(lives, shell)):
        if number == begin:
            taken = Snapshot(shell.kernel)
        elif taken is not None and (part := taken.step(1)) is not None:
            parts.append(part)
    assert taken is not None
    while (part := taken.step(1)) is not None:
        parts.append(part)
    while not taken.settle(1):
        pass
    let_pass(shell, 60)

    kernel = Kernel(ALL())
    load(kernel, parts)
    assert kernel.dump() == fold(ALL, shell.records[: taken.sequence]).dump()
    for sequence, stored in enumerate(shell.records, 1):
        if sequence > taken.sequence:
            kernel.fold(sequence, r.decode(stored))
    kernel.finish_fold()
    assert kernel.divergences == []
    assert kernel.dump() == shell.kernel.dump()


def told(shell: Shell) -> list[Any]:
    """All that rules decided, with events by when they came: restarts are records too."""
    numbers: dict[int, int] = {}
    decided: list[Any] = []
    for sequence, stored in enumerate(shell.records, 1):
        record = r.decode(stored)
        if isinstance(record, r.EventStored):
            numbers[sequence] = len(numbers)
        elif isinstance(record, r.RuleFired):
            events = [numbers[event] for event in record.events]
            decided.append((record.rule, record.key, events, record.due_ns))
            assert record.details is not None
            decided.append((record.details.at_ns, record.details.value))
        elif isinstance(record, r.RuleLate):
            decided.append((record.rule, numbers[record.event], record.watermark_ns))
        elif isinstance(record, r.RuleEvicted):
            decided.append((record.rule, record.key, record.what))
    return decided


def whole_life(lives: list[Heard]) -> Shell:
    """What happens without a crash."""
    whole = with_all_heard()
    for _ in lived(lives, whole):
        pass
    let_pass(whole, 25)
    return whole


def gone_on(whole: Shell, upto: int) -> Shell:
    """The same with a crash after *upto* units."""
    shell = whole.crashed(upto).start()
    for number, unit in enumerate(whole.units):
        record = r.decode(unit[0])
        if number >= upto and isinstance(record, r.EventStored):
            let_pass(shell, record.at_ns / NS)
            shell.put(record)
    let_pass(shell, 25)
    return shell


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(HEARD, max_size=10), st.data())
def test_a_crash_changes_nothing(lives: list[Heard], data: st.DataObject) -> None:
    """What is recovered goes on where it was: what comes after it fires the same."""
    whole = whole_life(lives)
    shell = gone_on(whole, data.draw(st.integers(UNITS_BEFORE, len(whole.units))))
    assert told(shell) == told(whole)
    check(shell)


@pytest.mark.slow
def test_a_crash_between_any_two_units_changes_nothing() -> None:
    """The same at each place where a crash can leave the log."""
    whole = whole_life(LIFE)
    for upto in range(UNITS_BEFORE, len(whole.units)):
        assert told(gone_on(whole, upto)) == told(whole)


def test_waiting_events_are_kept_by_retention() -> None:
    """A snapshot names the oldest record that is still asked for."""
    shell = Shell(rules(timed(lateness=100))).start()
    first = shell.emit(ns(1), "x", 50)
    for n in range(2, 9):
        shell.emit(ns(n), "x", 40 + n)
    taken = Snapshot(shell.kernel)
    assert list(taken.parts())
    assert taken.oldest_sequence == first


def test_a_rule_that_is_put_away_leaves_nothing() -> None:
    """When it begins again, it begins empty: no event, timer or watermark of before."""
    make = rules(Rule("r", silent(timed(lateness=1, idle=5).key(parity), for_=9), "parallel"))
    shell = started(make)
    fresh = shell.kernel.state.decider.dump()
    for n, time in enumerate((10, 13, 12, 20, 31)):
        heard(shell, n, n % 3, time)
    decider = shell.kernel.state.decider
    assert decider.dump() != fresh
    decider.deactivate("r")
    assert len(shell.kernel.state.timers) == 0

    decider.activate("r", shell.at_ns)
    assert decider.dump() == fresh
    heard(shell, 10, A, 5)
    heard(shell, 11, A, 15)
    assert late(shell) == []
    assert fired(shell, "r")[-1] == (11, 14)


def test_a_rule_that_changed_begins_without_what_waited() -> None:
    """Law L8: what waited under another lateness is not let go under this one."""
    old = rules(Rule("r", timed(lateness=50), "parallel"))
    new = rules(Rule("r", timed(lateness=1), "parallel"))
    shell = started(old)
    heard(shell, 1, A, 10)
    again = Shell(new, shell.units).start(shell.at_ns)
    heard(again, 2, A, 5)
    heard(again, 3, A, 7)
    assert fired(again, "r") == [(3, 5)]
    check(again)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_full_rule_ends_with_nothing_but_sources(name: str) -> None:
    """Once all has been let go and has fired, no key and no waiting event is left (law L6)."""
    shell = Shell(rules(Rule("r", EVERYTHING[name](), "parallel", "1"))).start()
    for n in range(20):
        shell.emit(ns(n), "x", n - n % 3)
    shell.emit(ns(30), "x", 10_000)
    counted = shell.kernel.state.decider.counters()["r"]["keys"]
    assert counted <= 4, "the last event, and what it led to"
    check(shell)
