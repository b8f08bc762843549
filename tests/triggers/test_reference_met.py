"""Cases in which the engine and the reference model once differed, smallest first.

Random patterns come upon some of them only now and then; these do each time.
"""

from __future__ import annotations

import pytest
from tests.reference.functions import is_even, total
from tests.reference.happened import Given
from tests.reference.playing import START, assert_same, declared, play
from tests.reference.shell import ns
from tests.reference.spec import (
    Absent,
    Aggregate,
    AllOf,
    AnyOf,
    Batch,
    Every,
    Hold,
    Key,
    On,
    Part,
    RateLimit,
    Sequence,
    Session,
    Silent,
    Spec,
    Throttle,
    Where,
    Windows,
)

A, B = On("a"), On("b")


def at(*seconds: float) -> list[Given]:
    return [Given(second, "a", number) for number, second in enumerate(seconds)]


def a_and_b(text: str) -> list[Given]:
    """``a0 b5``."""
    return [Given(float(word[1:]), word[0], 2) for word in text.split()]


def timeouts(*steps: Spec) -> Sequence:
    return Sequence(tuple(Part(step) for step in steps), 9, on_timeout=True)


BEHIND_TIMERS: dict[str, tuple[Spec, list[Given]]] = {
    "a batch that a timer fills": (Batch(Silent(A, 1, "once"), 1), at(0)),
    "a batch that a timer fills by bytes": (Batch(Session(A, 1), bytes_max=1), at(0)),
    "a batch that schedules fill": (Batch(AnyOf((Every(2),)), 2), []),
    "a rate that is no whole nanosecond": (RateLimit(A, 3, 1, 1), at(0, 0, 0, 0)),
}
TOLD_LATER: dict[str, tuple[Spec, list[Given]]] = {
    "silence of branches": (Silent(AnyOf((A,)), 1, "once"), at(0)),
    "silence of a full batch": (Silent(Batch(A, 1), 1, "once"), at(0)),
    "silence of all": (Silent(AllOf((A, A), None), 1, "once"), at(0)),
    "silence of a first of a throttle": (Silent(Throttle(A, 1, "both"), 1, "once"), at(0)),
    "absence after branches": (Absent(B, AnyOf((A,)), 1), at(0)),
    "absence after a full batch": (Absent(B, Batch(A, 1), 1), at(0)),
    "absence after all": (Absent(B, AllOf((A, A), None), 1), at(0)),
}
COMBINED: dict[str, tuple[Spec, list[Given]]] = {
    "the first that has not expired": (AllOf((A, B), 10, "first"), a_and_b("a0 a5 b10")),
    "the first that has not expired for a timer": (
        AllOf((Windows(A, 2, 2), A), 2, "first"),
        at(0, 1),
    ),
    "a fold of one event that two branches took": (Aggregate(AllOf((A, A), None), total), at(0, 1)),
    "one event takes a step, and the next when a timer lets it go": (
        Sequence((Part(A), Part(Throttle(A, 1, "trailing")))),
        at(0),
    ),
    "one event is the first and the last that is true": (
        Hold(Where(Windows(A, 3, 2), is_even), 2),
        at(0),
    ),
}
ORDER: dict[str, tuple[Spec, list[Given]]] = {
    "partials of one start time run out together": (timeouts(A, A, A), at(0, 0)),
    "one that fires lets none that run out go": (
        Sequence(
            (Part(A, "s1"), Part(A, "s2"), Part(A, "s3"), Part(A, is_not=True)),
            9,
            on_timeout=True,
        ),
        at(0, 0, 0),
    ),
    "the end of the next partial is set when one runs out": (
        Throttle(timeouts(A, A, A, A), 7, "trailing"),
        at(0, 5, 7),
    ),
    "the end of the next window is set when one ends": (
        Windows(AnyOf((Absent(B, Key(A, lambda e: "k"), 1), Every(3))), 3, 2),
        at(1),
    ),
    "what waits for a join is armed after what does not": (
        AllOf((Absent(A, On("*"), 1), Session(A, 1)), None),
        a_and_b("b0 a1"),
    ),
    "a start that has run out is not replaced": (
        Sequence((Part(AnyOf((Every(1),))), Part(A)), 1, anchor="last", on_timeout=True),
        [],
    ),
}
MET = {**BEHIND_TIMERS, **TOLD_LATER, **COMBINED, **ORDER}


@pytest.mark.parametrize(("spec", "timeline"), MET.values(), ids=MET.keys())
def test_what_once_differed(spec: Spec, timeline: list[Given]) -> None:
    """Times, events, reasons and order, as the text has them."""
    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)
    assert shell.refold().dump() == shell.kernel.dump()
