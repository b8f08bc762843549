"""What held a firing back, though the pattern was met: run modes, pauses, circuits."""

from __future__ import annotations

from typing import Any

import pytest
from tests.triggers.played import RULE, Played, at, explained, played

from headrace import on
from headrace.engine import record as r
from headrace.engine.decider import Queue, RunMode
from headrace.triggers.explain.outcome import outcome_of

a = on("a")
KEYED = a.key(lambda e: e.data)


def last_event(made: Played) -> int:
    return [n for n, one in enumerate(made.records, 1) if isinstance(one, r.EventStored)][-1]


MODES: dict[str, tuple[RunMode, list[float], str, str, list[str]]] = {
    "parallel": (
        "parallel",
        [0, 1],
        "fired",
        "the pattern was met by #4; run 5 of rule was made",
        [],
    ),
    "single": (
        "single",
        [0, 1],
        "suppressed",
        (
            "the pattern was met by #4, and the firing was dropped by the run mode: run 3 of the "
            "same key is open"
        ),
        ["run 3 had ended before"],
    ),
    "queue": (
        Queue(max=1),
        [0, 1],
        "fired",
        "the pattern was met by #4; run 5 waits for its turn while run 3 is active (run mode)",
        [],
    ),
    "latest": (
        "latest",
        [0, 1, 2],
        "fired",
        (
            "the pattern was met by #6; run 8 waits for its turn while run 3 is active, instead of "
            "run 5 (run mode)"
        ),
        [],
    ),
    "restart": (
        "restart",
        [0, 1],
        "fired",
        (
            "the pattern was met by #4; run 6 begins when run 3 has ended, which is cancelled for "
            "it (run mode)"
        ),
        [],
    ),
    "queue, full": (
        Queue(max=1),
        [0, 1, 2],
        "suppressed",
        (
            "the pattern was met by #6, and the firing was dropped by the run mode: runs 3 and 5 "
            "of the same key are open"
        ),
        ["run 3 had ended before"],
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_what_a_run_mode_made_of_a_firing(name: str) -> None:
    """The run that was in the way is named, and what would have let this one begin."""
    mode, times, verdict, because, wishes = MODES[name]
    made = played(a, at(*times), mode=mode)
    found = explained(made, last_event(made))

    assert (found.verdict, found.because, found.wishes) == (verdict, because, wishes)


def test_a_run_in_the_way_is_of_the_same_key() -> None:
    """Another key's run does not keep this one from starting."""
    made = played(KEYED, [(0, "a", "k1"), (1, "a", "k2"), (2, "a", "k1")], mode="single")
    second, third = explained(made, 4), explained(made, 6)

    assert second.because == "the pattern was met by #4; run 5 of rule of key 'k2' was made"
    assert third.verdict == "suppressed"
    assert "run 3 of the same key is open" in third.because
    assert third.firings[0]["outcome"] == "dropped"


def test_a_paused_rule_and_an_open_circuit() -> None:
    """It was met, and what kept the run from starting is no part of its pattern."""
    made = played(a, at(0))
    made.submit(r.BreakerMoved(NS, RULE, "open", 5, 90 * NS))
    made.emit(2, "a", 2)
    broken = explained(made, last_event(made))
    made.submit(r.RulePaused(3 * NS, RULE, paused=True))
    made.emit(4, "a", 4)
    paused = explained(made, last_event(made))

    assert broken.verdict == "fired"
    assert broken.because.endswith(
        "was made, and does not begin: the circuit of rule is open until 1970-01-01T00:01:30Z, "
        "after 5 failures"
    )
    assert paused.verdict == "suppressed"
    assert paused.because.endswith("and the rule is paused: no run is made")
    assert paused.wishes == ["the rule had not been paused"]


NS = 1_000_000_000


def test_a_rule_that_is_another_one_today() -> None:
    """Today's rule would say something that was not so then; the way out is `whatif`."""
    made = played(a.count(2, within=5), at(0))
    changed: Any = made.records[0]
    made.records[0] = r.EngineStarted(0, "", "input", {RULE: "another"})
    found = explained(made, 2)

    assert changed is not None
    assert found.verdict == "not in force"
    assert found.because == (
        "rule rule: it was another one there: it has changed since; `headrace whatif` says what "
        "today's would have made of it"
    )


def test_a_rule_that_was_not_there_yet() -> None:
    """The rules that were there are named: it may only have another name today."""
    made = played(a.count(2, within=5), at(0))
    made.records[0] = r.EngineStarted(0, "", "input", {"old": "1", "older": "2"})
    found = explained(made, 2)

    assert found.verdict == "not in force"
    assert found.because == (
        "rule rule: it was not in force there; the rules in force were old, older"
    )


def test_a_firing_whose_causes_are_too_deep() -> None:
    """It is no run, and that is said of the key that it was of."""
    state = played(a, at(0)).kernel.state
    loop = [(7, r.RuleLoop(RULE, "k1", [6], 65))]
    told = outcome_of(state, RULE, loop, ())

    assert told.verdict == "suppressed"
    assert told.because == "its causes are 65 deep: that is taken for a loop"
    assert outcome_of(state, RULE, loop, ("k1",)).because == told.because
    assert outcome_of(state, RULE, loop, ("k2",)).because == ""


def test_a_firing_that_nobody_was_there_for() -> None:
    """A timer that was due while no engine ran, and history that is folded in, make no run."""
    state = played(a, at(0)).kernel.state
    missed = r.RuleFired(RULE, None, [2], "missed", due_ns=5 * NS)
    history = r.RuleFired(RULE, None, [2], "history")
    by_time = outcome_of(state, RULE, [(7, missed)], ())
    by_history = outcome_of(state, RULE, [(7, history)], ())

    assert by_time.verdict == by_history.verdict == "suppressed"
    assert by_time.because == (
        "the pattern was met by #2 at 1970-01-01T00:00:05Z while no engine ran, and that is too "
        "long ago (on_missed)"
    )
    assert by_history.because.endswith("by history that is folded in: no run is made")
