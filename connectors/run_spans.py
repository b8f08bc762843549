"""`RunSpans`: the spans of one engine's runs, for OpenTelemetry.

A run has a span for each process in which it executes, and below that one for each attempt, which
is the current span of the task's code.  A run may sleep for days, and a hundred thousand may: so
the spans end as soon as the code waits for a time, a signal or a pattern, or for another attempt.
When it goes on another span does, with a link to the one before.  What is kept meanwhile is where
they belong, which is little beside what a run needs for its code.

What a run belongs to is in the log: the context in the headers of the event that began it.  So a
trace goes on after a crash, though the spans that were open then are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec.structs import replace

from headrace.connectors.span_contexts import SpanContexts, distinct
from headrace.engine.clock import SystemClock
from headrace.engine.emission import Checked, Emission
from headrace.engine.errors import LogError
from headrace.engine.headers import COUNT_MAX
from headrace.engine.record import (
    AttemptFailed,
    EventStored,
    Record,
    RuleFired,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunLaunched,
    StepRequested,
    decode,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

    from headrace.engine.commit import Pipeline
    from headrace.engine.observer import RunEnd
    from headrace.engine.run_state import RunState

LINKS_MAX: Final = 32
"""Events whose contexts one run is said to follow from: the newest."""
OPEN_MAX: Final = 10_000
"""Attempts whose spans are open at once, such as those that wait for steps: the newest."""
ENDED_MAX: Final = 1000
"""Runs that have ended whose place is still known, for what follows from them."""
DEPTH_MAX: Final = 64
"""Runs that are gone through, each made by the one before, to find a context in the log."""

RUN_ID: Final = "headrace.run.id"
TASK: Final = "headrace.task"
ATTEMPT: Final = "headrace.run.attempt"
LOG_ID: Final = "headrace.log.id"
STATE: Final = "headrace.run.state"
CONTINUES: Final = "headrace.attempt.continues"

_STATES: Final[dict[type[Any], str]] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
    AttemptFailed: "retrying",
}


class AttemptSpan:
    """The current span of a task's code: that of the part of its attempt which executes now.

    OpenTelemetry takes it for a span (`SpanContexts` has it registered as one), so that what users
    do with the current span reaches the one that is open, if one is.  It does not end by their
    doing.
    """

    __slots__ = ("place", "run", "span", "state", "token")

    def __init__(self, span: Span, run: _RunSpan, state: RunState) -> None:
        self.state = state
        self.run = run
        self.span: Span | None = span
        self.place = span.get_span_context()
        self.token: Any = None
        """What ends its being the current span."""

    def get_span_context(self) -> SpanContext:
        """See `opentelemetry.trace.Span`, as for all that follow."""
        return self.place

    def is_recording(self) -> bool:  # noqa: D102
        return self.span is not None and self.span.is_recording()

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: its attempt goes on."""

    def set_attributes(self, attributes: Any) -> None:  # noqa: D102
        if self.span is not None:
            self.span.set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:  # noqa: D102
        if self.span is not None:
            self.span.set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:  # noqa: D102
        if self.span is not None:
            self.span.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:  # noqa: D102
        if self.span is not None:
            self.span.add_link(context, attributes)

    def update_name(self, name: str) -> None:  # noqa: D102
        if self.span is not None:
            self.span.update_name(name)

    def set_status(self, status: Any, description: str | None = None) -> None:  # noqa: D102
        if self.span is not None:
            self.span.set_status(status, description)

    def record_exception(  # noqa: D102
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 (the interface is not ours)
    ) -> None:
        if self.span is not None:
            self.span.record_exception(exception, attributes, timestamp, escaped)

    def __enter__(self) -> AttemptSpan:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: its attempt goes on."""


class _RunSpan:
    """A run's span, and once that has ended where it was."""

    __slots__ = ("place", "span")

    def __init__(self, span: Span) -> None:
        self.span: Span | None = span
        self.place = span.get_span_context()

    def end(self, state: str, error: RunFailed | AttemptFailed | None = None) -> None:
        span, self.span = self.span, None
        if span is not None:
            _end(span, state, error)


