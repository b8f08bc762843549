"""The spans of runs: when each began, waited, failed, was tried again and ended, by the log."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from headrace.engine import record as r

EVENTS_MAX: Final = 4
"""Of a firing that are named, the last ones."""
WAITS_MAX: Final = 1000
"""Of one run that are told apart; further ones are counted."""

_DEAD_ALONE: Final = ("rule", "launch")
"""Runs without a parent to catch their failure: they are dead letters then."""


class Wait(Struct):
    """A stretch in which a run waited, and for what."""

    kind: str
    """``turn`` (of its rule and key), ``retry``, ``sleep``, ``receive``, ``wait``."""
    sequence: int
    begin_ns: int
    ordinal: int = 0
    name: str = ""
    due_ns: int | None = None
    end_ns: int = 0
    """0: it still waits."""
    ended_by: int = 0
    """Sequence of the record that ended it."""
    how: str = ""
    """What that was: ``time``, ``signal``, ``events``, ``turn``, ``error``, ``end`` of the run."""


class Failure(Struct):
    """An attempt that failed."""

    sequence: int
    attempt: int
    began_ns: int
    at_ns: int
    error: str
    traceback: str
    retry_at_ns: int = 0
    """0: it was the last."""


class Span(Struct):
    """A run, from the record that made it to the one that ended it."""

    run: int
    name: str
    """The task, or the rule."""
    kind: str
    """``rule``, or how it was asked for: ``call``, ``spawn``, ``launch``, ``undo``."""
    created_ns: int
    began_ns: int
    """When its present attempt began; 0: it waits for its turn."""
    parent: int = 0
    """The run that asked for it."""
    ordinal: int = 0
    key: Any = None
    args: Any = None
    status: str = "active"
    attempt: int = 1
    ended_ns: int = 0
    ended_by: int = 0
    error: str | None = None
    result: Any = None
    waits: list[Wait] = []
    waits_more: int = 0
    """Waits over `WAITS_MAX`."""
    failures: list[Failure] = []
    redriven_ns: list[int] = []
    signals: list[str] = []
    """Names of those that it was sent and has not received."""
    events: list[int] = []
    """Of a rule's run: the last of those that met the pattern."""
    emitted: list[tuple[int, int]] = []
    """Events that it emitted, if somebody notes them: sequence and time."""
    children: list[int] = []
    """Open runs that end with it."""

    @property
    def took_ns(self) -> int | None:
        """How long it took, with all waiting; ``None``: it has not ended."""
        return self.ended_ns - self.created_ns if self.ended_ns else None


def made_by(sequence: int, record: r.Record, at_ns: int) -> Span | None:
    """Return the run that *record* makes, or ``None``.

    Of a launch under a key it cannot be told from the record alone whether it makes one.
    """
    if isinstance(record, r.RuleFired):
        if record.outcome not in ("run", "waiting"):
            return None
        span = Span(sequence, record.task or record.rule, "rule", at_ns, at_ns, key=record.key)
        span.events = record.events[-EVENTS_MAX:]
        if record.outcome == "waiting":
            span.status, span.began_ns = "waiting", 0
            span.waits.append(Wait("turn", sequence, at_ns))
        return span
    if isinstance(record, r.StepRequested):
        if record.kind == "compensate":
            return None
        kind = "undo" if record.ordinal < 0 else record.kind
        parent, key = record.parent, None
    elif isinstance(record, r.RunLaunched):
        kind, parent, key = "launch", record.run, record.key
    else:
        return None
    return Span(
        sequence, record.task, kind, at_ns, at_ns, parent, record.ordinal, key, record.args
    )  # fmt: skip


