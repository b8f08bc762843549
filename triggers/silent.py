"""`silent`: a watchdog by key, wound up again by each hit."""

from __future__ import annotations

from typing import Any

from headrace.engine.decider import Verdict
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, oldest_of, packed, slim, unpacked
from headrace.triggers.stage import KeyedStage, Place, Stage


class Silent(KeyedStage[Hit]):
    """The state of a key is its last hit; its timer says when it has been silent for too long."""

    def __init__(self, place: Place, node: n.SilentNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._for_ns = node.for_ns
        self._repeats = node.repeat == "every"
        self._expect = node.expect
        self.need = then.need

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""
        for key in self._expect:
            self._table.store(key, Hit(key, at_ns, (), (), 0, 0))
            self._place.arm(key, at_ns + self._for_ns)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        self.keep(hit.key, slim(hit, self.need), out)
        self._place.arm(hit.key, hit.at_ns + self._for_ns)

    def missed(self, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        return (until_ns - 1 - due_ns) // self._for_ns if self._repeats else 0

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        last = self._table.peek(key) if self._repeats else self._table.pop(key)
        assert last is not None, "a timer is of a key that is watched"
        if self._repeats:
            self._place.arm(key, due_ns + (missed + 1) * self._for_ns)
        self._then.push(
            Hit(
                key,
                due_ns,
                last.events,
                last.seen,
                last.trace,
                last.hops,
                due_ns,
                value=last.value,
                more=last.more,
            ),
            out,
        )

    def packed(self, key: Any, state: Hit) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        entry = [key, state.events, state.trace, state.hops]
        if state.seen or state.value is not None or state.more:
            entry.append(packed(state))
        return entry, oldest_of([state])

    def unpacked(self, key: Any, fields: list[Any]) -> Hit:
        """See `KeyedStage`."""
        events, trace, hops, *whole = fields
        return unpacked(whole[0] if whole else [0, events, trace, hops], key, self._place.recall)
