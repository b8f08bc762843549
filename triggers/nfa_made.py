"""The states of a sequence's automaton while `headrace.triggers.nfa_compile` makes them."""

from __future__ import annotations

from enum import Enum
from typing import Final

from headrace.triggers.nfa import IGNORED, Test

ALWAYS: Final[Test] = (0, 0)
EDGES_MAX: Final = 2000
"""Ways to go on from one state."""


class Action(Enum):
    """What an edge does with the event."""

    TAKE = "take"
    IGNORE = "ignore"
    PROCEED = "proceed"


class Kind(Enum):
    """What is special about a state."""

    NORMAL = "normal"
    PENDING = "pending"
    """The pattern is met once time is over."""
    STOP = "stop"
    """Whoever comes here has met a negation."""
    FINAL = "final"


class Made:
    """A state while it is made."""

    __slots__ = ("edges", "kind", "step")

    def __init__(self, kind: Kind = Kind.NORMAL, step: int = IGNORED) -> None:
        self.kind = kind
        self.step = step
        """Number of the step that its events are taken by."""
        self.edges: list[tuple[Action, Made, Test]] = []

    def take(self, target: Made, test: Test | None) -> None:
        """Add an edge that takes the event, if there is a test that can be met."""
        if test is not None:
            self.edges.append((Action.TAKE, target, test))

    def ignore(self, target: Made, test: Test | None) -> None:
        """Add an edge that ignores the event, if there is a test that can be met."""
        if test is not None:
            self.edges.append((Action.IGNORE, target, test))

    def proceed(self, target: Made, test: Test | None = ALWAYS) -> None:
        """Add an edge to *target* for the same event, if there is a test that can be met."""
        if test is not None:
            self.edges.append((Action.PROCEED, target, test))


def both(*tests: Test | None) -> Test | None:
    """Return the test that is met if all are; ``None`` if that cannot be."""
    care = want = 0
    for test in tests:
        if test is None or (want ^ test[1]) & care & test[0]:
            return None
        care |= test[0]
        want |= test[1]
    return care, want


def harden(state: Made, greed: Test) -> None:
    """Let no edge of *state* have what a greedy loop before it takes."""
    spared = (greed[0], 0)
    edges = [(action, target, both(test, spared)) for action, target, test in state.edges]
    state.edges = [(action, target, test) for action, target, test in edges if test is not None]


def copy(state: Made) -> Made:
    """Return a copy of *state*; edges to itself lead to the copy."""
    made = Made(state.kind, state.step)
    made.edges = [
        (action, made if target is state else target, test) for action, target, test in state.edges
    ]
    return made


def copies_without(state: Made, stops: set[Made]) -> list[Made]:
    """Return copies of *state* and of all that it proceeds to that do not know of *stops*."""
    copies: dict[int, Made] = {}
    originals: list[Made] = []

    def copy_of(original: Made) -> Made:
        if id(original) not in copies:
            copies[id(original)] = Made(original.kind, original.step)
            originals.append(original)
        return copies[id(original)]

    copy_of(state)
    for original in originals:  # grows meanwhile
        made = copies[id(original)]
        for action, target, test in original.edges:
            if action is not Action.PROCEED:
                made.edges.append((action, made if target is original else target, test))
            elif target.kind is not Kind.STOP:
                made.edges.append((action, copy_of(target), test))
            elif target not in stops:
                made.edges.append((action, target, test))
    return [copies[id(original)] for original in originals]


def closure(state: Made) -> list[tuple[Action, Made, Test, int]]:
    """Return the edges of *state* and of all that it proceeds to, in Flink's order.

    That is depth first: a state's own edges come before those of the states behind, and of
    several it goes on with the last.
    """
    found: list[tuple[Action, Made, Test, int]] = []
    waiting: list[tuple[Made, Test]] = [(state, ALWAYS)]
    while waiting:
        at, so_far = waiting.pop()
        for action, target, test in at.edges:
            whole = both(so_far, test)
            if whole is None:
                continue
            if action is Action.PROCEED:
                waiting.append((target, whole))
            else:
                found.append((action, target, whole, at.step))
        if len(found) + len(waiting) > EDGES_MAX:
            raise ValueError(
                f"sequence(…): a state has more than {EDGES_MAX} ways to go on; expected fewer "
                f"steps and groups in a row that may be left out"
            )
    return found


def ways_to_final(state: Made) -> tuple[Test, ...]:
    """Return the tests any of which lets the pattern be met by what has come to *state*."""
    ways: list[Test] = []
    waiting: list[tuple[Made, Test]] = [(state, ALWAYS)]
    while waiting:
        at, so_far = waiting.pop()
        for action, target, test in at.edges:
            whole = both(so_far, test)
            if action is not Action.PROCEED or whole is None:
                continue
            if target.kind is Kind.FINAL:
                ways.append(whole)
            else:
                waiting.append((target, whole))
    return tuple(ways)
