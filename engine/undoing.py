"""A run that begins to undo what it has done, as the kernel sees it."""

from __future__ import annotations

from typing import Protocol

from headrace.engine import waiting
from headrace.engine.breakers import Breakers
from headrace.engine.record import RunFailing
from headrace.engine.run_state import RETRY, Failing


class Situation(waiting.Situation, Protocol):
    """What of the kernel's state the record changes."""

    breakers: Breakers


def begin(state: Situation, _: int, failing: RunFailing) -> tuple[()]:
    """Let a run only undo what it has done.  Its children have ended."""
    run = state.runs.touch(failing.run)
    if run is not None:
        if run.retry_at_ns is not None:
            state.timers.disarm(("", run.id, RETRY))
        if not failing.is_cancelled:
            state.breakers.note_failed(run.task, failing.at_ns)  # and not once more at its end
        run.status = "compensating"
        run.retry_at_ns = None
        run.failing = Failing(failing.error, failing.traceback, failing.is_cancelled)
        # What it waited for is of no use any more.
        for ordinal in [n for n, step in run.steps.items() if step.status == "pending"]:
            waiting.forget(state, run, ordinal)
        state.runs.dormant.discard(run.id)
    return ()
