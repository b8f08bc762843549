"""`.dedupe`: the first of equals within some time."""

from __future__ import annotations

from typing import Any

from headrace.engine.decider import Verdict
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, Need
from headrace.triggers.stage import KeyedStage, Place, Stage, key_of


class Dedupe(KeyedStage[int]):
    """By the automaton's key and what is compared: until when equals are dropped.

    The table is ordered by that time.  It has no timer: nothing happens then.
    """

    def __init__(self, place: Place, node: n.DedupeNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._key = node.key
        self._ttl_ns = node.ttl_ns
        self._refresh = node.refresh
        self.need = then.need if node.key is None else max(Need.LAST, then.need)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`; without anything to compare, because it is ``None``, a hit passes."""
        at_ns = hit.at_ns
        self._forget(at_ns)
        identity = None
        if self._key is not None:
            errors = len(out)
            identity = key_of(self._rule, self._key, hit.event, out, place="dedupe")
            if identity is None:
                if len(out) == errors:
                    self._then.push(hit, out)
                return
        key = (hit.key, identity)
        if self._table.peek(key) is not None:
            self._place.note("suppressed")
            if self._refresh:
                self.keep(key, at_ns + self._ttl_ns, out)
            return
        self.keep(key, at_ns + self._ttl_ns, out)
        self._then.push(hit, out)

    def _forget(self, at_ns: int) -> None:
        while (oldest := self._table.first()) is not None and oldest[1] <= at_ns:
            self._table.pop(oldest[0])

    def key_of_rule(self, key: Any) -> Any:
        """See `KeyedStage`."""
        return key[0]

    def _forget_timers(self, key: Any) -> None:
        """There are none."""

    def packed(self, key: Any, state: int) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, state], None

    def unpacked(self, key: Any, fields: list[Any]) -> int:
        """See `KeyedStage`."""
        until_ns: int = fields[0]
        return until_ns
