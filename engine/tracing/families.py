"""The runs of a report, no more of them than it can hold.

A *family* is a run with no run above it, and all that was asked for below it.  When there are
too many, families that ended well are left out, one of two, then three of four, and so on;
one with a failure in it stays for as long as there is room.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.tracing.spans import WAITS_MAX, Span, Spans

_MIX: Final = 0x9E3779B1
"""Spreads sequences over all remainders: those of firings are often even, or multiples of 3."""


class Family(Struct):
    """One run with all below it."""

    root: int
    runs: list[int]
    failed: bool = False
    bars: int = 0
    """Runs, waits, failed attempts and emitted events: what is drawn of it."""


class Families:
    """Spans of runs, of which some families are left out when there are too many."""

    def __init__(self, *, bars_max: int) -> None:
        self.spans = Spans()
        self.bars = 0
        self.runs = 0
        """Runs that there were, with those left out."""
        self.one_of = 1
        """Of how many families that ended well one is kept."""
        self.one_failed_of = 1
        """The same of those in which something failed, or that are open."""
        self.cut = 0
        """Runs left out of families that alone take half of the room."""
        self._bars_max = bars_max
        self._families: dict[int, Family] = {}
        self._root: dict[int, int] = {}

    def add(self, span: Span) -> bool:
        """Follow a run, if its family is followed; say whether it is."""
        self.runs += 1
        # What was launched goes on by itself, also if what launched it is not shown.
        root = self._root.get(span.parent, span.run if span.kind == "launch" else 0)
        root = root if span.parent else span.run
        if not root:
            return False
        family = self._families.get(root)
        if family is None:
            family = self._families[root] = Family(root, [])
        elif family.bars >= self._bars_max // 2:
            self.cut += 1
            return False
        self.spans.add(span)
        self._root[span.run] = root
        family.runs.append(span.run)
        self._count(family, 1 + len(span.waits))
        return span.run in self._root

    def take(self, sequence: int, record: r.Record, at_ns: int) -> Span | None:
        """Let *record* change the run that it is about; return that, if it is followed."""
        run = record.slot if type(record) is r.TimerFired else getattr(record, "run", 0)
        span = self.spans.by_run.get(run)
        if span is None:
            return None
        bars = len(span.waits) + len(span.failures)
        self.spans.take(sequence, record, at_ns)
        family = self._families[self._root[span.run]]
        family.failed = family.failed or bool(span.failures)
        added = len(span.waits) + len(span.failures) - bars
        if added:
            self._count(family, added)
        elif span.ended_by == sequence and self.one_of > 1 and not self._is_kept(family):
            self._drop(family)
        return span

    def emit(self, run: int, sequence: int, at_ns: int) -> None:
        """Note an event that a run emitted."""
        span = self.spans.by_run.get(run)
        if span is not None and len(span.emitted) < WAITS_MAX:
            span.emitted.append((sequence, at_ns))
            self._count(self._families[self._root[run]], 1)

    def _count(self, family: Family, added: int) -> None:
        family.bars += added
        self.bars += added
        while self.bars > self._bars_max:
            self._thin()

    def _thin(self) -> None:
        """Leave out more families."""
        families = list(self._families.values())
        well = sum(family.bars for family in families if self._went_well(family))
        if well > self._bars_max // 4:
            self.one_of *= 2
        else:
            # Nearly all that is left has failed, or has not ended.
            self.one_failed_of *= 2
        for family in families:
            if not self._is_kept(family):
                self._drop(family)

    def _went_well(self, family: Family) -> bool:
        """Say whether all of it has ended, and no attempt failed."""
        by_run = self.spans.by_run
        # The root ends last, but for what was launched.
        return not family.failed and all(by_run[run].ended_ns for run in family.runs)

    def _is_kept(self, family: Family) -> bool:
        place = family.root * _MIX >> 8
        if place % self.one_of == 0:
            return place % self.one_failed_of == 0 or self._went_well(family)
        return place % self.one_failed_of == 0 and not self._went_well(family)

    def _drop(self, family: Family) -> None:
        self.bars -= family.bars
        del self._families[family.root]
        for run in family.runs:
            del self.spans.by_run[run], self._root[run]
