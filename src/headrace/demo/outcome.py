"""What a log came to, said in words that do not depend on whether it was interrupted.

A run that was killed and resumed has records that an undisturbed one has not (a second
``engine.started``), so sequences differ.  Here an event is named by its place in the feed,
a firing by rule, key and log time, a run by the firing that made it and the calls that led
to it.  Under these names two logs of the same feed must be equal in everything: firings
with their events, runs with status, retries, error, result and time of their end, and what
runs emitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.engine.log import LogReader
from headrace.engine.record import (
    AttemptFailed,
    EngineStarted,
    EventStored,
    Record,
    RuleFired,
    RunCancelled,
    RunCompleted,
    RunFailed,
    SourceOpened,
    StepRequested,
    TimerFired,
    decode,
)


class FiringSeen(Struct, frozen=True):
    """A rule that fired."""

    rule: str
    key: Any
    at_ns: int
    events: list[str]
    """Names of the events that met the pattern."""
    outcome: str


class RunSeen(Struct):
    """A run and what became of it."""

    id: int
    """Its sequence: the one thing here that differs after a crash, so it is not compared."""
    task: str
    key: Any
    step: bool
    """Whether another run waits, or waited, for it."""
    status: str = "open"
    retries: int = 0
    error: str | None = None
    result: Any = None
    ended_at_ns: int = 0
    """Log time of its end."""


class Outcome(Struct):
    """All that a log came to."""

    events: int = 0
    """Events from the feed."""
    emitted: dict[str, tuple[str, Any]] = {}
    """Events that runs emitted: subject and data by name."""
    firings: list[FiringSeen] = []
    runs: dict[str, RunSeen] = {}
    """By name."""
    starts: int = 0
    """How often an engine was started on the log."""
    foreign: int = 0
    """Events from outside that are not from the feed: it is the log of something else."""

    @property
    def open_runs(self) -> int:
        """Runs that have not ended."""
        return sum(run.status == "open" for run in self.runs.values())

    def facts(self) -> dict[str, list[Any]]:
        """Return what is compared, in an order that does not depend on concurrency."""
        return {
            "events": [self.events],
            "firings": sorted(
                [f.at_ns, f.rule, str(f.key), f.events, f.outcome] for f in self.firings
            ),
            "runs": [
                # All fields but the first: its id.
                [name, *msgspec.structs.astuple(run)[1:]]
                for name, run in sorted(self.runs.items())
            ],
            "emitted": [[name, *emitted] for name, emitted in sorted(self.emitted.items())],
        }

    def digest(self) -> str:
        """Return 32 hexadecimal digits that are equal for equal `facts`."""
        raw = msgspec.msgpack.encode(self.facts(), order="deterministic")
        return blake2b(raw, digest_size=16).hexdigest()


def first_difference(one: Outcome, other: Outcome) -> str | None:
    """Say where *one* and *other* first differ, or return ``None`` if they are equal."""
    for what, expected in one.facts().items():
        found = other.facts()[what]
        for left, right in zip(expected, found, strict=False):
            if left != right:
                return f"{what}: {left!r} against {right!r}"
        if len(expected) != len(found):
            return f"{what}: {len(expected)} against {len(found)}"
    return None


def outcome_of(records: Iterable[tuple[int, Record]], *, source: str) -> Outcome:
    """Fold *records*, as ``(sequence, record)``, into what they came to."""
    fold = _Fold(source)
    for sequence, record in records:
        fold.take(sequence, record)
    return fold.outcome


def read_outcome(log: Path, *, source: str) -> Outcome | None:
    """Return what the log at *log* came to, or ``None`` if there is nothing at that path.

    Raises:
        LogUnusable, LogCorrupt, LogVersion: there is something, and it cannot be read.
    """
    if not log.exists() or (log.is_dir() and not any(log.iterdir())):
        return None
    with LogReader(log) as reader:
        return outcome_of(
            (
                (sequence, decode(raw))
                for first, batch in reader.read()
                for sequence, raw in enumerate(batch, first)
            ),
            source=source,
        )


class _Fold:
    """The outcome so far, and the names of what later records refer to by sequence."""

    def __init__(self, source: str) -> None:
        self.outcome = Outcome(emitted={}, firings=[], runs={})
        self._source = source
        self._source_number = -1
        self._events: dict[int, str] = {}
        self._runs: dict[int, str] = {}
        self._firings_at: Counter[str] = Counter()
        self._at_ns = 0  # of the latest input: decisions happen at the time of theirs

    def take(self, sequence: int, record: Record) -> None:
        """Take the next record."""
        if isinstance(record, RuleFired):
            self._take_firing(sequence, record)
            return
        self._at_ns = getattr(record, "at_ns", self._at_ns)
        if isinstance(record, EventStored):
            self._take_event(sequence, record)
        elif isinstance(record, TimerFired):
            self._at_ns = record.due_ns
        elif isinstance(record, StepRequested):
            name = f"{self._runs[record.parent]}/{record.ordinal}:{record.task}"
            key = self.outcome.runs[self._runs[record.parent]].key
            run = RunSeen(sequence, record.task, key, record.kind != "launch")
            self._add_run(sequence, name, run)
        elif isinstance(record, AttemptFailed):
            self._run(record.run).retries += 1
        elif isinstance(record, (RunCompleted, RunFailed, RunCancelled)):
            self._end_run(record)
        elif isinstance(record, EngineStarted):
            self.outcome.starts += 1
        elif isinstance(record, SourceOpened) and record.name == self._source:
            self._source_number = record.number

    def _take_event(self, sequence: int, event: EventStored) -> None:
        if event.run:
            name = f"{self._runs[event.run]}/{event.ordinal}:emit"
            self.outcome.emitted[name] = (event.subject, _decode(event.data))
        elif event.source == self._source_number:
            self.outcome.events += 1
            name = f"{self._source}:{event.position}"
        else:
            self.outcome.foreign += 1
            name = f"{event.subject}#{self.outcome.foreign}"
        self._events[sequence] = name

    def _take_firing(self, sequence: int, fired: RuleFired) -> None:
        key = "" if fired.key is None else f"[{fired.key}]"
        moment = datetime.fromtimestamp(self._at_ns / 1e9, UTC)
        name = f"{fired.rule}{key}@{moment:%Y-%m-%dT%H:%M:%SZ}"
        self._firings_at[name] += 1
        if self._firings_at[name] > 1:
            name += f"#{self._firings_at[name]}"
        events = [self._events[event] for event in fired.events]
        self.outcome.firings.append(
            FiringSeen(fired.rule, fired.key, self._at_ns, events, fired.outcome)
        )
        if fired.outcome != "dropped":
            self._add_run(sequence, name, RunSeen(sequence, fired.rule, fired.key, step=False))

    def _add_run(self, sequence: int, name: str, run: RunSeen) -> None:
        self._runs[sequence] = name
        self.outcome.runs[name] = run

    def _end_run(self, record: RunCompleted | RunFailed | RunCancelled) -> None:
        run = self._run(record.run)
        run.ended_at_ns = record.at_ns
        if isinstance(record, RunCompleted):
            run.status, run.result = "completed", _decode(record.result)
        elif isinstance(record, RunCancelled):
            run.status, run.error = "cancelled", record.reason
        else:
            run.status, run.error = "failed" if run.step else "dead", record.error

    def _run(self, run_id: int) -> RunSeen:
        return self.outcome.runs[self._runs[run_id]]


def _decode(raw: Raw) -> Any:
    return msgspec.msgpack.decode(raw)
