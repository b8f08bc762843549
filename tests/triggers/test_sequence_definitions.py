"""A sequence that can never work, or not in one way, is refused when it is written.

With the place and the reason; and what is written prints as it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from headrace import App, group, not_, on, sequence, silent, step
from headrace.triggers.fingerprint import fingerprint
from headrace.triggers.nodes_joined import SequenceNode, StepNode
from headrace.triggers.pattern import Pattern
from headrace.triggers.sequence_checks import STATES_MAX, STEPS_MAX

a, b, c, x = on("a"), on("b"), on("c"), on("x")


def loose(function: Any) -> Any:
    """Return *function* without its types: users may not run a type checker."""
    return function


def named(name: str, **options: Any) -> Any:
    return step(name, b, **options)


Refused = tuple[Callable[[], object], type[Exception], str]

REFUSED: dict[str, Refused] = {
    # ------------------------------------------------------------ steps
    "no steps": (loose(sequence), ValueError, r"sequence\(…\): expected at least two"),
    "one step": (lambda: loose(sequence)(a), ValueError, r"at least two steps, or one that is rep"),
    "no pattern": (lambda: loose(sequence)(a, "b"), TypeError, r"patterns and steps, found 'b'"),
    "a name twice": (
        lambda: sequence(named("s"), named("s")),
        ValueError,
        r"a name of its own; 's' is there twice",
    ),
    "a made-up name": (lambda: sequence(a, named("s1")), ValueError, r"'s1' is there twice"),
    "a step named as a group": (
        lambda: sequence(a, named("g"), group("g", b, c)),
        ValueError,
        r"'g' is there twice",
    ),
    "a contiguity to nothing": (
        lambda: sequence(named("s", contiguity="strict"), a),
        ValueError,
        r"sequence: 's' is its first step",
    ),
    "a contiguity in a group to nothing": (
        lambda: sequence(a, group("g", named("s", contiguity="any"), c)),
        ValueError,
        r"group 'g': 's' is its first step.*give it to the group",
    ),
    "no such contiguity": (
        lambda: named("s", contiguity="loose"),
        ValueError,
        r"step\(contiguity='loose'\): expected 'strict', 'relaxed' or 'any'",
    ),
    "too many steps": (
        lambda: loose(sequence)(*[a] * (STEPS_MAX + 1)),
        ValueError,
        rf"{STEPS_MAX + 1} steps; expected at most {STEPS_MAX}",
    ),
    # ------------------------------------------------------------ loops
    "times twice": (lambda: named("s").times(2).times(2), ValueError, r"times\(…\) is said twice"),
    "times 0": (lambda: named("s").times(0), ValueError, r"times\(m=0\).*at least 1"),
    "times backwards": (lambda: named("s").times(3, 2), ValueError, r"times\(3, 2\)"),
    "optional twice": (
        lambda: named("s").optional().optional(),
        ValueError,
        r"step 's': \.optional\(\) is said twice",
    ),
    "until without a loop": (
        lambda: named("s").until(lambda e: True),
        ValueError,
        r"step 's': \.until\(…\) ends a loop without bound; put \.times\(m, None\) before it",
    ),
    "until of a bounded loop": (
        lambda: named("s").times(1, 3).until(lambda e: True),
        ValueError,
        r"without bound",
    ),
    "until twice": (
        lambda: named("s").times(1, None).until(lambda e: True).until(lambda e: True),
        ValueError,
        r"until\(…\) is said twice",
    ),
    "until of no function": (
        lambda: named("s").times(1, None).until(loose(3)),
        TypeError,
        r"\.until\(3\): expected a function",
    ),
    "greedy before any": (
        lambda: sequence(a, named("l").times(1, None, greedy=True), step("n", c, contiguity="any")),
        ValueError,
        r"step 'l': a greedy loop cannot stand before a step of contiguity 'any'",
    ),
    "greedy combinations": (
        lambda: sequence(a, named("l").times(1, 2, inner="any", greedy=True), c),
        ValueError,
        r"step 'l': a loop with inner='any'.*cannot be greedy",
    ),
    "too many states": (
        lambda: sequence(
            a, group("g", group("h", b, c).times(1, 100), named("s").times(100)).times(1, 100)
        ),
        ValueError,
        rf"states; expected at most {STATES_MAX}",
    ),
    "too many ways": (
        lambda: loose(sequence)(
            a,
            *(
                group(f"g{n}", named(f"p{n}").optional(), named(f"q{n}").optional()).optional()
                for n in range(12)
            ),
            c,
        ),
        ValueError,
        r"a state has more than \d+ ways to go on",
    ),
    # ------------------------------------------------------------ negations and groups
    "a negation first": (lambda: sequence(not_(x), a), ValueError, r"sequence: not_.*first step"),
    "a negation behind what may be left out": (
        lambda: sequence(named("o").optional(), not_(x), a),
        ValueError,
        r"sequence: not_\(on\('x'\)\) cannot be its first step: there need be nothing before it",
    ),
    "a negation first in a group": (
        lambda: sequence(a, group("g", not_(x), b).optional()),
        ValueError,
        r"group 'g': not_\(on\('x'\)\) cannot be its first step",
    ),
    "a negation last in a group": (
        lambda: sequence(a, group("g", b, not_(x)), c),
        ValueError,
        r"group 'g': a negation cannot be its last step",
    ),
    "a negation at the end without end": (
        lambda: sequence(a, not_(x)),
        ValueError,
        r"a negation at the end needs within=: it fires when that is over",
    ),
    "a negation of any": (
        lambda: not_(x, contiguity=loose("any")),
        ValueError,
        r"not_\(contiguity='any'\): expected 'strict' or 'relaxed'",
    ),
    "an empty group": (lambda: group("g"), ValueError, r"group\('g'\): expected steps"),
    "a group of nothing for ever": (
        lambda: sequence(a, group("g", named("s").optional()).times(1, None), c),
        ValueError,
        r"group 'g': all of its steps are optional, so it could be repeated for ever by nothing",
    ),
    # ------------------------------------------------------------ options
    "within=0": (
        lambda: sequence(a, b, within=0),
        ValueError,
        r"sequence\(within=0\).*more than 0",
    ),
    "a gap beyond within": (
        lambda: sequence(a, b, within=2, within_gap=3),
        ValueError,
        r"within=2, within_gap=3\): expected within_gap.*to be at most within",
    ),
    "a timeout without end": (
        lambda: sequence(a, b, on_timeout=True),
        ValueError,
        r"on_timeout=True\): expected within=, or nothing runs out",
    ),
    "no such anchor": (
        lambda: sequence(a, b, anchor=loose("latest")),
        ValueError,
        r"anchor='latest'\): expected 'first', 'last' or 'every'",
    ),
    "anchor and skip": (
        lambda: sequence(a, b, anchor="every", skip="none"),
        ValueError,
        r"skip='none', anchor='every'\): expected one of the two",
    ),
    "no such skip": (lambda: sequence(a, b, skip=loose("all")), ValueError, r"skip='all'\): exp"),
    "a skip of another kind": (lambda: sequence(a, b, skip=loose(3)), ValueError, r"skip=3\)"),
    "a skip to an unknown step": (
        lambda: sequence(a, b, skip=("to_first", "s3")),
        ValueError,
        r"skip=\('to_first', 's3'\)\): there is no step 's3'",
    ),
    "the last of a loop": (
        lambda: sequence(a, named("l").times(2), anchor="last"),
        ValueError,
        r"anchor='last'\): expected plain steps, found 'l'",
    ),
    "partials_max=0": (lambda: sequence(a, b, partials_max=0), ValueError, r"partials_max=0"),
    # ------------------------------------------------------------ the input stream
    "strict and a count": (
        lambda: sequence(a, step("s", b.count(2, within=5), contiguity="strict")),
        ValueError,
        r"step\('s'.*which is strict, has to see each event.*found on\('b'\).count",
    ),
    "strict by default, and a silence": (
        lambda: sequence(a, silent(b, for_=3), contiguity="strict"),
        ValueError,
        r"has to see each event on a step's subject",
    ),
    "a strict inside and a throttle": (
        lambda: sequence(a.throttle(5), named("l").times(2, inner="strict")),
        ValueError,
        r"'l' with inner='strict' has to see each event.*found on\('a'\)\.throttle",
    ),
    "until and a dedupe": (
        lambda: sequence(a.dedupe(None, 5), named("l").times(1, None).until(lambda e: True), c),
        ValueError,
        r"'l' with until has to see each event",
    ),
    "a condition before event time": (
        lambda: sequence(
            on("a").where(bool).event_time(lambda e: e.t, lateness=1),
            on("b").event_time(lambda e: e.t, lateness=1),
            contiguity="strict",
        ),
        ValueError,
        r"\.where behind \.event_time",
    ),
    # ------------------------------------------------------------ conditions
    "a relative condition outside": (
        lambda: sequence(a.where(lambda e, m: True).count(2, within=3), b),
        ValueError,
        r"takes two arguments: the second",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(
    make: Callable[[], object], error: type[Exception], text: str
) -> None:
    """A mistake costs a minute at the desk, and not a night of an alarm that never comes."""
    with pytest.raises(error, match=text):
        make()


def test_a_relative_condition_of_a_rule_is_refused_in_time() -> None:
    """Where there is no sequence around, there is nothing that it could see."""
    app = App("app")
    with pytest.raises(ValueError, match=r"takes two arguments: the second"):

        @app.rule(a.where(lambda e, m: True))
        async def never() -> None: ...


def test_all_that_is_legal_is_taken() -> None:
    """Corners that look like mistakes and are none."""
    for pattern in (
        sequence(named("l").times(2)),
        sequence(group("g", a, b)),
        sequence(named("o").optional(), step("p", c).optional()),
        sequence(a, named("o").optional(), not_(x), c),
        sequence(a, not_(x), within_gap=3),
        sequence(a, b, within=3, within_gap=3),
        sequence(a, named("l").times(1, None), step("o", c).optional(), x),
        sequence(a, group("g", named("o").optional()).times(1, 3), c),
        sequence(a, group("g", named("s")), c, skip=("to_first", "s")),
        sequence(a, named("l").times(1, None), not_(x), step("n", c, contiguity="any")),
    ):
        assert isinstance(pattern.node, SequenceNode)


def step_in(pattern: Pattern[Any], place: int) -> StepNode:
    return cast("SequenceNode", pattern.node).steps[place]


def test_a_loop_is_greedy_where_it_can_be() -> None:
    """One match when the next step comes, unless that is not bound to take it."""
    loop = named("l").times(1, None)

    assert step_in(sequence(a, loop, c), 1).quantifier.greedy
    assert not step_in(sequence(a, loop, step("n", c, contiguity="any")), 1).quantifier.greedy
    assert not step_in(sequence(a, loop, c, contiguity="any"), 1).quantifier.greedy
    combined = named("l").times(1, None, inner="any")
    assert not step_in(sequence(a, combined, c), 1).quantifier.greedy


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (sequence(a, b), "sequence(on('a'), on('b'))"),
        (
            sequence(a, step("l", b).times(1, None), within=5),
            "sequence(on('a'), step('l', on('b')).times(1, None), within=5)",
        ),
        (sequence(a, b, anchor="last"), "sequence(on('a'), on('b'), anchor='last')"),
        (sequence(a, b, anchor="every"), "sequence(on('a'), on('b'), skip='none')"),
        (sequence(a, b, skip="past_last"), "sequence(on('a'), on('b'), skip='past_last')"),
        (
            sequence(a, not_(x), group("g", b, c).times(2).optional(), within=9, on_timeout=True),
            (
                "sequence(on('a'), not_(on('x')), group('g', on('b'), on('c')).times(2, "
                "greedy=False).optional(), within=9, on_timeout=True)"
            ),
        ),
    ],
)
def test_a_sequence_prints_as_it_is_written(pattern: Pattern[Any], text: str) -> None:
    """`headrace check` shows the rule that was meant."""
    assert pattern.node.text() == text


def test_what_decides_the_matches_decides_the_fingerprint() -> None:
    """A changed rule begins empty, an unchanged one goes on (law L8)."""
    patterns = [
        sequence(a, b),
        sequence(a, b, within=5),
        sequence(a, b, within_gap=5),
        sequence(a, b, anchor="last"),
        sequence(a, b, anchor="every"),
        sequence(a, b, skip="past_last"),
        sequence(a, b, skip="to_next"),
        sequence(a, b, contiguity="strict"),
        sequence(a, b, partials_max=5),
        sequence(a, step("n", b)),
        sequence(a, not_(x), b),
        sequence(a, not_(x, contiguity="strict"), b),
        sequence(a, step("s2", b).times(1, None)),
        sequence(a, step("s2", b).times(1, None, greedy=False)),
        sequence(a, step("s2", b).optional()),
        sequence(a, group("g", b)),
    ]
    digests = {fingerprint(*pattern.node.parts(), version=None) for pattern in patterns}

    assert len(digests) == len(patterns)
    assert fingerprint(*sequence(a, b).node.parts(), version=None) in digests
