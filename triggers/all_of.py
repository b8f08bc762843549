"""`all_of`: several patterns in any order, within some time."""

from __future__ import annotations

from typing import Any

from headrace.engine.decider import Verdict
from headrace.engine.record import RuleEvicted
from headrace.triggers.hit import Hit, joined, oldest_of, packed, slim, unpacked
from headrace.triggers.joins import Join
from headrace.triggers.nodes_joined import AllNode
from headrace.triggers.stage import KeyedStage, Place, Stage

Branches = list[list[Hit]]


class AllOf(Join, KeyedStage[Branches]):
    """The state of a key is what each branch has, oldest first.

    It has no timer: what is too old is dropped with the next event, of whatever key.
    """

    def __init__(self, place: Place, node: AllNode, then: Stage) -> None:
        Join.__init__(self)
        KeyedStage.__init__(self, place)
        self._then = then
        self._names = node.names
        self._within_ns = node.within_ns
        self._keep = node.keep
        self._partials_max = node.partials_max
        self.need = then.need

    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """See `Join`."""
        at_ns = met[0][1].at_ns
        branches = self._table.touch(key)
        if branches is None:
            self._forget(at_ns)
            branches = [[] for _ in self._names]
            self.keep(key, branches, out)
        elif self._within_ns is not None:
            for hits in branches:
                while hits and hits[0].at_ns <= at_ns - self._within_ns:
                    del hits[0]
        for number, hit in met:
            self._add(branches[number], slim(hit, self.need), out)
        if all(branches):
            self._table.pop(key)
            if self._keep == "first":
                branches = [hits[:1] for hits in branches]
            self._then.push(self._made(branches, met[-1][1]), out)

    def _add(self, hits: list[Hit], hit: Hit, out: list[Verdict]) -> None:
        if self._keep == "latest":
            hits.clear()
        elif self._keep == "first" and self._within_ns is None and hits:
            return  # the first never becomes too old
        elif len(hits) >= self._partials_max:
            del hits[0]
            out.append(RuleEvicted(self._rule, hit.key, "event"))
        hits.append(hit)

    def _made(self, branches: Branches, last: Hit) -> Hit:
        listed = [hit for hits in branches for hit in hits]
        # In the order of their time; of one time in that of the log.  So the newest is last.
        listed.sort(key=lambda hit: (hit.at_ns, hit.events[-1] if hit.events else 0))
        steps = tuple(
            (name, tuple([sequence for hit in hits for sequence in hit.events]))
            for name, hits in zip(self._names, branches, strict=True)
        )
        return joined(
            listed, last=last, at_ns=last.at_ns, due_ns=last.due_ns, steps=steps, in_order=True
        )

    def _forget(self, at_ns: int) -> None:
        """Drop the keys of which all is too old: they are no state any more (law L6)."""
        within_ns = self._within_ns
        while within_ns is not None and (oldest := self._table.first()) is not None:
            if max(hits[-1].at_ns for hits in oldest[1] if hits) > at_ns - within_ns:
                break
            self._table.pop(oldest[0])

    def packed(self, key: Any, state: Branches) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        listed = [hit for hits in state for hit in hits]
        return [key, *(list(map(packed, hits)) for hits in state)], oldest_of(listed)

    def unpacked(self, key: Any, fields: list[Any]) -> Branches:
        """See `KeyedStage`."""
        return [[unpacked(hit, key, self._place.recall) for hit in hits] for hits in fields]
