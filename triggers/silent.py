"""`silent`: a watchdog by key, wound up again by each hit."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.triggers import nodes as n
from headrace.triggers.hit import CLEAR, Hit, oldest_of, packed, since, slim, unpacked
from headrace.triggers.stage import KeyedStage, Place, Stage


class _Watch(Struct, frozen=True, gc=False):
    last: Hit
    is_told: bool = False
    """Whether it has fired, and is to say when the silence ends."""


class Silent(KeyedStage[_Watch]):
    """The state of a key is its last hit; its timer says when it has been silent for too long."""

    def __init__(self, place: Place, node: n.SilentNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._for_ns = node.for_ns
        self._repeats = node.repeat == "every"
        self._expect = node.expect
        self._clears = node.clears
        self.need = then.need

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""
        for key in self._expect:
            self._table.store(key, _Watch(Hit(key, at_ns, (), (), 0, 0)))
            self._place.arm(key, at_ns + self._for_ns)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        is_told = False
        if self._clears:
            watch = self._table.peek(hit.key)
            is_told = watch is not None and watch.is_told
        self.keep(hit.key, _Watch(slim(hit, self.need)), out)
        self._place.arm(hit.key, hit.at_ns + self._for_ns)
        if is_told:
            self._then.push(msgspec.structs.replace(hit, reason=CLEAR), out)

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        return (until_ns - 1 - due_ns) // self._for_ns if self._repeats else 0

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        watch = self._table.peek(key)
        assert watch is not None, "a timer is of a key that is watched"
        if self._clears:
            self._table.store(key, _Watch(watch.last, is_told=True))
        elif not self._repeats:
            self._table.pop(key)
        if self._repeats:
            self._place.arm(key, due_ns + (missed + 1) * self._for_ns)
        self._then.push(since(watch.last, due_ns), out)

    def packed(self, key: Any, state: _Watch) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        last = state.last
        entry: list[Any] = [key, last.events, last.trace, last.hops]
        if len(whole := packed(last)) > 4 or state.is_told:
            entry.append(whole)
        if state.is_told:
            entry.append(True)
        return entry, oldest_of([last])

    def unpacked(self, key: Any, fields: list[Any]) -> _Watch:
        """See `KeyedStage`."""
        events, trace, hops, *more = fields
        last = unpacked(more[0] if more else [0, events, trace, hops], key, self._place.recall)
        return _Watch(last, is_told=len(more) > 1)
