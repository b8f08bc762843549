"""`sequence` at work for the most frequent case: single events, one step after the other.

It gives the answers of `headrace.triggers.sequence` without an automaton.  Each step takes
the first event that fits, so a partial that began earlier is never behind one that began
later: they are a row by age, and no two of them have a beginning in common.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.record import RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.count import SINGLE
from headrace.triggers.hit import Hit, Need
from headrace.triggers.joins import Join
from headrace.triggers.nodes_joined import AnyNode, SequenceNode, StepNode
from headrace.triggers.reach import relative_conditions
from headrace.triggers.stage import Place, Stage, TimerStage

PlainPartial = tuple[int, ...]
"""When it began, and the sequences of the events it has taken."""


class Row(Struct):
    """The state of a key: its partial matches, the oldest first."""

    wakes: int
    """Bits of the steps that any of them waits for."""
    partials: list[PlainPartial]


class PlainSequence(Join, TimerStage[Row]):
    """The branches are the steps; one timer a key, for its oldest partial."""

    def __init__(self, place: Place, node: SequenceNode, then: Stage) -> None:
        Join.__init__(self)
        TimerStage.__init__(self, place)
        self.needs_stream = False
        self._then = then
        self._names = tuple([step.name for step in node.steps])
        self._length = len(self._names) + 1  # of a partial that is complete
        self._within_ns = node.within_ns
        self._drops = node.skip == "past_last"
        self._replaces_start = node.replaces_start
        self._partials_max = node.partials_max
        self.need = then.need

    def flush(self, out: list[Verdict]) -> None:
        """See `Join`; there are no misses, and nearly always one hit."""
        hits = self._hits
        if len(hits) == 1:
            self._hits = []
            self.step(hits[0][1].key, hits, out)
        elif hits:
            super().flush(out)

    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """See `Join`."""
        branch, hit = met[0]
        bits, at_ns = 1 << branch, hit.at_ns
        events = {branch: hit.events[0]}
        for branch, another in met[1:]:
            if branch not in events:
                bits |= 1 << branch
                events[branch] = another.events[0]
                if branch == self._length - 2:
                    hit = another  # the one that completes
        within_ns = self._within_ns
        row = self._table.peek(key)
        if row is not None and within_ns is not None and row.partials[0][0] + within_ns <= at_ns:
            # Its timer comes first, unless this is of a timer that was armed earlier.
            self._expire(key, at_ns - within_ns)
            row = self._table.peek(key)
        if row is None:
            if bits & 1:
                self.keep(key, Row(2, [(at_ns, events[0])]), out)
                if within_ns is not None:
                    self._place.arm(key, at_ns + within_ns)
            return
        if not bits & (row.wakes | 1):
            return
        row = self._table.touch(key)
        assert row is not None, "it was there"
        began_ns = row.partials[0][0]
        complete = self._advance(row, bits, events) if bits & row.wakes else None
        if complete and self._drops:
            self._settle(key, None, began_ns)
            self._then.push(self._made(complete[0], hit), out)
            return
        if bits & 1:
            self._begin(row, at_ns, events[0], key, out)
        self._settle(key, row, began_ns)
        for partial in complete or ():
            self._then.push(self._made(partial, hit), out)

    def _advance(self, row: Row, bits: int, events: dict[int, int]) -> list[PlainPartial]:
        """Let each partial take the event that it waits for; return those that are complete."""
        complete: list[PlainPartial] = []
        partials: list[PlainPartial] = []
        wakes, length = 0, self._length
        for partial in row.partials:
            step = len(partial) - 1
            if bits >> step & 1:
                partial = (*partial, events[step])  # noqa: PLW2901 (the same one, further on)
                if len(partial) == length:
                    complete.append(partial)
                    continue
            partials.append(partial)
            wakes |= 1 << (len(partial) - 1)
        row.wakes, row.partials = wakes, partials
        return complete

    def _begin(self, row: Row, at_ns: int, event: int, key: Any, out: list[Verdict]) -> None:
        partials = row.partials
        if self._replaces_start and partials and len(partials[-1]) == 2:
            partials.pop()  # there is one at most: it took the place of the one before
        partials.append((at_ns, event))
        row.wakes |= 2
        if len(partials) > self._partials_max:
            del partials[0]
            row.wakes = _wakes_of(partials)
            out.append(RuleEvicted(self._rule, key, "partial"))

    def _settle(self, key: Any, row: Row | None, began_ns: int) -> None:
        """Forget the key if it has no partial any more; *began_ns* is when its oldest began."""
        if row is None or not row.partials:
            self._table.pop(key)
            if self._within_ns is not None:
                self._place.disarm(key)
        elif self._within_ns is not None and row.partials[0][0] != began_ns:
            self._place.arm(key, row.partials[0][0] + self._within_ns)

    def _made(self, partial: PlainPartial, last: Hit) -> Hit:
        events = partial[1:]
        steps = tuple([(name, (event,)) for name, event in zip(self._names, events, strict=True)])
        in_order = sorted(events)  # of timers' hits they may not be
        if in_order != [*events]:
            events = tuple(sorted(set(events)))
        return Hit(
            last.key,
            last.at_ns,
            events,
            last.seen,
            last.trace,
            last.hops,
            last.due_ns,
            steps=steps,
            value=last.value,
        )

    # ------------------------------------------------------------ time

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        assert self._within_ns is not None
        self._expire(key, due_ns - self._within_ns)

    def _expire(self, key: Any, upto_ns: int) -> None:
        """Drop what began at or before a time."""
        row = self._table.touch(key)
        assert row is not None, "a timer is of a key that has partials"
        began_ns = row.partials[0][0]
        row.partials = [partial for partial in row.partials if partial[0] > upto_ns]
        row.wakes = _wakes_of(row.partials)
        self._settle(key, row, began_ns)

    # ------------------------------------------------------------ state

    def packed(self, key: Any, state: Row) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        oldest = min(min(partial[1:]) for partial in state.partials)
        return [key, *state.partials], oldest

    def unpacked(self, key: Any, fields: list[Any]) -> Row:
        """See `KeyedStage`."""
        partials = [tuple(partial) for partial in fields]
        return Row(_wakes_of(partials), partials)


def _wakes_of(partials: list[PlainPartial]) -> int:
    wakes = 0
    for partial in partials:
        wakes |= 1 << (len(partial) - 1)
    return wakes


def is_plain(node: SequenceNode, need: Need) -> bool:
    """Whether `PlainSequence` can do what *node* says, for operators behind with *need*."""
    return (
        need is not Need.ALL
        and node.skip in ("past_last", "none")
        and node.within_gap_ns is None
        and not node.on_timeout
        and len(node.members) > 1
        and all(
            isinstance(part, StepNode)
            and not part.is_not
            and (place == 0 or part.contiguity == "relaxed")
            and not part.quantifier.is_loop
            and not part.quantifier.optional
            and not relative_conditions(part.source)
            and _gives_single_events(part.source)
            for place, part in enumerate(node.members)
        )
    )


def _gives_single_events(node: n.Node) -> bool:
    return isinstance(node, (*SINGLE, AnyNode)) and all(map(_gives_single_events, node.sources))