class RunSpans:
    """An `Observer` of one engine."""

    def __init__(self, tracer: Tracer, contexts: SpanContexts) -> None:
        """Made by `Telemetry`."""
        self._tracer = tracer
        self._contexts = contexts
        self._runs: dict[int, _RunSpan] = {}
        """Those that have executed in this process and have not ended."""
        self._ended: dict[int, SpanContext] = {}
        self._attempts: dict[int, AttemptSpan] = {}
        self._log_id = ""
        self._open: dict[int, AttemptSpan] = {}
        """Of them, those whose spans have not ended, in the order of their beginnings."""

    # ------------------------------------------------------------ events

    def take_in(self, events: list[Checked]) -> list[Checked]:
        """See `Observer`."""
        ours = self.headers()
        return events if ours is None else [_with_headers(event, ours) for event in events]

    def headers(self, own: dict[str, str] | None = None) -> dict[str, str] | None:
        """See `Observer`."""
        ours = self._contexts.current_headers()
        return own if ours is None else _together(own, ours)

    # ------------------------------------------------------------ runs

    def begin(self, state: RunState, pipeline: Pipeline) -> None:
        """See `Observer`."""
        if state.failing is not None:
            return  # no code is executed
        run = self._runs.get(state.id)
        if run is None:
            run = self._runs[state.id] = self._begin_run(state, pipeline)
        span = self._tracer.start_span(
            f"attempt {state.task}",
            self._contexts.below(run.place),
            attributes={**self._facts(state), ATTEMPT: state.attempt},
        )
        made = AttemptSpan(span, run, state)
        self._attempts[state.id] = made
        self._note_open(state.id, made)
        made.token = self._contexts.attach(made)

    def _facts(self, state: RunState) -> dict[str, Any]:
        return {TASK: state.task, RUN_ID: state.id, LOG_ID: self._log_id}

    def _begin_run(self, state: RunState, pipeline: Pipeline) -> _RunSpan:
        self._log_id = self._log_id or pipeline.log.log_id.hex()
        parent, links = self._cause_of(pipeline, state)
        begun_ns = None
        if state.attempt == 1 and not state.steps and not pipeline.by_input:
            # That it had to wait for its turn is a part of it.  Log time need not be the clock's.
            begun_ns = SystemClock().wall_ns() - (pipeline.now_ns() - state.created_at_ns)
        return _RunSpan(
            self._tracer.start_span(
                f"run {state.task}",
                self._contexts.below(parent),
                attributes=self._facts(state),
                links=links,
                start_time=begun_ns,
            )
        )

    def wait(self, run_id: int) -> None:
        """See `Observer`."""
        made = self._attempts.get(run_id)
        if made is not None:
            self._suspend(run_id, made)

    def _suspend(self, run_id: int, made: AttemptSpan) -> None:
        span, made.span = made.span, None
        self._open.pop(run_id, None)
        if span is not None:
            _end(span, "waiting")
        made.run.end("waiting")

    def go_on(self, run_id: int) -> None:
        """See `Observer`."""
        made = self._attempts.get(run_id)
        if made is None or made.span is not None:
            return
        state = made.state
        made.span = self._tracer.start_span(
            f"attempt {state.task}",
            self._contexts.below(made.run.place),
            attributes={**self._facts(state), ATTEMPT: state.attempt, CONTINUES: True},
            links=self._contexts.links([made.place]),
        )
        made.place = made.span.get_span_context()
        self._note_open(run_id, made)

    def met(self, run_id: int, events: list[int], pipeline: Pipeline) -> None:
        """See `Observer`."""
        made = self._attempts.get(run_id)
        if made is None or made.span is None:
            return
        try:
            found = distinct(self._of_events(pipeline, events))
        except (OSError, LogError):
            return  # whoever needs the log to go on says so
        for place in found:
            made.add_link(place)

    def _note_open(self, run_id: int, made: AttemptSpan) -> None:
        self._open[run_id] = made
        if len(self._open) > OPEN_MAX:
            oldest = next(iter(self._open))
            self._suspend(oldest, self._open[oldest])

    def end(self, record: RunEnd) -> None:
        """See `Observer`."""
        run_id, state = record.run, _STATES[type(record)]
        error = record if isinstance(record, (RunFailed, AttemptFailed)) else None
        made = self._attempts.get(run_id)
        if made is not None:
            self.go_on(run_id)  # if it waited, what it came to is said by another span
            span, made.span = made.span, None
            self._open.pop(run_id, None)
            if span is not None:
                _end(span, state, error)
        run = self._runs.get(run_id)
        if run is None:
            return
        run.end(state, error)
        if not isinstance(record, AttemptFailed):
            del self._runs[run_id]
            self._ended[run_id] = run.place
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]

    def leave(self, run_id: int) -> None:
        """See `Observer`."""
        made = self._attempts.pop(run_id, None)
        if made is None:
            return
        self._contexts.detach(made.token)
        self._open.pop(run_id, None)
        if made.span is not None:  # it stays open, for the next start
            _end(made.span, "interrupted")
            made.run.end("interrupted")
            self._runs.pop(run_id, None)

    # ------------------------------------------------------------ what a run belongs to

    def _cause_of(
        self, pipeline: Pipeline, state: RunState
    ) -> tuple[SpanContext | None, Sequence[Link]]:
        """Return the context that a run goes on with, and those that it follows from as well."""
        if state.parent:
            known = self._place(state.parent)
            if known is not None:
                return known, ()
        try:
            if state.rule and not state.parent:
                found = list(self._of_events(pipeline, state.events))
            else:
                found = list(self._of_run(pipeline, state.id))
        except (OSError, LogError):
            return None, ()  # whoever needs the log to go on says so
        # The newest is what has caused it; by the others there are links.
        *others, parent = distinct(found) or (None,)
        return parent, self._contexts.links(others)

    def _place(self, run_id: int) -> SpanContext | None:
        """Return where a run is, or was, as far as this process knows."""
        made = self._attempts.get(run_id)
        if made is not None:
            return made.place
        run = self._runs.get(run_id)
        return self._ended.get(run_id) if run is None else run.place

    def _of_run(self, pipeline: Pipeline, run_id: int) -> Iterator[SpanContext]:
        """Yield the contexts of what made a run, as the log has it."""
        for _ in range(DEPTH_MAX):
            record = _fetched(pipeline, [run_id]).get(run_id)
            if isinstance(record, RuleFired):
                yield from self._of_events(pipeline, record.events)
                return
            if isinstance(record, RunLaunched) and record.headers is not None:
                yield from self._contexts.of_headers(record.headers)
                return
            if isinstance(record, RunLaunched):
                run_id = record.run
            elif isinstance(record, StepRequested):
                run_id = record.parent
            else:
                return
            if (known := self._place(run_id)) is not None:
                yield known
                return

    def _of_events(self, pipeline: Pipeline, sequences: list[int]) -> Iterator[SpanContext]:
        recent = pipeline.kernel.state.decider.recent
        found: dict[int, Record | None] = {
            number: recent(number) for number in sequences[-LINKS_MAX:]
        }
        missing = [number for number, event in found.items() if event is None]
        if missing:
            found.update(_fetched(pipeline, missing))
        for event in found.values():
            if not isinstance(event, EventStored):
                continue  # it is gone, as of a dead letter it may be
            if event.headers is not None:
                yield from self._contexts.of_headers(event.headers)
            elif event.run:  # that a run has ended, for one
                known = self._place(event.run)
                yield from self._of_run(pipeline, event.run) if known is None else (known,)


