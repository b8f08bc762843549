"""`Units`: a log as its units: each an input with the decisions that were recorded for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from headrace.engine import record as r
from headrace.engine.errors import LogCorrupt
from headrace.engine.kernel import Kernel
from headrace.engine.replay.stretch import Stretch

Unit = tuple[int, r.Input, Sequence[r.Record]]
"""Sequence, input, and its decisions, which have the sequences behind it."""
NO_DECISIONS: Sequence[r.Record] = ()


class Units:
    """The units of a stretch, in their order; some may be looked at before it is their turn."""

    def __init__(self, stretch: Stretch, kernel: Kernel, problems: list[str]) -> None:
        """Begin behind *kernel*."""
        self._stretch = stretch
        self._source = self._units(kernel, problems)
        self._ahead: deque[Unit] = deque()
        self.last = kernel.sequence
        """The sequence of the last record that was read."""
        self.damage: LogCorrupt | None = None
        """What ended it before its end."""
        self.unknown = 0
        """Records of kinds that are not known here."""

    def __iter__(self) -> Iterator[Unit]:
        ahead, source = self._ahead, self._source
        while True:
            while ahead:
                yield ahead.popleft()
            unit = next(source, None)
            if unit is None:
                return
            yield unit

    def peek(self, count: int) -> list[Unit]:
        """Return the next *count* units, or those that are left."""
        while len(self._ahead) < count and (unit := next(self._source, None)) is not None:
            self._ahead.append(unit)
        return list(self._ahead)[:count]

    def _units(self, kernel: Kernel, problems: list[str]) -> Iterator[Unit]:
        try:
            yield from self._read(kernel, problems)
        except LogCorrupt as damage:
            self.damage = damage

    def _read(self, kernel: Kernel, problems: list[str]) -> Iterator[Unit]:
        decision_kinds = frozenset(r.DECISION_KINDS)
        begun: tuple[int, r.Input] | None = None
        decisions: list[r.Record] = []
        for first, batch in self._stretch.batches(kernel, problems):
            records = r.decode_all(batch, first=first, one=self._stretch.decode)
            for place, record in enumerate(records, first):
                kind = type(record)
                if kind in decision_kinds or kind is r.UnknownRecord:
                    decisions.append(record)
                    self.unknown += kind is r.UnknownRecord
                    continue
                if begun is not None:
                    yield *begun, decisions or NO_DECISIONS
                if decisions:
                    decisions = []
                begun = (place, record)  # type: ignore[assignment]
            self.last = first + len(batch) - 1
        if begun is not None:
            yield *begun, decisions or NO_DECISIONS
