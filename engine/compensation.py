"""Undoing what a run has done, before it ends without success: a saga, all of it in the log.

What `Run.compensate` has registered is executed newest first, one at a time, each as a child
run.  Nothing interrupts that but the end of the engine; then the next start goes on with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Raw

from headrace.engine.commit import Pipeline
from headrace.engine.record import (
    RunCancelled,
    RunFailed,
    RunFailing,
    StepRequested,
    text_for_record,
)
from headrace.engine.run_state import RunState

ERROR_CHARS_MAX: Final = 4000

Finish = Callable[[int], Awaitable[bool]]
"""Executes a child run, or waits for it; says whether it has ended."""


def failing_record(record: RunFailed | RunCancelled, attempt: int) -> RunFailing:
    """Return what says that a run will end as *record* has it, once all is undone."""
    if isinstance(record, RunFailed):
        return RunFailing(record.at_ns, record.run, attempt, record.error, record.traceback)
    return RunFailing(record.at_ns, record.run, attempt, record.reason, is_cancelled=True)


async def undo_all(
    pipeline: Pipeline, state: RunState, finish: Finish
) -> RunFailed | RunCancelled | None:
    """Execute what *state* has registered; return the record of its end.

    ``None``: it is not at its end, and the next start goes on.
    """
    assert state.failing is not None, "recorded before anything is undone"
    while state.to_undo:
        number = state.to_undo[0]
        step = state.steps.get(-number)
        if step is None:
            undo = state.undos[number]
            pipeline.put(
                StepRequested(pipeline.tick(), state.id, -number, "call", undo.task, Raw(undo.args))
            )
            step = state.steps[-number]
        if not await finish(step.sequence):
            return None
    return _end_of(state, pipeline.tick())


def _end_of(state: RunState, now_ns: int) -> RunFailed | RunCancelled:
    failing = state.failing
    assert failing is not None
    text = failing.error
    for number in sorted(state.undos, reverse=True):
        step = state.steps[-number]
        if step.status != "done":
            text += f"; not undone: {step.name} (run {step.sequence}): {step.error}"
    text = text_for_record(text, ERROR_CHARS_MAX)
    if failing.is_cancelled:
        return RunCancelled(now_ns, state.id, text)
    # A redrive begins anew, for nothing is left of what was done.
    forget = None if state.parent else list(state.steps)
    return RunFailed(now_ns, state.id, state.attempt, text, failing.traceback, forget)
