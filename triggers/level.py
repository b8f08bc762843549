"""Stages that look at whether something is so: `.crosses` and `.hold`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.triggers import nodes as n
from headrace.triggers.hit import CLEAR, Hit, Need, joined, oldest_of, packed, slim, unpacked
from headrace.triggers.stage import KeyedStage, Place, Stage, TimerStage, asked

WITHIN: Final = 0
BEYOND: Final = 1
FIRED: Final = 2


class Crosses(KeyedStage[int]):
    """`.crosses`: the state of a key is whether its value was beyond the threshold, and fired."""

    def __init__(self, place: Place, node: n.CrossesNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._value = node.value
        # Downwards is upwards with the sign changed.
        self._sign = 1 if node.is_above else -1
        self._threshold = self._sign * node.threshold
        self._rearm = self._threshold - node.hysteresis
        self._first = WITHIN if node.initial else BEYOND
        self._clears = node.clears
        self.need = max(Need.LAST, then.need)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        _, value = asked(self._rule, "crosses", self._value, hit.event, out)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # noqa: PLR0124
            return  # no number is no observation
        level = self._sign * value
        before = self._table.peek(hit.key)
        if before:
            now = before if level >= self._rearm else WITHIN
        elif level > self._threshold:
            # The first value of all is no transition, unless it is said to be.
            now = FIRED if before is not None or self._first == WITHIN else BEYOND
        else:
            now = WITHIN
        self.keep(hit.key, now, out)
        if now == FIRED != before:
            self._then.push(hit, out)
        elif before == FIRED != now and self._clears:
            self._then.push(msgspec.structs.replace(hit, reason=CLEAR), out)

    def packed(self, key: Any, state: int) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, state], None

    def unpacked(self, key: Any, fields: list[Any]) -> int:
        """See `KeyedStage`."""
        state: int = fields[0]
        return state


class _Held(Struct, frozen=True, gc=False):
    """The first and the latest hit since the condition is true; none once it has fired."""

    first: Hit | None
    latest: Hit | None


_FIRED = _Held(None, None)


class Hold(TimerStage[_Held]):
    """`.hold`: a timer that begins when the condition comes to be true, and ends with it."""

    def __init__(self, place: Place, node: n.HoldNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._for_ns = node.for_ns
        self._clears = node.clears
        self.need = then.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`: the condition is true."""
        held = self._table.peek(hit.key)
        kept = slim(hit, self.need)
        if held is None:
            self.keep(hit.key, _Held(kept, kept), out)
            self._place.arm(hit.key, hit.at_ns + self._for_ns)
        elif held.first is not None:
            self.keep(hit.key, _Held(held.first, kept), out)

    def miss(self, hit: Hit, out: list[Verdict]) -> None:
        """See `LevelStage`: the condition is false."""
        held = self._table.pop(hit.key)
        if held is None:
            return
        if held.first is not None:
            self._place.disarm(hit.key)
        elif self._clears:
            self._then.push(msgspec.structs.replace(hit, reason=CLEAR), out)

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        held = self._table.peek(key)
        assert held is not None, "a timer is of a key whose condition is true"
        first, latest = held.first, held.latest
        assert first is not None, "it has not fired yet"
        assert latest is not None, "it has not fired yet"
        self._table.store(key, _FIRED)
        hits = [first] if latest.events == first.events else [first, latest]
        self._then.push(joined(hits, last=latest, at_ns=due_ns, due_ns=due_ns), out)

    def packed(self, key: Any, state: _Held) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        if state.first is None or state.latest is None:
            return [key], None
        hits = [state.first, state.latest]
        return [key, *map(packed, hits)], oldest_of(hits)

    def unpacked(self, key: Any, fields: list[Any]) -> _Held:
        """See `KeyedStage`."""
        if not fields:
            return _FIRED
        first, latest = [unpacked(hit, key, self._place.recall) for hit in fields]
        return _Held(first, latest)
