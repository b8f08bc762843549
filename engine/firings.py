"""`FiringLoader`: the firing that a run was made by, with its events."""

from __future__ import annotations

from typing import Any

from headrace.engine.decider import Decider
from headrace.engine.errors import LogMismatch
from headrace.engine.event import Firing
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import EventStored, decode
from headrace.engine.runs import RunState


class FiringLoader:
    """Puts firings together: their events come from memory, or from the log."""

    def __init__(self, decider: Decider, log: EventLog) -> None:
        self._decider = decider
        self._log = log

    def __call__(self, run: RunState) -> Firing[Any]:
        """Return the firing of *run*.

        Raises:
            LogMismatch: an event of it is not there, or its type does not fit any more.
        """
        decider = self._decider
        records = {sequence: decider.recent(sequence) for sequence in run.events}
        missing = [sequence for sequence, record in records.items() if record is None]
        if missing:
            for sequence, raw in self._log.fetch(missing).items():
                record = decode(raw)
                assert isinstance(record, EventStored), record
                records[sequence] = record
        events = []
        for sequence in run.events:
            found = records[sequence]
            event = None if found is None else decider.view(run.rule, sequence, found)
            if event is None:
                raise LogMismatch(
                    f"run {run.id}: event {sequence} is not there or does not fit rule "
                    f"{run.rule!r} as it is declared now"
                )
            events.append(event)
        by_timer = run.due_ns is not None
        at_ns = run.due_ns if run.due_ns is not None else run.created_at_ns
        return Firing(
            run.id,
            run.rule,
            run.key,
            run.events,
            events,
            at_ns,
            run.due_ns,
            run.branches,
            run.created_at_ns - at_ns if by_timer else 0,
            run.missed,
        )
