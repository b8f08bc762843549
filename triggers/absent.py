"""`absent`: what did not come after something else."""

from __future__ import annotations

from typing import Any

from headrace.engine.decider import Verdict
from headrace.triggers.hit import Hit, oldest_of, packed, since, slim, unpacked
from headrace.triggers.joins import Join
from headrace.triggers.nodes_joined import AbsentNode
from headrace.triggers.stage import Place, Stage, TimerStage

AFTER = 1
"""The branch that arms; the other one disarms."""


class Absent(Join, TimerStage[Hit]):
    """The state of a key is the hit that it waits since."""

    def __init__(self, place: Place, node: AbsentNode, then: Stage) -> None:
        Join.__init__(self)
        TimerStage.__init__(self, place)
        self._then = then
        self._within_ns = node.within_ns
        self._restarts = node.rearm == "restart"
        self.need = then.need

    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """See `Join`; an event that meets both ends a wait, and begins one."""
        if any(branch != AFTER for branch, _ in met) and self._table.pop(key) is not None:
            self._place.disarm(key)
        for branch, hit in met:
            if branch == AFTER and (self._restarts or self._table.peek(key) is None):
                self.keep(key, slim(hit, self.need), out)
                self._place.arm(key, hit.at_ns + self._within_ns)

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        armed = self._table.pop(key)
        assert armed is not None, "a timer is of a key that waits"
        self._then.push(since(armed, due_ns), out)

    def packed(self, key: Any, state: Hit) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, packed(state)], oldest_of([state])

    def unpacked(self, key: Any, fields: list[Any]) -> Hit:
        """See `KeyedStage`."""
        return unpacked(fields[0], key, self._place.recall)
