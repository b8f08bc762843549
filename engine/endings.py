"""`Endings`: how attempts and runs end: with what is left of them, and in which order.

Children end with their parent, what a run has done is undone if it fails, and then its end
is recorded.  What is told of that, is told once it is durable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from anyio import CancelScope
from msgspec import Raw

from headrace.engine.admission import Admission
from headrace.engine.attempt import Attempt, Outcome, StopReason, failure_of_late, failure_record
from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.compensation import failing_record, undo_all
from headrace.engine.errors import LogError
from headrace.engine.large_results import NIL, store_result
from headrace.engine.observer import Observer
from headrace.engine.parking import Parking
from headrace.engine.payload import BLOB_BYTES_MIN
from headrace.engine.record import AttemptFailed, RunCancelled, RunCompleted, RunFailed
from headrace.engine.run_state import RunState
from headrace.engine.signal import Signal


class Endings(ABC):
    """The part of the runner that ends what it has begun."""

    _queue: Admission
    observer: Observer | None = None
    """Who wants to know how runs execute; set before the first does."""
    was_interrupted: bool = False
    """Whether the code of a task has raised what ends the whole engine."""

    def __init__(self, pipeline: Pipeline, clock: Clock, *, probe_s: float) -> None:
        self.pipeline = pipeline
        self._clock = clock
        self._runs = pipeline.kernel.state.runs.active
        self._probe_s = probe_s
        self._storing: set[CancelScope] = set()
        """Of those who store a large result, and may have to wait for room."""
        self.stopping = False
        """From here on what is interrupted stays open in the log, for the next start."""
        self._queued: set[int] = set()
        self._attempts: dict[int, Attempt] = {}
        self._doomed: dict[int, tuple[StopReason, str]] = {}
        """Why runs that are queued are only to be ended."""
        self._waits: set[Parking] = set()
        """Those of runs for others that are to end before them."""
        self._ended: dict[int, list[Callable[[], None]]] = {}
        self._left = Signal()

    @abstractmethod
    def start(self, run_id: int) -> None:
        """See `Executor`."""

    @abstractmethod
    def _enqueue(self, state: RunState) -> None:
        """Let a worker execute the run."""

    @abstractmethod
    def _count(self, attempt: Attempt, *, parked: bool) -> None:
        """Note whether *attempt* only waits."""

    def stop(self) -> None:
        """Interrupt all that executes; it stays open in the log, for the next start."""
        self.stopping = True
        for attempt in self._attempts.values():
            self._stop(attempt, "shutdown", "the engine stops")
        for parking in list(self._waits):
            parking.wake()
        for scope in self._storing:
            scope.cancel()
        self._left.send()

    async def ended(self) -> None:
        """Return once no attempt is left; after `stop`."""
        while self._attempts:
            await self._left.wait()

    def _stop(self, attempt: Attempt, kind: StopReason, reason: str) -> None:
        """Stop *attempt*; it has something to do from now on, though its code has no turn yet."""
        if attempt.state.failing is None:  # else it only undoes what it has done
            attempt.stop(kind, reason)
            if not attempt.run.is_over:
                self._count(attempt, parked=False)

    def _settle_at_once(self, attempt: Attempt) -> int:
        """Record a success before whose record nothing has to come; return its sequence.

        0: something has, or it is no success.
        """
        state, result = attempt.state, attempt.result
        if (
            result is None
            or attempt.stopped is not None
            or attempt.run._again is not None
            or attempt.run._left is not None
            or (state.steps and self._open_children(state))
            or memoryview(result).nbytes > BLOB_BYTES_MIN
            or self.pipeline.failure is not None
        ):
            return 0
        try:
            return self._end(RunCompleted(self.pipeline.tick(), state.id, result))
        except LogError:
            return 0  # it stays open, and whoever waits knows

    async def _settle(self, attempt: Attempt, outcome: Outcome) -> int:
        """End the children that are left, then record the outcome."""
        state = attempt.state
        if outcome.stopped == "shutdown":
            return 0
        if attempt.run._again is not None:
            self._queue.release(state)
        if state.steps and state.failing is None and not await self._end_left(attempt):
            return 0
        if self.pipeline.failure is not None:
            return 0
        blob = None
        if outcome.result is not None and memoryview(outcome.result).nbytes > BLOB_BYTES_MIN:
            blob = await self._store(outcome.result)
            if blob is None:
                return 0
            if self.pipeline.failure is not None:
                self.pipeline.log.blobs.settle(blob)  # no record will name it
                return 0
        now_ns = self.pipeline.tick()
        if outcome.result is not None:
            result = outcome.result if blob is None else NIL
            sequence = self._end(RunCompleted(now_ns, state.id, result, blob))
            if blob is not None:
                self.pipeline.after(sequence, partial(self.pipeline.log.blobs.settle, blob))
            return sequence
        if (
            outcome.failure is None
            or state.cancelling is not None
            or attempt.stopped == "cancel"  # while it waited for its children to end
        ):
            reason = state.cancelling or attempt.reason or "its parent ended"
            if attempt.thread_left:
                reason += " (its thread did not end in time and was disowned)"
            return await self._give_up(attempt, RunCancelled(now_ns, state.id, reason))
        seed = attempt.run.idempotency_key
        record = failure_record(attempt, outcome.failure, now_ns=now_ns, seed=seed)
        return await self._give_up(attempt, record)

    async def _end_left(self, attempt: Attempt) -> bool:
        """End the children that are left; say whether that is done.

        Also those that this attempt has not asked for, because it went another way.
        """
        left = self._open_children(attempt.state)
        if not left:
            return True
        with CancelScope(shield=True):
            for run_id in left:
                self.cancel_child(run_id, "its parent ended")
            for run_id in left:
                await self._wait_for(attempt, run_id)
        return not any(run_id in self._runs for run_id in left)

    def _open_children(self, state: RunState) -> list[int]:
        """Return the children of *state* that have not ended."""
        pending = [step.sequence for step in state.steps.values() if step.status == "pending"]
        return [run_id for run_id in pending if run_id in self._runs]

    async def _store(self, result: Raw) -> bytes | None:
        """Store a large result; ``None``: it is not stored, and the run stays open."""
        with self.pipeline.backend.scope() as scope:
            self._storing.add(scope)
            try:
                return await store_result(self.pipeline, result, self._clock, self._probe_s)
            finally:
                self._storing.discard(scope)
        return None

    async def _give_up(
        self, attempt: Attempt, record: RunCancelled | RunFailed | AttemptFailed
    ) -> int:
        """Record how an attempt ended; before the end of its run, undo what that has done."""
        state = attempt.state
        if state.undos and not isinstance(record, AttemptFailed):
            if state.failing is None:
                self.pipeline.put(failing_record(record, state.attempt))
                if attempt.run._again is not None:
                    succeeded = False if isinstance(record, RunFailed) else None
                    self._queue.end(state, succeeded=succeeded)
            end: RunFailed | RunCancelled | None = None
            with CancelScope(shield=True):
                end = await undo_all(self.pipeline, state, partial(self._finish_undo, attempt))
            if end is None:
                return 0
            record = end
        return self._end(record)

    async def _finish_undo(self, attempt: Attempt, run_id: int) -> bool:
        """Let a child be executed that nothing interrupts; say whether it has ended."""
        self.start(run_id)
        await self._wait_for(attempt, run_id)
        return run_id not in self._runs and self.pipeline.failure is None

    async def _wait_for(self, attempt: Attempt, run_id: int) -> None:
        """Return once a run has ended that has to do so before that of *attempt*.

        If the engine stops, once its code has: the next start goes on with both.
        """
        runs = self._runs
        if run_id in runs and not self.stopping:
            parking = Parking(
                self.pipeline.backend.waiter(),
                lambda change: self._count(attempt, parked=change > 0),
            )
            self._waits.add(parking)
            self.when_ended(run_id, parking.wake)
            await parking.wait()
            self._waits.discard(parking)
        while run_id in runs and run_id in self._attempts:
            await self._left.wait()

    def _end(self, record: Any) -> int:
        """Record the end of an attempt; tell who waits once that is committed."""
        sequence = self.pipeline.put(record)
        if self.observer is not None:
            self.observer.end(record)
        run_id: int = record.run
        if run_id in self._ended and run_id not in self._runs:
            calls = self._ended.pop(run_id)
            for call in calls:
                self.pipeline.after(sequence, call)
        return sequence

    def when_ended(self, run_id: int, call: Callable[[], None]) -> None:
        """See `Executor`."""
        self._ended.setdefault(run_id, []).append(call)

    def cancel_child(self, run_id: int, reason: str) -> None:
        """See `Executor`."""
        state = self._doom(run_id, "cancel", reason)
        if state is not None:
            self._end(RunCancelled(self.pipeline.tick(), run_id, reason))

    def _end_late(self, run_id: int, reason: str) -> None:
        """End a run whose deadline has come: it has failed for good."""
        state = self._doom(run_id, "deadline", reason)
        if state is not None:
            self._end(failure_of_late(state, reason, self.pipeline.tick()))

    def end_killer(self, record: RunFailed) -> None:
        """End a run that has killed the process too often, as *record* says."""
        state = self._doom(record.run, "killed", record.error.partition(": ")[2])
        if state is not None:
            self._end(record)

    def _end_unread(self, state: RunState) -> None:
        """End a run whose firing cannot be read: nobody knows what to execute it with."""
        if self._queue.holds(state):
            self._queue.discard(state)
        failed = RunFailed(self.pipeline.tick(), state.id, 0, state.error or "", "", [])
        with suppress(LogError):  # of its record: it stays open, and whoever waits knows
            self._end(failed)

    def _doom(self, run_id: int, kind: StopReason, reason: str) -> RunState | None:
        """Stop the attempt of a run; if that leaves nothing to be stopped, return the run.

        Without an attempt, the open runs below it are ended before.
        """
        attempt = self._attempts.get(run_id)
        if attempt is not None:
            self._stop(attempt, kind, reason)
            return None
        state = self._runs.get(run_id)
        if state is None or run_id in self._doomed:
            return None
        if state.failing is not None:
            self.start(run_id)  # nothing interrupts what it undoes
            return None
        if run_id in self._queued:
            self._queue.discard(state)
            self._queued.discard(run_id)
        for below in self._below(state):
            self.cancel_child(below, "its parent ended")
        if not state.undos and not self._open_children(state):
            return state
        # Nobody executes its code: an attempt without that waits for its children, and undoes.
        self._doomed[run_id] = (kind, reason)
        self._enqueue(state)
        return None

    def _below(self, state: RunState) -> list[int]:
        """Return the open runs below *state*, those first that are to end first.

        Not what is below code that executes: that ends its children itself.
        """
        below = self._open_children(state)
        for run_id in below:  # it grows
            child = self._runs[run_id]
            ends_itself = run_id in self._attempts or run_id in self._doomed
            if not ends_itself and child.failing is None:
                below += self._open_children(child)
        return below[::-1]

    def _cancel(self, run_id: int) -> None:
        state = self._runs.get(run_id)
        if state is not None:
            self.cancel_child(run_id, state.cancelling or "cancelled")
