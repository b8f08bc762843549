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
from headrace.engine.table import OrderedTable
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


_FIRST = 1 << 1
"""What a partial wakes for that has only its start."""


class PlainSequence(Join, TimerStage[Row]):
    """The branches are the steps; one timer a key, for its oldest partial."""

    def __init__(self, place: Place, node: SequenceNode, then: Stage) -> None:
        Join.__init__(self)
        TimerStage.__init__(self, place)
        self.needs_stream = False
        self._then = then
        self._names = tuple([step.name for step in node.steps])
        self._last = len(self._names) - 1
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
            branch, hit = hits[0]
            self._take(hit.key, branch, hit, out)
        elif hits:
            super().flush(out)

    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """See `Join`; the last step comes first, so that each partial takes one."""
        first = dict(reversed(met))
        for branch in sorted(first, reverse=True):
            if self._take(key, branch, first[branch], out):
                break

    def _take(self, key: Any, branch: int, hit: Hit, out: list[Verdict]) -> bool:
        """Take what met one step; say whether it has completed a match that drops all others."""
        table, within_ns = self._table, self._within_ns
        row = table.peek(key)
        if row is not None and within_ns is not None:
            upto_ns = hit.at_ns - within_ns
            if row.partials[0][0] <= upto_ns:
                # Its timer comes first, unless this is of a timer that was armed earlier.
                self._expire(key, upto_ns)
                row = table.peek(key)
        if branch == 0:
            if row is None:
                self.keep(key, Row(_FIRST, [(hit.at_ns, hit.events[0])]), out)
                if within_ns is not None:
                    self._place.arm(key, hit.at_ns + within_ns)
            else:
                self._begin(key, hit, out)
            return False
        if row is None or not row.wakes >> branch & 1:
            return False
        if branch < self._last:
            self._move(table, key, branch, hit)
            return False
        if not self._drops:
            self._complete(key, hit, out)
            return False
        # Of those that are completed the oldest is the first of all, and no other is left.
        self._forget(key)
        self._then.push(self._made(row.partials[0], hit), out)
        return True

    def _begin(self, key: Any, hit: Hit, out: list[Verdict]) -> None:
        """Begin a partial of a key that has others."""
        begun = hit.at_ns, hit.events[0]
        row = self._table.touch(key)
        assert row is not None, "it was there"
        partials = row.partials
        oldest_ns = partials[0][0]
        if self._replaces_start and len(partials[-1]) == len(begun):
            partials.pop()  # there is one at most: it took the place of the one before
        partials.append(begun)
        row.wakes |= _FIRST
        if len(partials) > self._partials_max:
            del partials[0]
            row.wakes = _wakes_of(partials)
            out.append(RuleEvicted(self._rule, key, "partial"))
        self._rearm(key, row, oldest_ns)

    def _move(self, table: OrderedTable[Any, Row], key: Any, branch: int, hit: Hit) -> None:
        row = table.touch(key)
        assert row is not None, "it was there"
        length, event = branch + 1, hit.events[0]
        row.partials = [(*one, event) if len(one) == length else one for one in row.partials]
        # All that waited for this step wait for the next one now.
        row.wakes = row.wakes & ~(1 << branch) | 1 << length

    def _complete(self, key: Any, hit: Hit, out: list[Verdict]) -> None:
        """Hand on all that wait for the last step; the others stay."""
        row = self._table.touch(key)
        assert row is not None, "it was there"
        length, partials = self._last + 1, row.partials
        complete = [one for one in partials if len(one) == length]
        row.partials = partials[len(complete) :]
        if row.partials:
            row.wakes &= ~(1 << self._last)
            self._rearm(key, row, partials[0][0])
        else:
            self._forget(key)
        for one in complete:
            self._then.push(self._made(one, hit), out)

    def _made(self, partial: PlainPartial, last: Hit) -> Hit:
        """Return the match of *partial* and the event that completes it."""
        events = (*partial[1:], last.events[0])
        steps = tuple(zip(self._names, zip(events, strict=True), strict=True))
        ordered = sorted(set(events))
        if ordered != [*events]:  # some came by timers of their own, or in two steps
            events = tuple(ordered)
        return Hit(
            last.key,
            last.at_ns,
            events,
            last.seen,
            last.trace,
            last.hops,
            last.due_ns,
            None,
            None,
            steps,
            last.value,
        )

    def _forget(self, key: Any) -> None:
        self._table.pop(key)
        if self._within_ns is not None:
            self._place.disarm(key)

    def _rearm(self, key: Any, row: Row, oldest_ns: int) -> None:
        """Move the timer if the oldest is another one than that which began at *oldest_ns*."""
        if self._within_ns is not None and row.partials[0][0] != oldest_ns:
            self._place.arm(key, row.partials[0][0] + self._within_ns)

    # ------------------------------------------------------------ time

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        assert self._within_ns is not None
        self._expire(key, due_ns - self._within_ns)

    def _expire(self, key: Any, upto_ns: int) -> None:
        """Drop what began at or before a time."""
        row = self._table.touch(key)
        assert row is not None, "a timer is of a key that has partials"
        oldest_ns = row.partials[0][0]
        row.partials = [partial for partial in row.partials if partial[0] > upto_ns]
        row.wakes = _wakes_of(row.partials)
        if row.partials:
            self._rearm(key, row, oldest_ns)
        else:
            self._forget(key)

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
