"""`.rate_limit`: hits pass at a steady rate after a burst; the others wait for their turn.

Each key has a meter of its own; `headrace.engine.gcra` has the arithmetic.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.gcra import passed, tolerance, turn_ns
from headrace.engine.record import RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, oldest_of, packed, retimed, slim, unpacked
from headrace.triggers.stage import Place, Stage, TimerStage


class _Meter(Struct, gc=False):
    tat: int
    """The theoretical arrival time, in n-ths of a nanosecond."""
    waiting: deque[Hit]


class RateLimit(TimerStage[_Meter]):
    """The state of a key is its meter; there is a timer while hits wait."""

    def __init__(self, place: Place, node: n.RateLimitNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._n = node.n
        self._per_ns = node.per_ns
        self._tolerance = tolerance(node.burst, node.per_ns)
        self._overflow = node.overflow
        self._waiting_max = 1 if node.overflow == "latest" else node.partials_max
        self.need = then.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        key, at = hit.key, hit.at_ns * self._n
        meter = self._table.touch(key)
        if meter is None:
            self._forget(at)
            meter = _Meter(at, deque())
            self.keep(key, meter, out)
        if not meter.waiting and at >= meter.tat - self._tolerance:
            self._pass(meter, at)
            self._then.push(hit, out)
        elif self._overflow == "drop":
            self._place.note("suppressed")
        else:
            self._wait(meter, hit, out)

    def _pass(self, meter: _Meter, at: int) -> None:
        meter.tat = passed(meter.tat, at, self._per_ns)

    def _wait(self, meter: _Meter, hit: Hit, out: list[Verdict]) -> None:
        if len(meter.waiting) >= self._waiting_max:
            meter.waiting.popleft()
            if self._overflow == "latest":
                self._place.note("suppressed")
            else:
                out.append(RuleEvicted(self._rule, hit.key, "event"))
        meter.waiting.append(slim(hit, self.need))
        if self._place.due_ns(hit.key) is None:
            self._place.arm(hit.key, self._turn_ns(meter))

    def _turn_ns(self, meter: _Meter) -> int:
        """Return the first nanosecond at which a hit conforms."""
        return turn_ns(meter.tat, self._tolerance, self._n)

    def _forget(self, at: int) -> None:
        """Drop meters that say nothing any more (law L6), from the oldest on."""
        while (oldest := self._table.first()) is not None:
            if oldest[1].waiting or oldest[1].tat > at:
                break
            self._table.pop(oldest[0])

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`: the first of those that wait passes."""
        meter = self._table.touch(key)
        assert meter is not None, "a timer is of a key where hits wait"
        hit = meter.waiting.popleft()
        # By its exact time, which the timer has rounded up; but what was due in a downtime
        # passes now, and the next one is not due before its time.
        started_ns = self._place.moments.started_ns
        self._pass(meter, started_ns * self._n if due_ns < started_ns else 0)
        if meter.waiting:
            self._place.arm(key, max(due_ns, self._turn_ns(meter)))
        self._then.push(retimed(hit, due_ns), out)

    def packed(self, key: Any, state: _Meter) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        # As whole nanoseconds and the rest: the product may need more than 64 bits.
        tat = divmod(state.tat, self._n)
        return [key, *tat, list(map(packed, state.waiting))], oldest_of(state.waiting)

    def unpacked(self, key: Any, fields: list[Any]) -> _Meter:
        """See `KeyedStage`."""
        whole, rest, waiting = fields
        hits = deque(unpacked(hit, key, self._place.recall) for hit in waiting)
        return _Meter(whole * self._n + rest, hits)
