"""`sequence`: what it holds, how much of that, and that nothing of it is lost or made up."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle.ours import pattern_of
from tests.oracle.record import recorded
from tests.reference.shell import MakeRules, Shell, check, ns, rules

from headrace import field, group, not_, on, sequence, step
from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace.engine.snapshot import Snapshot, load
from headrace.triggers import nfa, sequence_plain
from headrace.triggers.hit import Need
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule
from headrace.triggers.sequence import SequenceStage


def kind(letters: str, keys_max: int = 100) -> Pattern[Any]:
    """Events whose text begins with one of *letters*; its second letter is the key."""
    started = on("ev", str).where(lambda e: e.data[0] in letters)
    return started.key(lambda e: e.data[1], keys_max=keys_max)


a, b, c, d, x = (kind(letter) for letter in "abcdx")
AS_BEFORE = b.where(lambda e, m: e.data >= max((one.data for one in m["l"]), default=""))

PATTERNS: dict[str, Pattern[Any]] = {
    "plain": sequence(a, b, c, within=7),
    "plain, every": sequence(a, b, c, anchor="every"),
    "plain, last": sequence(a, b, within=5, anchor="last"),
    "strict": sequence(a, kind("bc"), contiguity="strict", within=9, on_timeout=True),
    "any, and then counted": sequence(a, b, contiguity="any", anchor="every").count(3, within=20),
    "a loop with a memory": sequence(
        a, step("l", AS_BEFORE).times(1, 3, greedy=False), c, skip="to_next"
    ),
    "combinations, all events read": sequence(
        step("l", kind("ab")).times(2, None, inner="any"), c, skip=("to_last", "l"), within=30
    ).aggregate(len),
    "groups, until, a negation": sequence(
        a,
        step("o", b).times(1, None).until(lambda e, m: e.data[0] == "x").optional(),
        group("g", step("p", c), step("q", d).optional()).times(1, None),
        not_(x),
        within=8,
        on_timeout=True,
    ),
    "a gap": sequence(a, step("o", b).optional(), c, within_gap=4, on_timeout=True),
    "one waits for another": sequence(
        a, kind("ab").where(lambda e, m: e.data > m["s1"][0].data), skip="past_last", within=12
    ),
}


def of_any(*patterns: Pattern[Any]) -> MakeRules:
    """Rules with a version, since these functions come from anywhere."""
    named = enumerate(patterns, 1)
    return rules(*(Rule(f"r{place}", pattern, "parallel", "1") for place, pattern in named))


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("aaabbbccdx"), st.sampled_from("11123")),
    max_size=24,
)
Events = list[tuple[int, str, str]]


def play(shell: Shell, events: Events, at: int = 0) -> int:
    """Let events happen, each so many seconds after the one before; return the time then."""
    for pause, letter, key in events:
        at += pause
        shell.emit(ns(at), "ev", f"{letter}{key}")
    return at


# ---------------------------------------------------------------- snapshots and crashes


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
@given(events=EVENTS)
@settings(max_examples=25)
def test_a_fold_is_what_was_live(name: str, events: Events) -> None:
    """A restart knows each partial, in its order, and derives each firing again."""
    shell = Shell(of_any(PATTERNS[name])).start(0)
    at = play(shell, events)
    check(shell)
    shell.tick(ns(at + 40))
    check(shell)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
@given(events=EVENTS, split=st.integers(0, 24))
@settings(max_examples=25)
def test_a_snapshot_holds_all_of_it(name: str, events: Events, split: int) -> None:
    """What is loaded is what was there, shared as it was, and goes on in the same way."""
    shell = Shell(of_any(PATTERNS[name])).start(0)
    at = play(shell, events[:split])
    loaded = Shell(shell.make_rules, shell.units)
    loaded.kernel = Kernel(shell.make_rules())
    load(loaded.kernel, list(Snapshot(shell.kernel).parts(2)))
    assert loaded.kernel.dump() == shell.kernel.dump()
    assert nodes_of(loaded) == nodes_of(shell)

    for one in (shell, loaded):
        one.made.clear()
        one.tick(ns(play(one, events[split:], at) + 40))
    assert loaded.made == shell.made
    assert loaded.kernel.dump() == shell.kernel.dump()


def nodes_of(shell: Shell) -> int:
    """How many nodes the partials have in all."""
    decider = cast("Any", shell.kernel.state.decider)
    stages = [stage for one in decider._automata.values() for stage in one.stages]
    seen: set[int] = set()
    for stage in stages:
        if isinstance(stage, SequenceStage):
            for state in dict(stage._table.items()).values():
                for partial in [*state.partials, *state.completed]:
                    seen |= {id(node) for node in nfa.nodes_of(partial.node)}
    return len(seen - {id(nfa.START.node)})


@pytest.mark.parametrize("name", PATTERNS)
def test_a_crash_at_each_unit_changes_nothing(name: str) -> None:
    """Whatever survives, the same firings follow, at the same times."""
    names = ("a1", "b1", "a2", "a1", "b2", "x1", "c1", "d1", "c2")
    events: Events = [(1, name[0], name[1]) for name in names]
    whole = Shell(of_any(PATTERNS[name])).start(0)
    end = play(whole, events)
    whole.tick(ns(end + 40))
    for kept in range(1, len(whole.units) + 1):
        shell = whole.crashed(kept)
        shell.start(shell.at_ns)
        stored = len(shell.of_kind(r.EventStored))
        play(shell, events[stored:], sum(pause for pause, *_ in events[:stored]))
        shell.tick(ns(end + 40))
        assert fired_by(shell) == fired_by(whole)
        check(shell)


def fired_by(shell: Shell) -> list[Any]:
    """Firings with the texts of their events: a restart is a record that shifts sequences."""
    stored = [r.decode(raw) for raw in shell.records]
    texts = {
        sequence: msgspec.msgpack.decode(one.data)
        for sequence, one in enumerate(stored, 1)
        if isinstance(one, r.EventStored)
    }
    made: list[Any] = []
    for one in shell.of_kind(r.RuleFired):
        details = one.details or r.Details()
        steps = {
            name: [texts[event] for event in taken] for name, taken in (details.steps or {}).items()
        }
        made.append((one.key, [texts[event] for event in one.events], steps, details.reason))
    return made


def test_a_snapshot_names_the_oldest_event_that_is_still_needed() -> None:
    """Retention keeps what a partial has taken for as long as it is open."""
    for pattern in (sequence(a, b, c), sequence(a, step("l", b).times(2), c)):
        shell = Shell(of_any(pattern)).start(0)
        first = shell.emit(ns(1), "ev", "a1")
        shell.emit(ns(2), "ev", "b1")
        for _ in range(20):
            shell.emit(ns(3), "ev", "x1")
        taken = Snapshot(shell.kernel)
        list(taken.parts(2))
        assert taken.oldest_sequence == first


# ---------------------------------------------------------------- bounds


PLAIN_OR_NOT = {
    "plain": sequence(a, b, anchor="every", partials_max=2),
    "general": sequence(a, b, skip="to_next", partials_max=2),
}


@pytest.mark.parametrize("pattern", PLAIN_OR_NOT.values(), ids=PLAIN_OR_NOT)
def test_of_too_many_partials_the_oldest_goes(pattern: Pattern[Any]) -> None:
    """Memory is bounded (law L6), and what was lost is on record."""
    shell = Shell(of_any(pattern)).start(0)
    first, second, third = (shell.emit(ns(1), "ev", "a1") for _ in range(3))
    shell.emit(ns(2), "ev", "a2")
    last = shell.emit(ns(3), "ev", "b1")

    evicted = shell.of_kind(r.RuleEvicted)
    assert [(one.key, one.what) for one in evicted] == [("1", "partial")]
    assert shell.fired() == [("r1", "1", [second, last]), ("r1", "1", [third, last])]
    assert first < second
    check(shell)


def test_a_match_that_waited_for_an_evicted_one_is_handed_on() -> None:
    """Nothing waits for a partial that is not there any more."""
    bigger = kind("b").where(lambda e, m: e.data[2] > m["s1"][0].data[2])
    shell = Shell(of_any(sequence(a, bigger, skip="past_last", partials_max=2))).start(0)
    shell.emit(ns(1), "ev", "a19")
    small = shell.emit(ns(2), "ev", "a11")
    last = shell.emit(ns(3), "ev", "b15")
    assert shell.fired() == []
    shell.emit(ns(4), "ev", "a18")

    assert shell.fired() == [("r1", "1", [small, last])]
    assert len(shell.of_kind(r.RuleEvicted)) == 1
    check(shell)


def test_a_loop_without_bound_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial that takes for ever cannot fill the memory: it goes, which is recorded."""
    monkeypatch.setattr(nfa, "LENGTH_MAX", 4)
    shell = Shell(of_any(sequence(a, step("l", b).times(1, None), c))).start(0)
    shell.emit(ns(1), "ev", "a1")
    for second in range(2, 5):
        shell.emit(ns(second), "ev", "b1")
    assert len(shell.of_kind(r.RuleEvicted)) == 0
    shell.emit(ns(5), "ev", "b1")
    shell.emit(ns(6), "ev", "c1")

    assert [one.what for one in shell.of_kind(r.RuleEvicted)] == ["partial"]
    assert shell.fired() == []
    assert shell.kernel.dump() == shell.refold().dump()
    (stage,) = cast("Any", shell.kernel.state.decider)._automata["r1"].stages
    assert len(stage) == 0
    check(shell)


