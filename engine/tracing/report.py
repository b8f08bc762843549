"""What a timeline shows of a stretch of a log, gathered in one pass with bounded tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.log.index import INPUT_TAG_MAX, log_time_ns
from headrace.engine.tracing.families import Families
from headrace.engine.tracing.heat import Heat
from headrace.engine.tracing.links import RUN_TAGS, Decode, run_named
from headrace.engine.tracing.spans import Span, made_by

BARS_MAX: Final = 100_000
POINTS_MAX: Final = 20_000

OLDER_MAX: Final = 100
"""Runs above one that was made before the stretch begins."""

_EVENT_TAG: Final = 1
_OUTSIDE_HEAD_MAX: Final = 0x99
"""As in `headrace.engine.tracing.tree`."""

_QUIET_TAGS: Final = RUN_TAGS - {4, 6}
"""Kinds that are of no interest if the run is not shown: all but those that tell of failures."""
_STEP_TAG: Final = 7
_RUN_FIELDS: Final[dict[type[Any], str]] = {r.TimerFired: "slot", r.StepRequested: "parent"}

_MARKS: Final = (
    r.EngineStarted,
    r.EngineStopped,
    r.CrashesCounted,
    r.RuleChanged,
    r.RulePaused,
    r.BreakerMoved,
    r.ClockStepped,
)
_POINTS: Final = (r.RuleMismatch, r.RuleError, r.RuleLate, r.RuleLoop)


class Point(Struct):
    """Something that happened at one moment and made no run."""

    sequence: int
    at_ns: int
    kind: str
    """As `record.KIND_BY_TYPE` has it; of a firing what became of it."""
    name: str
    text: str = ""


class Thinned:
    """A list of no more than so many points: when it is full, every second one goes."""

    def __init__(self, points_max: int) -> None:
        self.points: list[Point] = []
        self.count = 0
        """How many there were."""
        self.one_of = 1
        self._points_max = points_max

    def add(self, point: Point) -> None:
        """Keep a point, if it is its turn."""
        self.count += 1
        if self.count % self.one_of:
            return
        self.points.append(point)
        if len(self.points) > self._points_max:
            self.one_of *= 2
            self.points = self.points[1::2]


class Report:
    """The runs, events and firings of a stretch of a log."""

    def __init__(self, *, bars_max: int = BARS_MAX, points_max: int = POINTS_MAX) -> None:
        self.heat = Heat()
        self.families = Families(bars_max=bars_max)
        self.points = Thinned(points_max)
        self.marks = Thinned(points_max)
        self.first = self.last = 0
        self.begin_ns = self.end_ns = 0
        self.counts = {"events": 0, "firings": 0, "failures": 0}
        self._not_older: set[int] = set()
        self._begun_before: Callable[[int], Span | None] = lambda _run: None

    def read(
        self,
        batches: Iterable[tuple[int, list[bytes]]],
        decode: Decode,
        *,
        at_ns: int,
        begun_before: Callable[[int], Span | None],
        advance: Callable[[int], None] = lambda _sequence: None,
    ) -> None:
        """Take the records; *at_ns* is the log time before them.

        *begun_before* finds a run that was made before the stretch begins.
        """
        self._begun_before = begun_before
        events, add_event, by_run = 0, self.heat.add_event, self.families.spans.by_run
        for first, batch in batches:
            if not self.first:
                self.first = first
            for sequence, raw in enumerate(batch, first):
                tag = raw[1] if len(raw) > 2 else 0
                if tag == _EVENT_TAG and 0x90 < raw[0] <= _OUTSIDE_HEAD_MAX:
                    # Most of a log: only its time is of interest.
                    at_ns = int.from_bytes(raw[3:11]) if raw[2] == 0xCF else log_time_ns(raw)
                    events += 1
                    add_event(at_ns)
                    continue
                if (
                    tag in _QUIET_TAGS
                    and (run := run_named(raw)) > self.first
                    and run not in by_run
                ):
                    at_ns = log_time_ns(raw)
                    self.families.runs += tag == _STEP_TAG
                    continue  # it is of a run that was left out
                record = decode(sequence, raw)
                if tag <= INPUT_TAG_MAX:
                    at_ns = getattr(record, "at_ns", at_ns)
                self._note_time(at_ns)
                self._take(sequence, record, at_ns)
            self._note_time(at_ns)
            self.last = first + len(batch) - 1
            advance(self.last)
        self.counts["events"] += events

    def _note_time(self, at_ns: int) -> None:
        if at_ns:
            self.begin_ns = self.begin_ns or at_ns
            self.end_ns = max(self.end_ns, at_ns)

    def _take(self, sequence: int, record: r.Record, at_ns: int) -> None:
        kind = type(record)
        if kind is r.EventStored:
            self._take_event(sequence, record)  # type: ignore[arg-type]
        elif kind is r.RuleFired:
            self._take_firing(sequence, record, at_ns)  # type: ignore[arg-type]
        elif kind in _MARKS:
            self.marks.add(_mark_of(sequence, record))
        elif kind in _POINTS:
            rule, text = getattr(record, "rule", ""), getattr(record, "error", "")
            self.points.add(Point(sequence, at_ns, r.KIND_BY_TYPE[kind], rule, text))
        else:
            self._take_of_run(sequence, record, at_ns)

    def _take_firing(self, sequence: int, fired: r.RuleFired, at_ns: int) -> None:
        self.counts["firings"] += 1
        span = made_by(sequence, fired, at_ns)
        if span is not None:
            self.families.add(span)
        else:
            self.points.add(Point(sequence, at_ns, fired.outcome, fired.rule))

    def _take_of_run(self, sequence: int, record: r.Record, at_ns: int) -> None:
        kind = type(record)
        if kind is r.AttemptFailed or kind is r.RunFailed:
            self.counts["failures"] += 1
            self.heat.add_failure(at_ns)
        run: int = getattr(record, _RUN_FIELDS.get(kind, "run"), 0)
        if 0 < run < self.first and run not in self.families.spans.by_run:
            self._add_older(run)
        if kind is r.StepRequested or kind is r.RunLaunched:
            span = made_by(sequence, record, at_ns)
            if span is not None:
                self.families.add(span)
        else:
            self.families.take(sequence, record, at_ns)

    def _add_older(self, run: int) -> None:
        """Follow a run that was made before the stretch begins, with those above it."""
        if run in self._not_older:
            return
        found: list[Span] = []
        above = run
        while above and above not in self.families.spans.by_run and len(found) < OLDER_MAX:
            span = self._begun_before(above)
            if span is None:
                break
            found.append(span)
            above = 0 if span.kind == "launch" else span.parent
        if not above or above in self.families.spans.by_run:
            for span in reversed(found):
                self.families.add(span)
        if run not in self.families.spans.by_run and len(self._not_older) < BARS_MAX:
            self._not_older.add(run)  # it was removed, or there is no room for it

    def _take_event(self, sequence: int, event: r.EventStored) -> None:
        self.counts["events"] += 1
        self.heat.add_event(event.at_ns)
        if event.run:
            self.families.emit(event.run, sequence, event.at_ns)


def _mark_of(sequence: int, record: Any) -> Point:
    kind = r.KIND_BY_TYPE[type(record)]
    if isinstance(record, r.RuleChanged):
        text = "removed" if record.fingerprint is None else record.cause
        return Point(sequence, record.at_ns, kind, record.rule, text)
    if isinstance(record, r.RulePaused):
        text = "paused" if record.paused else "resumed"
        return Point(sequence, record.at_ns, kind, record.rule, f"{text} {record.reason}".strip())
    if isinstance(record, r.BreakerMoved):
        return Point(sequence, record.at_ns, kind, record.task, record.state)
    if isinstance(record, r.ClockStepped):
        return Point(sequence, record.at_ns, kind, "", f"by {record.step_ns / 1e9:.3f} s")
    return Point(sequence, record.at_ns, kind, "")
