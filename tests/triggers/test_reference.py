"""The engine against the reference model, and the laws that hold for every pattern."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.reference.model import (
    AnyOf,
    Count,
    Every,
    Given,
    Key,
    Model,
    On,
    Silent,
    Spec,
    Where,
    pattern_of,
)
from tests.reference.shell import Shell, ns, rules

from headrace.engine import record as r
from headrace.testing import firings
from headrace.triggers.ruleset import Rule

Made = tuple[int, Any, tuple[int, ...], tuple[int, ...] | None]
"""When, key, numbers of the events, branches."""

SUBJECTS = ("a.x", "a.y", "b")
PATTERNS = (*SUBJECTS, "a.*", ">")
START, TAIL = 0, 15


def is_even(data: int) -> bool:
    return data % 2 == 0


def by_three(data: int) -> int | None:
    """Four in six have a key."""
    return None if data % 3 == 0 else data % 3


def by_parity(data: int) -> str:
    return "even" if data % 2 == 0 else "odd"


ONS = st.builds(On, st.sampled_from(PATTERNS))
KEYS = st.sampled_from([by_three, by_parity])
COUNTS = (st.integers(1, 4), st.none() | st.integers(1, 7))


def counts(source: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    bounded = st.builds(Count, source, COUNTS[0], st.integers(1, 7), st.just("edge"))
    return bounded | st.builds(Count, source, *COUNTS, st.sampled_from(["reset", "every"]))


def with_event(source: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Operators of which each result has an event that completed it."""
    return (
        st.builds(Where, source, st.just(is_even)) | st.builds(Key, source, KEYS) | counts(source)
    )


def with_silence(source: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    expect = st.sampled_from([(), (), (1,), ("odd", "even"), (1, 2)])
    repeats = st.sampled_from(["once", "every"])
    return st.builds(Silent, source, st.integers(1, 6), repeats, expect) | counts(source)


def joined(source: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(source, min_size=1, max_size=3).map(lambda specs: AnyOf(tuple(specs)))


CHAINS = st.recursive(ONS, with_event, max_leaves=4)
JOINS = st.recursive(
    CHAINS, lambda s: joined(s) | with_event(joined(s)) | with_event(s), max_leaves=5
)
SILENCES = st.recursive(with_silence(CHAINS), with_silence, max_leaves=3)
SILENCES_OF_JOINS = st.recursive(with_silence(joined(CHAINS)), with_silence, max_leaves=2)
BEATS = st.builds(Every, st.integers(1, 6))
JOINED_SILENCES = joined(SILENCES | CHAINS | BEATS) | with_silence(joined(SILENCES | CHAINS))
SPECS: st.SearchStrategy[Any] = st.one_of(
    CHAINS, JOINS, SILENCES, SILENCES_OF_JOINS, JOINED_SILENCES, BEATS
)


@st.composite
def timelines(draw: st.DrawFn) -> list[Given]:
    """Events with many ties, and now and then a pause in which everything expires."""
    at, made = 0, []
    for _ in range(draw(st.integers(0, 14))):
        at += draw(st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3, 5, 7]))
        made.append(Given(at, draw(st.sampled_from(SUBJECTS)), draw(st.integers(0, 5))))
    return made


def end_of(timeline: list[Given]) -> int:
    return TAIL + (timeline[-1].at if timeline else START)


def expected(spec: Spec, timeline: list[Given]) -> list[list[Made]]:
    """What the model says, in groups of one place: within one there is no order of keys."""
    groups: dict[Any, list[Made]] = {}
    for x in Model(timeline, start=START, until=end_of(timeline)).firings(spec):
        groups.setdefault(x.place, []).append((x.at, x.key, x.events, x.branches))
    return [sorted(group, key=repr) for group in groups.values()]


