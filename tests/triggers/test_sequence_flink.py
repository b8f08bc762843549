"""`sequence` gives the answers of Apache Flink CEP 1.20, as they are recorded.

First its automaton is compared with Flink's answers, driven as Flink's operator drives it, with
what Flink passes over passed over too.  Then the engine is: by its own timers, and directly with
Flink where both have the same states and no two partials run out between two events.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from tests.oracle.ours import FlinkCompiler, Play, node_of, pattern_of, shape
from tests.oracle.record import recorded

from headrace.testing import firings
from headrace.triggers.nfa_compile import compile_sequence

Case = dict[str, Any]
Said = list[tuple[float, dict[str, list[Any]]]]
"""When, in seconds, and the events by step."""

pytestmark = pytest.mark.slow

EACH = 4
"""Of the cases that go through the whole engine each so many-th is played, and all in a soak."""


@cache
def corpus() -> list[Case]:
    """All cases, which nobody changes."""
    return recorded()


@cache
def answered() -> list[Case]:
    """The cases that Flink gave an answer to."""
    return [case for case in corpus() if "refused" not in case]


def is_refused(case: Case) -> bool:
    """Whether `sequence` has no such pattern."""
    try:
        pattern_of(case["pattern"])
    except ValueError:
        return True
    return False


def engine(case: Case) -> tuple[Said, Said]:
    """The matches and timeouts of an engine."""
    pattern, until = case["pattern"], case["until"]
    has_end = bool(pattern["within"] or pattern["within_gap"])
    timeline = [(event["t"] / 1000, "e", event) for event in case["events"]]
    fired = firings(pattern_of(pattern, on_timeout=has_end), timeline, until=until and until / 1000)
    said: tuple[Said, Said] = ([], [])
    for firing in fired:
        steps = {name: [event.data for event in taken] for name, taken in firing.steps.items()}
        said[firing.reason == "timeout"].append((firing.at, steps))
    return said


def expected(case: Case, matches: list[Any], timeouts: list[Any]) -> tuple[Said, Said]:
    """Recorded matches and timeouts in the same form."""
    events = case["events"]

    def steps(found: Any) -> dict[str, list[Any]]:
        return {name: [events[one] for one in taken] for name, taken in found["steps"].items()}

    def at(found: Any) -> float:
        when = found["at"]
        return (events[when]["t"] if isinstance(when, int) else int(when[2:])) / 1000

    return (
        [(at(found), steps(found)) for found in matches],
        [(found["t"] / 1000, steps(found)) for found in timeouts],
    )


def check_engine(case: Case) -> bool:
    """Compare the engine with headrace's states; where it says as much, with Flink's answer."""
    ours = Play.of_headrace(case)
    made = engine(case)
    assert made == expected(case, ours.matches, ours.timeouts), case
    flink = Play.of_flink(case)
    if case["pattern"]["within_gap"] or flink.dues_max > 1 or shape(ours.nfa) != shape(flink.nfa):
        return False
    matches, timeouts = expected(case, case["matches"], case["timeouts"])
    assert [steps for _, steps in made[0]] == [steps for _, steps in matches], case
    assert made[1] == timeouts, case
    times = [-1.0, *(event["t"] / 1000 for event in case["events"])]
    for (mine, _), (theirs, _), found in zip(made[0], matches, case["matches"], strict=True):
        # What time completes, Flink is told of only with the next event.
        by_time = isinstance(found["at"], str)
        since = max((t for t in times if t < theirs), default=-1.0)
        assert since <= mine <= theirs if by_time else mine == theirs, case
    return True


def test_states_and_their_order_are_flinks() -> None:
    """Whoever moves a pattern from Flink gets the same matches and timeouts in the same order."""
    for number, case in enumerate(answered()):
        play = Play.of_flink(case)
        assert (number, play.matches) == (number, case["matches"]), case
        assert (number, play.timeouts) == (number, case["timeouts"]), case


def test_the_engine_gives_flinks_answers() -> None:
    """The same through subjects, conditions, timers and firings."""
    cases = [case for case in answered()[::EACH] if not is_refused(case)]
    compared = [check_engine(case) for case in cases]

    assert sum(compared) > len(cases) / 2, "most are compared directly"


@pytest.mark.soak
def test_the_engine_gives_flinks_answers_to_all() -> None:
    """The whole corpus."""
    for case in answered():
        if not is_refused(case):
            check_engine(case)


def test_states_differ_from_flinks_only_where_flink_ignores_what_is_written() -> None:
    """Most patterns have the very same states; the others are known by what they have."""
    nodes = [node_of(case["pattern"]) for case in answered()]
    same = 0
    for case, node in zip(answered(), nodes, strict=True):
        is_same = shape(compile_sequence(node)) == shape(FlinkCompiler(node, ()).compiled())
        same += is_same
        assert is_same or may_differ(case["pattern"]["steps"], is_inside=False), case["pattern"]

    assert same > 0.8 * len(nodes)


def may_differ(steps: list[Any], *, is_inside: bool) -> bool:
    """Whether there is something that Flink passes over (see `nfa_compile`)."""
    first = steps[0]
    if is_inside and ("group" in first or (first["times"] and first["inner"] != "relaxed")):
        return True
    if is_inside and first["times"]:
        return True  # the group's inner may be another one
    if any(one.get("not") and after.get("not") for one, after in pairwise(steps)):
        return True
    *others, last = steps
    if last.get("not"):
        before = others[-1]
        if is_inside or last["contiguity"] == "strict" or "group" in before or before["times"]:
            return True
    return any(may_differ(one["group"], is_inside=True) for one in steps if "group" in one)


ONLY_WE_REFUSE = (
    "which need not take the next event; give greedy=False",  # as the semantics say
    "a negation cannot be its last step",  # in a group, where Flink mostly ignores it
    "there is no step",  # to skip to: it is a negation, which has no name here
)
ONLY_FLINK_REFUSES = (
    "Duplicate pattern name",  # of a negation, which has no name here
    "Optional pattern cannot be preceded by greedy pattern",  # `times(0, n)` it takes
    "The pattern name specified in AfterMatchSkipStrategy",  # to skip to: it is in a group
    "Option not applicable to FollowedByAny pattern",
    "Specifying a pattern with an optional path to NOT condition",
)


def test_what_one_of_both_refuses_is_known() -> None:
    """No pattern is refused, or taken, by mistake."""
    for case in corpus():
        reason = None
        try:
            pattern_of(case["pattern"])
        except ValueError as error:
            reason = str(error)
        theirs = case.get("refused")
        if reason is not None and theirs is None:
            assert any(known in reason for known in ONLY_WE_REFUSE), (reason, case)
        elif reason is None and theirs is not None:
            assert any(known in theirs for known in ONLY_FLINK_REFUSES), (theirs, case)