def _fetched(pipeline: Pipeline, sequences: Iterable[int]) -> dict[int, Record]:
    found = pipeline.log.fetch(list(sequences))
    return {sequence: decode(raw) for sequence, raw in found.items()}


def _with_headers(event: Checked, ours: dict[str, str]) -> Checked:
    """Return *event* with our headers as well."""
    subject, payload, full = event
    if full is None:
        return subject, payload, Emission(subject, headers=ours)
    return subject, payload, replace(full, headers=_together(full.headers, ours))


def _together(own: Mapping[str, str] | None, ours: dict[str, str]) -> dict[str, str]:
    """Return both, but only *own* if that says a context, or has no room for another."""
    if own is None:
        return ours
    if len(own) + len(ours) > COUNT_MAX or not ours.keys().isdisjoint(own):
        return dict(own)
    return {**own, **ours}


def _end(span: Span, state: str, error: RunFailed | AttemptFailed | None = None) -> None:
    """Say how *span* has ended, with the words of the record: what the log has is not hidden."""
    from opentelemetry.trace import StatusCode

    span.set_attribute(STATE, state)
    if error is not None:
        kind, _, message = error.error.partition(": ")
        attributes = {"exception.type": kind, "exception.message": message}
        if error.traceback:
            attributes["exception.stacktrace"] = error.traceback
        span.add_event("exception", cast("Any", attributes))
        span.set_attribute("error.type", kind)
        span.set_status(StatusCode.ERROR, error.error)
    span.end()