class Spans:
    """The runs that are followed."""

    def __init__(self) -> None:
        self.by_run: dict[int, Span] = {}

    def add(self, span: Span) -> None:
        """Follow a run from here on."""
        self.by_run[span.run] = span
        parent = self.by_run.get(span.parent)
        if parent is not None and span.kind != "launch":
            parent.children.append(span.run)

    def take(self, sequence: int, record: r.Record, at_ns: int) -> Span | None:
        """Let *record* change the run that it is about; return that, if it is followed."""
        if type(record) is r.TimerFired:
            span = None if record.owner else self.by_run.get(record.slot)
            if span is not None:
                self._wake(span, record.key, sequence, at_ns)
            return span
        if type(record) is r.EventStored:
            return None
        span = self.by_run.get(getattr(record, "run", 0))
        if span is not None:
            self._change(span, sequence, record, at_ns)
        return span

    def _change(self, span: Span, sequence: int, record: r.Record, at_ns: int) -> None:
        if isinstance(record, r.RunCompleted):
            span.result = record.result if record.blob is None else None
            self._end(span, "completed", sequence, at_ns)
        elif isinstance(record, (r.AttemptFailed, r.RunFailed)):
            _fail(span, sequence, record)
            if isinstance(record, r.RunFailed):
                dead = span.kind in _DEAD_ALONE
                self._end(span, "dead" if dead else "failed", sequence, at_ns)
            else:
                self._end_children(span, sequence, at_ns)
        elif isinstance(record, r.RunCancelled):
            span.error = record.reason
            self._end(span, "cancelled", sequence, at_ns)
        elif isinstance(record, r.RunReplaced):
            span.error = "a newer firing replaced it"
            self._end(span, "cancelled", sequence, at_ns)
        elif isinstance(record, r.RunFailing):
            span.status, span.error = "compensating", record.error
        elif isinstance(record, r.RunReleased):
            span.status, span.began_ns = "active", at_ns
            _end_wait(span, 0, sequence, at_ns, "turn")
        elif isinstance(record, r.RunRedriven):
            span.status, span.error = "active", None
            span.ended_ns = span.ended_by = 0
            span.attempt += 1
            span.began_ns = at_ns
            span.redriven_ns.append(at_ns)
        elif isinstance(record, r.SleepRequested):
            wait = Wait("sleep", sequence, at_ns, record.ordinal, due_ns=record.due_ns)
            _begin_wait(span, wait)
        elif isinstance(record, r.WaitRequested):
            name, due_ns = record.name, record.due_ns
            _begin_wait(span, Wait(record.kind, sequence, at_ns, record.ordinal, name, due_ns))
            if record.kind == "receive" and name in span.signals:
                span.signals.remove(name)
                _end_wait(span, record.ordinal, sequence, at_ns, "signal")
        elif isinstance(record, r.WaitEnded):
            how = "error" if record.error else "events" if record.met is not None else "time"
            _end_wait(span, record.ordinal, sequence, at_ns, how)
        elif isinstance(record, r.SignalSent):
            _signal(span, record.name, sequence, at_ns)

    def _wake(self, span: Span, ordinal: Any, sequence: int, at_ns: int) -> None:
        if not ordinal:
            span.attempt += 1
            span.status, span.began_ns = "active", at_ns
        _end_wait(span, ordinal or 0, sequence, at_ns, "time")

    def _end(self, span: Span, status: str, sequence: int, at_ns: int) -> None:
        span.status, span.ended_ns, span.ended_by = status, at_ns, sequence
        _end_waits(span, sequence, at_ns)
        self._end_children(span, sequence, at_ns)

    def _end_children(self, span: Span, sequence: int, at_ns: int) -> None:
        """Children end with what asked for them, also those of which no record says so."""
        for run in span.children:
            child = self.by_run.get(run)
            if child is not None and not child.ended_ns:
                self._end(child, "cancelled", sequence, at_ns)
        span.children.clear()


def _fail(span: Span, sequence: int, failed: r.AttemptFailed | r.RunFailed) -> None:
    began_ns = span.began_ns or span.created_ns
    retry_at_ns = failed.retry_at_ns if isinstance(failed, r.AttemptFailed) else 0
    span.error = failed.error
    span.attempt = failed.attempt
    span.failures.append(
        Failure(
            sequence, failed.attempt, began_ns, failed.at_ns, failed.error, failed.traceback,
            retry_at_ns,
        )
    )  # fmt: skip
    _end_waits(span, sequence, failed.at_ns)
    if retry_at_ns:
        span.status = "retrying"
        _begin_wait(span, Wait("retry", sequence, failed.at_ns, due_ns=retry_at_ns))


def _begin_wait(span: Span, wait: Wait) -> None:
    if len(span.waits) < WAITS_MAX:
        span.waits.append(wait)
    else:
        span.waits_more += 1


def _end_wait(span: Span, ordinal: int, sequence: int, at_ns: int, how: str) -> None:
    for wait in reversed(span.waits):
        if wait.ordinal == ordinal and not wait.how:
            wait.end_ns, wait.ended_by, wait.how = at_ns, sequence, how
            return


def _end_waits(span: Span, sequence: int, at_ns: int) -> None:
    for wait in span.waits:
        if not wait.how:
            wait.end_ns, wait.ended_by, wait.how = at_ns, sequence, "end"


def _signal(span: Span, name: str, sequence: int, at_ns: int) -> None:
    for wait in span.waits:
        if wait.kind == "receive" and wait.name == name and not wait.how:
            wait.end_ns, wait.ended_by, wait.how = at_ns, sequence, "signal"
            return
    span.signals.append(name)
