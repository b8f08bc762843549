"""`FiringLoader`: the firing that a run was made by, with its events."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from headrace.engine.decider import Decider
from headrace.engine.errors import LogMismatch
from headrace.engine.event import Event, Firing
from headrace.engine.fresh import MEND
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import KIND_BY_TYPE, Details, EventStored, decode


class FiringLoader:
    """Puts firings together: their events come from memory, or from the log."""

    def __init__(self, decider: Decider, log: EventLog) -> None:
        self._decider = decider
        self._log = log

    def __call__(self, run: Made) -> Firing[Any]:
        """Return the firing of *run*.

        Raises:
            LogMismatch: an event of it is not there, or its type does not fit any more.
        """
        decider = self._decider
        if len(run.events) == 1 and run.details is None and run.due_ns is None:
            # By one event that is in memory, as most: without what the others need.
            (sequence,) = run.events
            found = decider.recent(sequence)
            seen = None if found is None else decider.view(run.rule, sequence, found)
            if seen is not None:
                at_ns, branches = run.created_at_ns, run.branches
                return Firing(
                    run.id, run.rule, run.key, run.events, [seen], at_ns, None, branches, count=1
                )
        records = {sequence: decider.recent(sequence) for sequence in run.events}
        missing = [sequence for sequence, record in records.items() if record is None]
        if missing:
            for sequence, raw in self._log.fetch(missing).items():
                records[sequence] = _event(run.id, sequence, raw)
        by_sequence: dict[int, Event[Any]] = {}
        for sequence in run.events:
            stored = records[sequence]
            event = None if stored is None else decider.view(run.rule, sequence, stored)
            if event is None:
                raise LogMismatch(
                    f"run {run.id}: event {sequence} is not there or does not fit rule "
                    f"{run.rule!r} as it is declared now"
                )
            by_sequence[sequence] = event
        return firing_of(
            run.id,
            run.rule,
            run,
            by_sequence,
            recorded_at_ns=run.created_at_ns,
            missed=run.missed,
        )


def _event(run_id: int, sequence: int, raw: bytes) -> EventStored:
    try:
        record = decode(raw)
        found = repr(KIND_BY_TYPE[type(record)])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        found = f"what is no record: {error}"
    else:
        if isinstance(record, EventStored):
            return record
    raise LogMismatch(
        f"run {run_id}: expected record {sequence} to be an event of its firing, found {found}; "
        f"{MEND}"
    )


class Fired(Protocol):
    """What a firing and the run that it made have in common."""

    @property
    def key(self) -> Any:
        """The key of the automaton."""
        ...

    @property
    def events(self) -> list[int]:
        """Sequences of the events that met the pattern."""
        ...

    @property
    def due_ns(self) -> int | None:
        """For a firing by timer: the time that it was scheduled for."""
        ...

    @property
    def branches(self) -> list[int] | None:
        """For `any_of`: which branches matched."""
        ...

    @property
    def details(self) -> Details | None:
        """What only some patterns have to say."""
        ...


class Made(Fired, Protocol):
    """A run that a firing made, or a wait that one ended."""

    @property
    def id(self) -> int:
        """The sequence of the firing, or of what ended the wait."""
        ...

    @property
    def rule(self) -> str:
        """The rule whose firing it is."""
        ...

    @property
    def created_at_ns(self) -> int:
        """Log time of the firing."""
        ...

    @property
    def missed(self) -> int:
        """See `Firing`."""
        ...


def firing_of(
    sequence: int,
    rule: str,
    fired: Fired,
    events: dict[int, Event[Any]],
    *,
    recorded_at_ns: int,
    missed: int = 0,
) -> Firing[Any]:
    """Put a firing together; *events* has those that it names, by sequence."""
    details = fired.details or Details()
    due_ns = fired.due_ns
    at_ns = recorded_at_ns if due_ns is None else due_ns
    if details.at_ns is not None:
        at_ns = details.at_ns
    is_late = due_ns is not None and details.at_ns is None
    return Firing(
        sequence,
        rule,
        fired.key,
        fired.events,
        [events[number] for number in fired.events],
        at_ns,
        due_ns,
        fired.branches,
        recorded_at_ns - at_ns if is_late else 0,
        missed,
        details.reason,
        _steps_of(details, events),
        details.value,
        details.count or len(fired.events),
    )


def _steps_of(details: Details, events: dict[int, Event[Any]]) -> dict[str, list[Event[Any]]]:
    """Return the events by step, in the order of the steps' first events.

    The record has them in the order of their names.
    """
    places = {number: place for place, number in enumerate(events)}
    steps = sorted(
        (details.steps or {}).items(),
        key=lambda step: (places[step[1][0]] if step[1] else len(places), step[0]),
    )
    return {name: [events[number] for number in numbers] for name, numbers in steps}