@pytest.mark.slow
def test_a_chain_of_events_is_freed_without_recursion() -> None:
    """Ten thousand events of one partial, and then its end."""
    node: nfa.Node | None = None
    for turn in range(300_000):
        node = nfa.node_after(node, nfa.NOTHING, 0, turn)
    del node


@pytest.mark.parametrize("anchor", ["first", "every"])
def test_of_too_many_keys_the_one_unheard_of_goes(anchor: Any) -> None:
    """Its timer goes with it."""
    start, end = kind("a", keys_max=2), kind("b", keys_max=2)
    for pattern in (
        sequence(start, end, within=50, anchor=anchor),
        sequence(start, step("l", end).times(1, 2), within=50, anchor=anchor),
    ):
        shell = Shell(of_any(pattern)).start(0)
        play(shell, [(1, "a", "1"), (1, "a", "2"), (1, "a", "1"), (1, "a", "3")])

        assert [(one.key, one.what) for one in shell.of_kind(r.RuleEvicted)] == [("2", "key")]
        assert len(shell.kernel.state.timers.dump()[1]) == 2
        check(shell)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_nothing_is_left_behind(pattern: Pattern[Any]) -> None:
    """A key without partials is no key, and has no timer (law L6)."""
    quiet = [(1, letter, key) for key in "12" for letter in "abbcxd"]
    shell = Shell(of_any(pattern)).start(0)
    shell.tick(ns(play(shell, [*quiet, *quiet]) + 40))

    assert shell.kernel.state.timers.dump()[1] == []
    for automaton in cast("Any", shell.kernel.state.decider)._automata.values():
        sequence_stage = automaton.stages[-1]
        for state in dict(sequence_stage._table.items()).values():
            assert len(state.partials) > (isinstance(sequence_stage, SequenceStage) and 1)


