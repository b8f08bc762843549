"""`Trials`: runs that may have killed the process before are executed one after the other.

Before the code of one begins, a durable record says so.  If the process dies then, it was
this run; else it is cleared by what it gets done.  So a run that kills the process becomes a
dead letter, and those that happened to execute beside it do not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headrace.engine.commit import Pipeline
from headrace.engine.crashes import TRIAL_OVER
from headrace.engine.record import CrashesCounted
from headrace.engine.run_state import RunState


class Trials:
    """All methods belong to the event loop's thread."""

    def __init__(
        self, pipeline: Pipeline, release: Callable[[int], None], *, attempts_max: int
    ) -> None:
        """Hold runs that are one crash away from *attempts_max* (0: none); then *release* them."""
        self._pipeline = pipeline
        self._release = release
        self._count_min = attempts_max - 1
        self._waiting: dict[int, None] = {}
        self._present = 0

    def holds(self, state: RunState) -> bool:
        """Say whether *state* has to wait for its trial."""
        return state.crashes > 0 and 0 < self._count_min <= state.crashes

    def push(self, state: RunState) -> None:
        """Let *state* wait for its trial."""
        self._waiting[state.id] = None
        self._next()

    def discard(self, run_id: int) -> None:
        """Let a run wait no more, for it is to end."""
        self._waiting.pop(run_id, None)
        self.end(run_id)

    def end(self, run_id: int) -> None:
        """Note that the code of a run waits for others or has ended: the next may begin."""
        if self._present == run_id:
            self._present = 0
            self._next()
            pipeline = self._pipeline
            if pipeline.kernel.state.crashes.trial == run_id and pipeline.failure is None:
                pipeline.put(CrashesCounted(pipeline.tick(), TRIAL_OVER))

    def _next(self) -> None:
        pipeline = self._pipeline
        while self._waiting and not self._present and pipeline.failure is None:
            run_id = next(iter(self._waiting))
            del self._waiting[run_id]
            if run_id in pipeline.kernel.state.runs.active:
                self._present = run_id
                sequence = pipeline.put(CrashesCounted(pipeline.tick(), run_id))
                pipeline.after(sequence, partial(self._begin, run_id))
            else:
                self._release(run_id)

    def _begin(self, run_id: int) -> None:
        if self._present == run_id:
            self._release(run_id)
            if run_id not in self._pipeline.kernel.state.runs.active:
                self.end(run_id)
