"""Where several chains of stages meet: what they make of one event is one step (law L5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import msgspec

from headrace.engine.decider import Verdict
from headrace.triggers.hit import Hit, Need
from headrace.triggers.stage import Stage
from headrace.triggers.stages import Key, Where


class Join(ABC):
    """Collects what its branches make of one event, and takes one step for each key."""

    need: Need

    def __init__(self) -> None:
        self._hits: list[tuple[int, Hit]] = []
        self._misses: list[Hit] = []

    def collect(self, branch: int, hit: Hit) -> None:
        """Note that *branch* was met."""
        self._hits.append((branch, hit))

    def collect_miss(self, hit: Hit) -> None:
        """Note an event that a condition of a branch turned down."""
        self._misses.append(hit)

    def flush(self, out: list[Verdict]) -> None:
        """Take the step of the event, or of the timer, that was collected."""
        if not self._hits and not self._misses:
            return
        hits, self._hits = self._hits, []
        misses, self._misses = self._misses, []
        by_key: dict[Any, list[tuple[int, Hit]]] = {}
        for branch, hit in hits:
            by_key.setdefault(self.key_of(hit), []).append((branch, hit))
        for key, met in by_key.items():
            self.step(key, met, out)
        for hit in misses:
            if hit.key not in by_key:
                by_key[hit.key] = []
                self.pass_by(hit, out)

    def key_of(self, hit: Hit) -> Any:
        """Return the key of the automaton that *hit* belongs to."""
        return hit.key

    @abstractmethod
    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """Take what the branches made of one event for *key*: one hit for each, in order."""

    def pass_by(self, hit: Hit, out: list[Verdict]) -> None:  # noqa: B027 (few need it)
        """Take an event of the input stream that met no branch."""


class Branch:
    """The end of one branch of a `Join`."""

    def __init__(self, join: Join, number: int) -> None:
        self._join = join
        self._number = number
        self.need = join.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        self._join.collect(self._number, hit)

    def miss(self, hit: Hit, out: list[Verdict]) -> None:
        """See `LevelStage`."""
        self._join.collect_miss(hit)


class AnyOf(Join):
    """`any_of`: one hit, however many branches one event meets."""

    def __init__(self, then: Stage) -> None:
        super().__init__()
        self.need = then.need
        self._then = then
        behind = then
        while isinstance(behind, Where):
            behind = behind.then
        self._is_rekeyed = isinstance(behind, Key)  # so the branches' own keys do not count

    def key_of(self, hit: Hit) -> Any:
        """See `Join`."""
        return None if self._is_rekeyed else hit.key

    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """See `Join`."""
        first = met[0][1]
        events, seen = first.events, first.seen
        if len(met) > 1:
            events = tuple(sorted({sequence for _, hit in met for sequence in hit.events}))
            by_sequence = {one.event.sequence: one for _, hit in met[::-1] for one in hit.seen}
            seen = tuple([by_sequence[sequence] for sequence in sorted(by_sequence)])
        branches = tuple(sorted({branch for branch, _ in met}))
        hops = max(hit.hops for _, hit in met)
        self._then.push(
            msgspec.structs.replace(
                first, key=key, events=events, seen=seen, hops=hops, branches=branches
            ),
            out,
        )