def actual(shell: Shell, *, rule: str = "r1", shift_s: int = 0) -> list[list[Made]]:
    """What the shell stored for one rule, in groups of one unit."""
    number_by_sequence, groups, events = {}, [], 0
    sequence = 0
    for unit in shell.units:
        made: list[Made] = []
        at_ns = 0
        for stored in unit:
            sequence += 1
            record = r.decode(stored)
            if isinstance(record, r.EventStored):
                number_by_sequence[sequence] = events
                events += 1
                at_ns = record.at_ns
            elif isinstance(record, r.RuleFired) and record.rule == rule:
                at_s = (at_ns if record.due_ns is None else record.due_ns) // 10**9 - shift_s
                numbers = tuple(number_by_sequence[event] for event in record.events)
                branches = None if record.branches is None else tuple(record.branches)
                made.append((at_s, record.key, numbers, branches))
        if made:
            groups.append(sorted(made, key=repr))
    return groups


def play(
    shell: Shell,
    timeline: list[Given],
    *,
    shift_s: int = 0,
    end: int | None = None,
    restarts: frozenset[int] = frozenset(),
) -> Shell:
    """Let *timeline* happen; crash and restart before the events numbered in *restarts*."""
    for number, event in enumerate(timeline):
        if number in restarts:
            shell = shell.crashed().start(shell.at_ns)
        shell.emit(ns(event.at + shift_s), event.subject, event.data)
    shell.tick(ns((end_of(timeline) if end is None else end) + shift_s))
    return shell


def play_punctually(shell: Shell, timeline: list[Given], *, end: int) -> Shell:
    """As `play`, with a clock that fires each timer when it is due, not with the next event."""
    at = shell.at_ns // 10**9
    for event in [*timeline, Given(end, "", None)]:
        for second in range(at, event.at + 1):
            shell.tick(ns(second))
        at = max(at, event.at)
        if event.subject:
            shell.emit(ns(at), event.subject, event.data)
    return shell


def declared(*specs: Spec) -> Shell:
    """A shell with rules ``r1``, ``r2`` …."""
    named = [
        Rule(f"r{number}", pattern_of(spec), "parallel", "1")
        for number, spec in enumerate(specs, 1)
    ]
    return Shell(rules(*named))


TWO_SILENCES = AnyOf((Silent(On("a.x"), 3, "once"), Silent(On("a.x"), 3, "every")))


@settings(max_examples=400)
@given(spec=SPECS, timeline=timelines())
@example(spec=TWO_SILENCES, timeline=[Given(0, "a.x", 1), Given(3, "a.x", 1)])
@example(
    spec=Silent(Silent(On("b"), 2, "every"), 2, "every"),
    timeline=[Given(0, "b", 1), Given(4, "b", 1)],
)
def test_the_engine_is_the_reference_model(spec: Spec, timeline: list[Given]) -> None:
    """On random timelines with ties, for any combination of operators, firing by firing."""
    shell = play(declared(spec).start(ns(START)), timeline)

    assert actual(shell) == expected(spec, timeline)
    assert shell.refold().dump() == shell.kernel.dump()


@given(spec=SPECS, timeline=timelines())
def test_a_user_s_unit_test_sees_what_the_engine_does(spec: Spec, timeline: list[Given]) -> None:
    """`firings` gives times in seconds, keys, events and branches of the same firings."""
    numbered = [(float(at), subject, data) for at, subject, data in timeline]
    seen = firings(pattern_of(spec), numbered, until=end_of(timeline))

    model = [made for group in expected(spec, timeline) for made in group]
    assert sorted(repr((f.at, f.key, f.branches)) for f in seen) == sorted(
        repr((float(at), key, None if branches is None else list(branches)))
        for at, key, _, branches in model
    )
    assert [f.at for f in seen] == [float(made[0]) for made in model]
    for f in seen:
        assert all((e.t, e.subject, e.data) in numbered for e in f.events)


@given(spec=SPECS, timeline=timelines(), shift_s=st.integers(1, 10**9))
def test_a_shift_in_time_shifts_the_firings(
    spec: Spec, timeline: list[Given], shift_s: int
) -> None:
    """Nothing depends on what time it is, only on how much passes."""
    here = play(declared(spec).start(ns(START)), timeline)
    there = play(declared(spec).start(ns(START + shift_s)), timeline, shift_s=shift_s)

    assert actual(there, shift_s=shift_s) == actual(here)


