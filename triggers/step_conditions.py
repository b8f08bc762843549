"""What is asked of an event when a partial match meets it: a sequence's conditions of steps.

Those that see the events taken so far (``.where(lambda e, m: …)``), and ``until``.  They are
asked only of partials in whose state the answer matters, and once for each state of things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.triggers.condition import test_of
from headrace.triggers.hit import Hit, Need
from headrace.triggers.nfa import START, Bits, Node, nodes_of
from headrace.triggers.nodes_joined import SequenceNode
from headrace.triggers.pattern import Match
from headrace.triggers.reach import relative_conditions
from headrace.triggers.stage import asked

Conditions = tuple[Callable[..., object], ...]


class StepConditions:
    """The conditions of one sequence that are asked for each partial."""

    def __init__(self, node: SequenceNode, rule: str) -> None:
        self.rule = rule
        steps = node.steps
        self.names: Final = tuple(step.name for step in steps)
        self.positive = [step.name for step in steps if not step.is_not]
        self.relative: list[tuple[int, int, Conditions]] = []
        """Bit, number of the step, and what must hold for the step to be met."""
        self.endings: list[tuple[int, int, Conditions, bool]] = []
        """Bit, number of the step, what ends its loop, and whether that is relative."""
        for number, step in enumerate(steps):
            found = tuple(one.condition for one in relative_conditions(step.source))
            if found:
                self.relative.append((1 << number, number, found))
            if step.until is not None:
                test = step.until if step.until_is_relative else test_of(step.until)
                bit = 1 << (len(steps) + number)
                self.endings.append((bit, number, (test,), step.until_is_relative))
        self._bits = sum(bit for bit, *_ in self.relative)
        sees_match = bool(self.relative) or any(ending[3] for ending in self.endings)
        self.keeps = Need.ALL if sees_match else Need.NONE
        """How much of the events that a partial has taken they read."""
        self.need = Need.LAST if self.endings else self.keeps
        """How much of a new event they read."""

    def about(
        self, bits: int, hit: Hit, hits: Mapping[int, Hit], out: list[Verdict]
    ) -> Bits | None:
        """Return what settles the bits of an event; ``None``: they are what they are.

        *bits* are the steps that the event meets as far as can be seen without a partial,
        *hits* what it is to each of them, and *hit* any of these, or what met none.
        """
        if not self.endings and not self._bits & bits:
            return None
        return _Asking(self, bits, hit, hits, out).settle


class _Asking:
    """One event, and what was asked of it so far."""

    def __init__(
        self,
        conditions: StepConditions,
        bits: int,
        hit: Hit,
        hits: Mapping[int, Hit],
        out: list[Verdict],
    ) -> None:
        self._conditions = conditions
        self._bits = bits
        self._hit = hit
        self._hits = hits
        self._out = out
        self._answers: dict[tuple[int, int], bool] = {}
        self._matches: dict[int, Match] = {}
        self._failed = 0  # bits of conditions that have raised

    def settle(self, care: int, last: Node) -> int:
        """Return the bits, of those in *care*, for a partial that has taken *last*."""
        bits = self._bits & care
        for bit, number, conditions in self._conditions.relative:
            if bits & bit and not self._holds(bit, "where", self._hits[number], conditions, last):
                bits &= ~bit
        for bit, number, conditions, is_relative in self._conditions.endings:
            if care & bit:
                hit = self._hits.get(number, self._hit)
                since = last if is_relative else None
                if hit.seen and self._holds(bit, "until", hit, conditions, since):
                    bits |= bit
        return bits

    def _holds(
        self, bit: int, place: str, hit: Hit, conditions: Conditions, last: Node | None
    ) -> bool:
        known = self._answers.get((bit, id(last)))
        if known is None:
            known = all(self._asked(bit, place, hit.event, one, last) for one in conditions)
            self._answers[bit, id(last)] = known
        return known

    def _asked(
        self,
        bit: int,
        place: str,
        event: Event[Any],
        condition: Callable[..., object],
        last: Node | None,
    ) -> bool:
        """Ask one condition; the same failure for many partials is recorded once."""
        errors: list[Verdict] = []
        given = () if last is None else (self._match(last),)
        _, answer = asked(
            self._conditions.rule,
            place,
            lambda *these: bool(condition(*these)),
            event,
            errors,
            *given,
        )
        if errors and not self._failed & bit:
            self._failed |= bit
            self._out += errors
        return answer is True

    def _match(self, last: Node) -> Match:
        """Return the events that a partial has taken, by step; a step without any has ``[]``."""
        match = self._matches.get(id(last))
        if match is None:
            events: dict[str, list[Event[Any]]] = {name: [] for name in self._conditions.positive}
            if last is not START.node:
                for node in reversed(list(nodes_of(last))):
                    name = self._conditions.names[node.step]
                    events[name] += [seen.event for seen in node.hit.seen]
            match = self._matches[id(last)] = MappingProxyType(events)
        return match
