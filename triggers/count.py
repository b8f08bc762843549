"""`.count`: a sliding window by key.  Amortised O(1) a hit.

There are two of it: `PlainCount` for windows of single events, which are by far the most
frequent and of which there may be a million, and `Count` for all others.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored, RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.hit import (
    CLEAR,
    Hit,
    Need,
    Seen,
    joined,
    oldest_of,
    packed,
    retimed,
    slim,
    unpacked,
)
from headrace.triggers.stage import KeyedStage, Place, S, Stage

SINGLE: Final = (
    n.FilterNode,
    n.WhereNode,
    n.KeyNode,
    n.CrossesNode,
    n.DedupeNode,
    n.ThrottleNode,
    n.RateLimitNode,
    n.EventTimeNode,
)
"""Operators that hand on single events if that is what comes to them."""


class _Counting(KeyedStage[S]):
    """What both have in common."""

    def __init__(self, place: Place, node: n.CountNode, then: Stage) -> None:
        super().__init__(place)
        self._n = node.n
        self._within_ns = node.within_ns
        self._resets = node.mode == "reset"
        self._always = node.mode == "every"
        self._partials_max = node.partials_max
        self._then = then
        self.need = then.need

    def _newest_ns(self, state: S) -> int:
        """Return the time of the newest hit in a window."""
        raise NotImplementedError

    def _is_over(self, state: S, upto_ns: int) -> bool:
        """Say whether a window whose hits up to *upto_ns* have run out is no state any more."""
        return self._newest_ns(state) <= upto_ns

    def _forget(self, at_ns: int) -> None:
        """Drop the keys whose window is empty by now: they are no state any more (law L6)."""
        table, within_ns = self._table, self._within_ns
        while within_ns is not None and (oldest := table.first()) is not None:
            if not self._is_over(oldest[1], at_ns - within_ns):
                break
            table.pop(oldest[0])


class PlainCount(_Counting["array[int]"]):
    """A window is a row of numbers: whether it may fire, then time and sequence by turns.

    As an array, since a million of them are to cost little.
    """

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        events = self._add(hit.key, hit.at_ns, hit.events[0], out)
        if events:
            self._then.push(replace(hit, events=events, reason=None, steps=None), out)

    def take(
        self, key: Any, event: Event[Any], record: EventStored, entry: int, out: list[Verdict]
    ) -> None:
        """See `EventStage`."""
        sequence = event.sequence
        events = self._add(key, record.at_ns, sequence, out)
        if events:
            seen = (Seen(event, record, entry),) if self.need else ()
            trace = record.trace or sequence
            self._then.push(Hit(key, record.at_ns, events, seen, trace, record.hops), out)

    def _add(self, key: Any, at_ns: int, sequence: int, out: list[Verdict]) -> tuple[int, ...]:
        """Add an event to the window of *key*; return what fires, if it does."""
        table = self._table
        window = table.touch(key)
        if window is None:
            self._forget(at_ns)
            window = array("q", (1, at_ns, sequence))
            self.keep(key, window, out)
            size = 1
        else:
            if self._within_ns is not None:
                after_ns, end = at_ns - self._within_ns, 1
                while end < len(window) and window[end] <= after_ns:
                    end += 2
                if end > 1:
                    del window[1:end]
            size = len(window) // 2
            if size < self._n:
                window[0] = 1
            if size >= self._partials_max:
                del window[1:3]
                size -= 1
                out.append(RuleEvicted(self._rule, key, "event"))
            window.append(at_ns)
            window.append(sequence)
            size += 1
        if size < self._n or not (window[0] or self._always):
            return ()
        window[0] = 0
        if self._resets:
            table.pop(key)
        return tuple(window[2::2])

    def _newest_ns(self, state: array[int]) -> int:
        return state[-2]

    def packed(self, key: Any, state: array[int]) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        hits = [[at_ns, [event]] for at_ns, event in zip(state[1::2], state[2::2], strict=True)]
        return [key, hits, bool(state[0])], state[2]

    def unpacked(self, key: Any, fields: list[Any]) -> array[int]:
        """See `KeyedStage`."""
        hits, armed = fields
        return array(
            "q", [armed, *(number for at_ns, (event,) in hits for number in (at_ns, event))]
        )


class _Window(Struct, gc=False):
    hits: list[Hit]
    armed: bool = True


class Count(_Counting[_Window]):
    """A window is a list of hits."""

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        window = self._table.touch(hit.key)
        if window is None:
            self._forget(hit.at_ns)
            window = _Window([])
            self.keep(hit.key, window, out)
        hits = window.hits
        if self._within_ns is not None:
            after_ns, gone = hit.at_ns - self._within_ns, 0
            while gone < len(hits) and hits[gone].at_ns <= after_ns:
                gone += 1
            del hits[:gone]
        if len(hits) < self._n:
            window.armed = True
        if len(hits) >= self._partials_max:
            del hits[0]
            out.append(RuleEvicted(self._rule, hit.key, "event"))
        hits.append(slim(hit, self.need if self.need is Need.ALL else Need.NONE))
        if len(hits) >= self._n and (window.armed or self._always):
            window.armed = False
            if self._resets:
                self._table.pop(hit.key)
            self._then.push(self._made(hits, hit), out)

    def _made(self, hits: list[Hit], hit: Hit) -> Hit:
        return joined(
            [*hits[:-1], hit],
            last=hit,
            at_ns=hit.at_ns,
            due_ns=hit.due_ns,
            branches=hit.branches,
        )

    def _newest_ns(self, state: _Window) -> int:
        return state.hits[-1].at_ns

    def packed(self, key: Any, state: _Window) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, list(map(packed, state.hits)), state.armed], oldest_of(state.hits)

    def unpacked(self, key: Any, fields: list[Any]) -> _Window:
        """See `KeyedStage`."""
        hits, armed = fields
        return _Window([unpacked(hit, key, self._place.recall) for hit in hits], armed)


class ClearingCount(Count):
    """A count of mode ``edge`` that also says when there are fewer again.

    Its timer is due when the n-th newest hit runs out.
    """

    _clears = True

    def _is_over(self, state: _Window, upto_ns: int) -> bool:
        # One that has fired waits for its timer, which may be the next of this very time.
        return state.armed and super()._is_over(state, upto_ns)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        super().push(hit, out)
        window = self._table.peek(hit.key)
        assert window is not None, "mode edge keeps its window"
        if not window.armed and self._within_ns is not None:
            self._place.arm(hit.key, window.hits[-self._n].at_ns + self._within_ns)

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        return 0

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        window = self._table.touch(key)
        assert window is not None, "a timer is of a key that has fired"
        window.armed = True
        last = window.hits[-1]
        self._then.push(replace(retimed(last, due_ns), reason=CLEAR), out)


def count_of(place: Place, node: n.CountNode, then: Stage) -> PlainCount | Count:
    """Return the stage that does what *node* says."""
    if node.clears:
        return ClearingCount(place, node, then)
    if then.need is not Need.ALL and _gives_single_events(node.source):
        return PlainCount(place, node, then)
    return Count(place, node, then)


def _gives_single_events(node: n.Node) -> bool:
    from headrace.triggers.nodes_joined import AnyNode

    if not isinstance(node, (*SINGLE, AnyNode)):
        return False
    return all(map(_gives_single_events, node.sources))