def test_partials_share_their_beginning() -> None:
    """However many overlap, each partial costs one node, in memory and in a snapshot."""
    combinations = sequence(
        a, step("l", b).times(1, None, inner="any"), c, anchor="every", partials_max=5000
    )
    shell = Shell(of_any(combinations)).start(0)
    play(shell, [(1, "a", "1"), *[(1, "b", "1")] * 8])
    (stage,) = cast("Any", shell.kernel.state.decider)._automata["r1"].stages
    ((_, state),) = stage._table.items()

    choices = 2**7  # the first is taken, and of the others any
    assert len(state.partials) > choices
    assert nodes_of(shell) == 1 + choices
    assert len(stage.dump()[0][2]) == 1 + choices


# ---------------------------------------------------------------- the short way is the long one


def plain_patterns() -> st.SearchStrategy[Pattern[Any]]:
    """Sequences of single events, one after the other."""
    steps = st.lists(st.sampled_from([a, b, c, kind("ab"), kind("bc")]), min_size=2, max_size=4)
    return st.builds(
        lambda members, within, anchor, most: sequence(
            *members, within=within, anchor=anchor, partials_max=most
        ),
        steps,
        st.sampled_from([None, 1, 3, 6]),
        st.sampled_from(["first", "last", "every"]),
        st.sampled_from([1, 2, 3, 1000]),
    )


