"""`Trials`: runs that may have killed the process before are executed one after the other.

One that is suspected is on trial from when it may begin to when its code waits for others, has
ended, or has got something done.  Right before its code executes, a durable record says so.  If
the process dies then, it was this run; else it is cleared by what it gets done.  So a run that
kills the process becomes a dead letter, and those that happened to execute beside it do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from headrace.engine.commit import Pipeline
from headrace.engine.crashes import TRIAL_OVER
from headrace.engine.lanes import Lanes
from headrace.engine.record import CrashesCounted
from headrace.engine.run_state import RunState


class Trials:
    """Who is on trial, and who waits for that.  All methods belong to the event loop's thread.

    When nobody is, it is for the caller to let the next go on: `let_return` comes first, then
    those that have not begun and that the gate of their task lets through.
    """

    def __init__(self, pipeline: Pipeline, *, attempts_max: int) -> None:
        """Suspect runs that are one crash away from *attempts_max* (0: none)."""
        self._pipeline = pipeline
        self._count_min = attempts_max - 1
        self._present = 0
        self._sequence = 0
        """Of the record that says who is on trial; 0: it is not put yet."""
        self._waiting: dict[str, Lanes] = {}
        """Those that have not begun, by task and key; the first task has its turn."""
        self._returning: dict[int, list[Callable[[], None]]] = {}
        """Those whose code is to go on, with what tells them that it may."""

    def holds(self, state: RunState) -> bool:
        """Say whether the code of *state* is only to execute on trial."""
        return self.suspects(state.crashes)

    def suspects(self, crashes: int) -> bool:
        """Say whether a run is suspected that has so many."""
        return crashes > 0 and 0 < self._count_min <= crashes

    @property
    def is_free(self) -> bool:
        """Whether another may be on trial now."""
        return not self._present and self._pipeline.failure is None

    # ------------------------------------------------------------ those that have not begun

    @property
    def awaits_any(self) -> bool:
        """Whether anybody waits that has not begun."""
        return bool(self._waiting)

    def push(self, state: RunState) -> None:
        """Let *state* wait for its trial."""
        self._lanes_of(state.task).push(state.key, state.id)

    def _lanes_of(self, task: str) -> Lanes:
        lanes = self._waiting.get(task)
        if lanes is None:
            lanes = self._waiting[task] = Lanes()
        return lanes

    def waiting(self) -> Iterator[tuple[str, Lanes]]:
        """Yield each task with those of it that wait, by key; `begin` ends that."""
        yield from self._waiting.items()

    def count(self, task: str) -> int:
        """Return how many of *task* wait that have not begun."""
        return len(self._waiting.get(task, ()))

    def begin(self, task: str, key: Any) -> None:
        """Let the first of *task* and *key* be on trial; other tasks have their turn next."""
        assert not self._present
        lanes = self._waiting.pop(task)
        self._present = lanes.pop_of(key)
        if lanes:
            self._waiting[task] = lanes

    def put_back(self, state: RunState) -> None:
        """Let *state* wait again that was to begin, but cannot: as the first of its key."""
        self.end(state.id)
        self._lanes_of(state.task).push_first(state.key, state.id)

    # ------------------------------------------------------------ those whose code is to go on

    def come_back(self, run_id: int, wake: Callable[[], None]) -> bool:
        """Say whether a run is on trial by now; else *wake* is called once it is."""
        if self.is_free:
            self._present = run_id
        if self._present == run_id:
            return True
        self._returning.setdefault(run_id, []).append(wake)
        return False

    def let_return(self) -> bool:
        """Let the first be on trial whose code waits to go on; say whether there is one."""
        assert not self._present
        if not self._returning:
            return False
        self._present = next(iter(self._returning))
        for wake in self._returning.pop(self._present):
            wake()
        return True

    def is_recorded(self, run_id: int, wake: Callable[[], None]) -> bool:
        """Say whether a record says that a run is on trial; else *wake* is called once it does.

        It is put here, and not before: who waits for a place kills nobody.
        """
        assert self._present == run_id
        pipeline = self._pipeline
        if not self._sequence:
            self._sequence = pipeline.put(CrashesCounted(pipeline.tick(), run_id))
        if pipeline.committed_sequence >= self._sequence:
            return True
        pipeline.after(self._sequence, wake)
        return False

    # ------------------------------------------------------------ the end of a trial

    def has(self, run_id: int) -> bool:
        """Say whether a run is on trial."""
        return self._present == run_id

    def end(self, run_id: int) -> bool:
        """Let the trial of a run be over, if it is on trial; say whether it was."""
        if self._present != run_id:
            return False
        self._present = self._sequence = 0
        pipeline = self._pipeline
        if pipeline.kernel.state.crashes.trial == run_id and pipeline.failure is None:
            pipeline.put(CrashesCounted(pipeline.tick(), TRIAL_OVER))
        return True

    def end_if_cleared(self) -> bool:
        """Let the trial be over if the run got something done meanwhile; say whether it did."""
        is_cleared = self._sequence > 0 and (
            self._pipeline.kernel.state.crashes.trial != self._present
        )
        return is_cleared and self.end(self._present)

    def release(self, run_id: int) -> bool:
        """Note that no code of a run is to go on; say whether it was on trial."""
        self._returning.pop(run_id, None)
        return self.end(run_id)

    def discard(self, state: RunState) -> bool:
        """Let *state* wait no more, for it is to end; say whether it was on trial."""
        lanes = self._waiting.get(state.task)
        if lanes is not None and lanes.discard(state.key, state.id) and not lanes:
            del self._waiting[state.task]
        return self.release(state.id)