@given(specs=st.lists(SPECS, min_size=2, max_size=4), timeline=timelines())
def test_rules_do_not_know_of_each_other(specs: list[Spec], timeline: list[Given]) -> None:
    """A rule fires the same alone and among others, in whatever order they are declared."""
    together = play(declared(*specs).start(ns(START)), timeline)

    for number, spec in enumerate(specs, 1):
        alone = play(declared(spec).start(ns(START)), timeline)
        assert actual(together, rule=f"r{number}") == actual(alone)


def keyed(spec: Spec) -> bool:
    """Whether an operator of *spec* holds state before or without a key."""
    if isinstance(spec, Key):
        return True
    if isinstance(spec, (Where, Count, Silent)):
        return keyed(spec.source)
    return isinstance(spec, AnyOf) and all(keyed(branch) for branch in spec.branches)


OPERATORS = st.recursive(
    st.just(Key(On(">"), by_parity)),
    lambda s: counts(s) | with_silence(s) | joined(s),
    max_leaves=4,
)


@given(spec=OPERATORS, timeline=timelines())
def test_each_key_is_as_if_it_were_alone(spec: Spec, timeline: list[Given]) -> None:
    """N keys interleaved make the firings that each would make by itself."""
    assert keyed(spec)
    together = play(declared(spec).start(ns(START)), timeline)
    made = [x for group in actual(together) for x in group]

    for key in ("even", "odd"):
        numbers = [n for n, event in enumerate(timeline) if by_parity(event.data) == key]
        own = [timeline[number] for number in numbers]
        alone = play(declared(spec).start(ns(START)), own, end=end_of(timeline))
        found = [
            (at, k, tuple(numbers[event] for event in events), branches)
            for group in actual(alone)
            for at, k, events, branches in group
            if k == key
        ]
        assert found == [x for x in made if x[1] == key]


@given(spec=SPECS, timeline=timelines(), restarts=st.frozensets(st.integers(0, 13), max_size=4))
def test_a_crash_between_two_events_changes_no_firing(
    spec: Spec, timeline: list[Given], restarts: frozenset[int]
) -> None:
    """State by pattern, key and timer goes on where it was, as often as the process dies."""
    undisturbed = play(declared(spec).start(ns(START)), timeline)
    disturbed = play(declared(spec).start(ns(START)), timeline, restarts=restarts)

    assert actual(disturbed) == actual(undisturbed)
    assert disturbed.refold().divergences == []
    assert disturbed.refold().dump() == disturbed.kernel.dump()


@given(spec=SPECS, timeline=timelines(), data=st.data())
def test_a_crash_at_any_unit_changes_no_firing(
    spec: Spec, timeline: list[Given], data: st.DataObject
) -> None:
    """What a crash cut off is made again: the timers that were due, in the same order."""
    end = end_of(timeline)
    whole = play_punctually(declared(spec).start(ns(START)), timeline, end=end)
    kept = data.draw(st.integers(1, len(whole.units)), label="units that survive")
    shell = whole.crashed(kept)
    shell.start(shell.at_ns)
    stored = len(shell.of_kind(r.EventStored))
    play_punctually(shell, timeline[stored:], end=end)

    assert actual(shell) == actual(whole)
    assert actual(whole) == expected(spec, timeline)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(spec=SPECS, timeline=timelines(), restarts=st.frozensets(st.integers(0, 13), max_size=4))
def test_the_engine_is_the_reference_model_at_length(
    spec: Spec, timeline: list[Given], restarts: frozenset[int]
) -> None:
    """The same with restarts, until a rare coincidence has had its chance."""
    shell = play(declared(spec).start(ns(START)), timeline, restarts=restarts)

    assert actual(shell) == expected(spec, timeline)
