"""The laws that hold for every pattern, over random ones on random timelines with ties.

That each operator is what the reference model says is in the modules beside this one.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.reference.functions import by_parity
from tests.reference.happened import Given
from tests.reference.patterns import pattern_of
from tests.reference.playing import (
    START,
    actual,
    assert_same,
    declared,
    end_of,
    expected,
    play,
    play_punctually,
)
from tests.reference.shell import Shell, ns
from tests.reference.spec import AnyOf, On, Silent, Spec
from tests.reference.strategies import ANY, CASES, KEYED
from tests.reference.timelines import timelines

from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.kernel import Kernel
from headrace.engine.snapshot import Snapshot, load
from headrace.testing import RuleWarning, firings

ALIGNED_S = 840
"""A multiple of every period and window there is."""

Case = tuple[Spec, list[Given]]

TWO_SILENCES = AnyOf((Silent(On("a.x"), 3, "once"), Silent(On("a.x"), 3, "every")))


@pytest.mark.slow
@settings(max_examples=200)  # each operator has more: test_reference_operators.py
@given(spec=ANY, timeline=timelines())
@example(spec=TWO_SILENCES, timeline=[Given(0, "a.x", 1), Given(3, "a.x", 1)])
@example(
    spec=Silent(Silent(On("b"), 2, "every"), 2, "every"),
    timeline=[Given(0, "b", 1), Given(4, "b", 1)],
)
def test_the_engine_is_the_reference_model(spec: Spec, timeline: list[Given]) -> None:
    """On random timelines with ties, for any combination of operators, firing by firing."""
    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)
    assert shell.refold().dump() == shell.kernel.dump()


@pytest.mark.slow
@pytest.mark.filterwarnings(f"ignore::{RuleWarning.__module__}.RuleWarning")
@given(case=CASES)
def test_a_user_s_unit_test_sees_what_the_engine_does(case: Case) -> None:
    """`firings` gives times in seconds, keys, events and branches of the same firings."""
    spec, timeline = case
    numbered = [(float(at), subject, data) for at, subject, data in timeline]
    seen = firings(pattern_of(spec), numbered, until=end_of(timeline))

    model = [made for group in expected(spec, timeline) for made in group]
    assert sorted(repr((f.at, f.key, f.branches, f.reason, f.value)) for f in seen) == sorted(
        repr((at / NS, key, None if branches is None else list(branches), reason, value))
        for at, key, _, branches, reason, _, value, _ in model
    )
    assert [f.at for f in seen] == [made.at / NS for made in model]
    for f in seen:
        assert all((e.t, e.subject, e.data) in numbered for e in f.events)


@pytest.mark.slow
@given(spec=ANY, timeline=timelines(), periods=st.integers(1, 10**6))
def test_a_shift_in_time_shifts_the_firings(
    spec: Spec, timeline: list[Given], periods: int
) -> None:
    """Nothing depends on what time it is, only on how much passes, and on where windows end."""
    shift = periods * ALIGNED_S
    here = play(declared(spec).start(ns(START)), timeline)
    there = play(declared(spec).start(ns(START + shift)), timeline, shift=shift)

    assert actual(there, shift=shift) == actual(here)


@pytest.mark.slow
@settings(max_examples=60)
@given(specs=st.lists(ANY, min_size=2, max_size=4), timeline=timelines())
def test_rules_do_not_know_of_each_other(specs: list[Spec], timeline: list[Given]) -> None:
    """A rule fires the same alone and among others, in whatever order they are declared."""
    together = play(declared(*specs).start(ns(START)), timeline)

    for number, spec in enumerate(specs, 1):
        alone = play(declared(spec).start(ns(START)), timeline)
        assert actual(together, rule=f"r{number}") == actual(alone)


@pytest.mark.slow
@given(spec=KEYED, timeline=timelines())
def test_each_key_is_as_if_it_were_alone(spec: Spec, timeline: list[Given]) -> None:
    """N keys interleaved make the firings that each would make by itself."""
    together = play(declared(spec).start(ns(START)), timeline)
    made = [one for group in actual(together) for one in group]

    for key in ("even", "odd"):
        numbers = [n for n, event in enumerate(timeline) if by_parity(event) == key]
        own = [timeline[number] for number in numbers]
        alone = play(declared(spec).start(ns(START)), own, end=end_of(timeline))
        found = [
            one._replace(
                events=tuple(numbers[event] for event in one.events),
                steps=tuple((s, tuple(numbers[event] for event in es)) for s, es in one.steps),
            )
            for group in actual(alone)
            for one in group
            if one.key == key
        ]
        assert found == [one for one in made if one.key == key]


@pytest.mark.slow
@given(case=CASES, restarts=st.frozensets(st.integers(0, 13), max_size=4))
def test_a_crash_between_two_events_changes_no_firing(case: Case, restarts: frozenset[int]) -> None:
    """State by pattern, key and timer goes on where it was, as often as the process dies."""
    spec, timeline = case
    undisturbed = play(declared(spec).start(ns(START)), timeline)
    disturbed = play(declared(spec).start(ns(START)), timeline, restarts=restarts)

    assert actual(disturbed) == actual(undisturbed)
    assert disturbed.refold().divergences == []
    assert disturbed.refold().dump() == disturbed.kernel.dump()


@pytest.mark.slow
@given(case=CASES, data=st.data())
def test_a_crash_at_any_unit_changes_no_firing(case: Case, data: st.DataObject) -> None:
    """What a crash cut off is made again: the timers that were due, in the same order."""
    spec, timeline = case
    end = end_of(timeline)
    whole = play_punctually(declared(spec).start(ns(START)), timeline, end=end)
    kept = data.draw(st.integers(1, len(whole.units)), label="units that survive")
    shell = whole.crashed(kept)
    shell.start(shell.at_ns)
    stored = len(shell.of_kind(r.EventStored))
    play_punctually(shell, timeline[stored:], end=end)

    assert actual(shell) == actual(whole)
    assert_same(whole, spec, timeline)


@pytest.mark.slow
@given(case=CASES)
def test_a_replay_makes_the_same_firings(case: Case) -> None:
    """What is derived from the inputs alone is what was recorded, byte for byte."""
    spec, timeline = case
    shell = play(declared(spec).start(ns(START)), timeline)
    again = replayed(shell, declared(spec))

    assert again.records == shell.records
    assert again.kernel.dump() == shell.kernel.dump()


def replayed(shell: Shell, fresh: Shell) -> Shell:
    """Feed the inputs of *shell*, and no decision, to an engine that is new."""
    for unit in shell.units:
        given_in = r.decode(unit[0])
        assert isinstance(given_in, r.Input)
        fresh.units.append([r.encode(part) for part in fresh.kernel.submit(given_in)])
    return fresh


@pytest.mark.slow
@given(case=CASES, taken_before=st.integers(0, 16))
def test_an_engine_goes_on_from_a_snapshot(case: Case, taken_before: int) -> None:
    """What begins with a snapshot of any moment fires as if it had seen all there was."""
    spec, timeline = case
    end = end_of(timeline)
    whole = play(declared(spec).start(ns(START)), timeline)
    shell = play(declared(spec).start(ns(START)), timeline[:taken_before], end=START)
    taken = list(Snapshot(shell.kernel).parts())
    shell.kernel = Kernel(shell.make_rules())
    load(shell.kernel, taken)
    play(shell, timeline[taken_before:], end=end)

    assert actual(shell) == actual(whole)
    assert shell.kernel.dump() == whole.kernel.dump()


@pytest.mark.slow
@given(case=CASES, begun_before=st.integers(0, 16), count=st.integers(1, 4))
def test_a_snapshot_written_beside_the_work_is_one_of_the_moment_it_began(
    case: Case, begun_before: int, count: int
) -> None:
    """With the tail behind it it is the engine; and what it names as the oldest is old enough."""
    spec, timeline = case
    end = end_of(timeline)
    shell = play(declared(spec).start(ns(START)), timeline[:begun_before], end=START)
    snapshot = Snapshot(shell.kernel)
    taken: list[bytes | None] = []
    for event in timeline[begun_before:]:
        taken += [snapshot.step(count)] if None not in taken else []
        play(shell, [event], end=START)
    shell.tick(ns(end))
    while None not in taken:
        taken.append(snapshot.step(count))
    kernel = Kernel(shell.make_rules())
    load(kernel, [part for part in taken if part is not None])
    tail = list(enumerate(shell.records, 1))[snapshot.sequence :]
    for sequence, stored in tail:
        kernel.fold(sequence, r.decode(stored))
    kernel.finish_fold()

    assert kernel.divergences == []
    assert kernel.dump() == shell.kernel.dump()
    fired = [r.decode(stored) for _, stored in tail]
    named = [s for made in fired if isinstance(made, r.RuleFired) for s in made.events]
    assert all(sequence >= snapshot.oldest_sequence for sequence in named)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(case=CASES, restarts=st.frozensets(st.integers(0, 13), max_size=4))
def test_the_engine_is_the_reference_model_at_length(case: Case, restarts: frozenset[int]) -> None:
    """The same with restarts, until a rare coincidence has had its chance."""
    spec, timeline = case
    shell = play(declared(spec).start(ns(START)), timeline, restarts=restarts)

    assert_same(shell, spec, timeline)
