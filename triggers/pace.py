"""Stages that thin out bursts: `.debounce` (and `.session`) and `.throttle`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.record import RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, joined, oldest_of, packed, retimed, slim, unpacked
from headrace.triggers.stage import KeyedStage, Place, Stage, TimerStage


class _Burst(Struct, gc=False):
    first_ns: int
    hits: list[Hit]
    """What the end of the burst fires with."""


class Debounce(TimerStage[_Burst]):
    """`.debounce`: one firing for a burst.  `.session` is the same, with another name."""

    def __init__(self, place: Place, node: n.DebounceNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._quiet_ns = node.quiet_ns
        self._max_wait_ns = node.max_wait_ns
        self._leads = node.edge != "trailing"
        self._trails = node.edge != "leading"
        self._partials_max = node.partials_max
        self.need = then.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        key, at_ns = hit.key, hit.at_ns
        burst = self._table.touch(key)
        is_first = burst is None
        if burst is None:
            burst = _Burst(at_ns, [])
            self.keep(key, burst, out)
        due_ns = at_ns + self._quiet_ns
        if self._max_wait_ns is not None:
            due_ns = min(due_ns, burst.first_ns + self._max_wait_ns)
        self._place.arm(key, due_ns)
        if is_first and self._leads:
            self._then.push(self._told(hit, "leading"), out)
        elif self._trails:
            if len(burst.hits) >= self._partials_max:
                del burst.hits[0]
                out.append(RuleEvicted(self._rule, key, "event"))
            burst.hits.append(slim(hit, self.need))
        else:
            self._place.note("suppressed")

    def _told(self, hit: Hit, reason: str) -> Hit:
        """Return *hit* with the edge that it is of, where there are both."""
        is_both = self._leads and self._trails
        return msgspec.structs.replace(hit, reason=reason) if is_both else hit

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        burst = self._table.pop(key)
        assert burst is not None, "a timer is of a key that has a burst"
        if burst.hits:
            made = joined(burst.hits, last=burst.hits[-1], at_ns=due_ns, due_ns=due_ns)
            self._then.push(self._told(made, "trailing"), out)

    def packed(self, key: Any, state: _Burst) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, state.first_ns, list(map(packed, state.hits))], oldest_of(state.hits)

    def unpacked(self, key: Any, fields: list[Any]) -> _Burst:
        """See `KeyedStage`."""
        first_ns, hits = fields
        return _Burst(first_ns, [unpacked(hit, key, self._place.recall) for hit in hits])


class _Period(Struct, frozen=True, gc=False):
    end_ns: int
    last: Hit | None = None
    """The last hit that was suppressed in it."""


class LeadingThrottle(KeyedStage[_Period]):
    """`.throttle(edge="leading")`: needs no timer, for nothing happens when a period ends.

    The table is ordered by the beginning of the periods, and so by their end.
    """

    def __init__(self, place: Place, node: n.ThrottleNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._period_ns = node.period_ns
        self.need = then.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        period = self._table.peek(hit.key)
        if period is not None and hit.at_ns < period.end_ns:
            self._place.note("suppressed")
            return
        self._forget(hit.at_ns)
        self.keep(hit.key, _Period(hit.at_ns + self._period_ns), out)
        self._then.push(hit, out)

    def _forget(self, at_ns: int) -> None:
        """Drop the keys whose period is over: they are no state any more (law L6)."""
        while (oldest := self._table.first()) is not None and oldest[1].end_ns <= at_ns:
            self._table.pop(oldest[0])

    def packed(self, key: Any, state: _Period) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, state.end_ns], None

    def unpacked(self, key: Any, fields: list[Any]) -> _Period:
        """See `KeyedStage`."""
        return _Period(fields[0])


class Throttle(TimerStage[_Period]):
    """`.throttle` with a trailing edge: at the end of a period its last hit fires."""

    def __init__(self, place: Place, node: n.ThrottleNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._period_ns = node.period_ns
        self._is_both = node.edge == "both"
        self.need = then.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        key = hit.key
        period = self._table.peek(key)
        if period is not None:
            if period.last is not None:
                self._place.note("suppressed")
            self.keep(key, _Period(period.end_ns, slim(hit, self.need)), out)
            return
        end_ns = hit.at_ns + self._period_ns
        last = None if self._is_both else slim(hit, self.need)
        self.keep(key, _Period(end_ns, last), out)
        self._place.arm(key, end_ns)
        if self._is_both:
            self._then.push(msgspec.structs.replace(hit, reason="leading"), out)

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`: what fires at the end of a period begins another one."""
        period = self._table.pop(key)
        assert period is not None, "a timer is of a key that has a period"
        if period.last is None:
            return
        self._table.store(key, _Period(due_ns + self._period_ns))
        self._place.arm(key, due_ns + self._period_ns)
        made = retimed(period.last, due_ns)
        if self._is_both:
            made = msgspec.structs.replace(made, reason="trailing")
        self._then.push(made, out)

    def packed(self, key: Any, state: _Period) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        if state.last is None:
            return [key, state.end_ns], None
        return [key, state.end_ns, packed(state.last)], oldest_of([state.last])

    def unpacked(self, key: Any, fields: list[Any]) -> _Period:
        """See `KeyedStage`."""
        end_ns, *last = fields
        return _Period(end_ns, unpacked(last[0], key, self._place.recall) if last else None)


def throttle_of(place: Place, node: n.ThrottleNode, then: Stage) -> LeadingThrottle | Throttle:
    """Return the stage that does what *node* says."""
    make = LeadingThrottle if node.edge == "leading" else Throttle
    return make(place, node, then)