@pytest.mark.slow
@given(pattern=plain_patterns(), events=EVENTS)
@settings(max_examples=400)
def test_plain_sequences_need_no_automaton(pattern: Pattern[Any], events: Events) -> None:
    """The quick way gives the firings and evictions of the general one."""

    def lived() -> list[Any]:
        shell = Shell(of_any(pattern)).start(0)
        shell.tick(ns(play(shell, events) + 20))
        check(shell)
        fired = [(f.key, f.events, f.details, f.due_ns) for f in shell.of_kind(r.RuleFired)]
        evicted = [(one.key, one.what) for one in shell.of_kind(r.RuleEvicted)]
        return [fired, evicted, shell.kernel.state.timers.dump()[1]]

    assert sequence_plain.is_plain(cast("Any", pattern.node), Need.NONE)
    quick = lived()
    with patch("headrace.triggers.sequence.is_plain", lambda node, need: False):
        assert lived() == quick


# ---------------------------------------------------------------- many at once


@pytest.mark.slow
def test_patterns_of_the_corpus_are_folded_as_they_lived() -> None:
    """Loops in groups in loops: live state and folded state are the same bytes."""
    cases = [case for case in recorded()[::40] if "refused" not in case]
    for case in cases:
        has_end = case["pattern"]["within"] or case["pattern"]["within_gap"]
        try:
            pattern = pattern_of(case["pattern"], on_timeout=bool(has_end))
        except ValueError:
            continue
        shell = Shell(rules(Rule("r1", pattern, "parallel", "1"))).start(0)
        for event in case["events"]:
            shell.emit(ns(event["t"] / 1000), "e", event)
        check(shell)
        loaded = Kernel(shell.make_rules())
        load(loaded, list(Snapshot(shell.kernel).parts(2)))
        assert loaded.dump() == shell.kernel.dump()


def test_the_state_is_plain_data() -> None:
    """It can be encoded, so it can be written out."""
    shell = Shell(of_any(*PATTERNS.values())).start(0)
    play(shell, [(1, letter, "1") for letter in "aabbacb"])
    for automaton in cast("Any", shell.kernel.state.decider)._automata.values():
        assert msgspec.msgpack.encode(automaton.dump())


def test_structured_conditions_do_in_steps() -> None:
    """`field` is as good as a function, in `where`, `key` and `until`."""
    start = on("s", dict).where(field("state") == "on").key(field("id"))
    more = step("m", on("m", dict).key(field("id"))).times(1, None).until(field("v") > 5)
    stop = on("s", dict).where(field("state") == "off").key(field("id"))
    shell = Shell(of_any(sequence(start, more, stop))).start(0)
    shell.emit(ns(1), "s", {"id": 7, "state": "on"})
    shell.emit(ns(2), "m", {"id": 7, "v": 1})
    shell.emit(ns(3), "m", {"id": 7, "v": 9})
    shell.emit(ns(4), "s", {"id": 7, "state": "off"})

    (fired,) = shell.of_kind(r.RuleFired)
    assert (fired.key, len(fired.events)) == (7, 3)
