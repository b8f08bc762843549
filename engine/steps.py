"""`Steps`: what a run has asked for so far, by ordinals, against what the log holds of it.

Every call that leaves a trace has an ordinal, counted from 1.  The first time it is
recorded; when the run is invoked again, after a crash or for a retry, the record at that
ordinal answers instead.  So code between the calls runs again, and the calls do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyio import current_effective_deadline, get_cancelled_exc_class
from msgspec import Raw, ValidationError

from headrace.engine.clock import NS
from headrace.engine.divergence import both_sides
from headrace.engine.errors import (
    BlobUnusable,
    ConcurrentSteps,
    Diverged,
    EventRefused,
    RunEnded,
    StepCancelled,
    StepFailed,
    StepLeft,
    TypeChanged,
)
from headrace.engine.executor import Executor, Rules
from headrace.engine.parking import Parking
from headrace.engine.record import StepKind, StepRequested
from headrace.engine.run_state import RunState, Step, digest_of, with_key
from headrace.engine.task import TaskSpec

if TYPE_CHECKING:
    from random import Random


class Steps:
    """One attempt of one run: what it is, and its place among the recorded calls.

    Call its methods from the task's own coroutine only; from another asyncio task they
    raise `ConcurrentSteps`, because the order of calls must be the same again.
    """

    # What most runs never set is said here, once for all: a step costs as much as its run.
    _ordinal: int = 0
    _random: Random | None = None
    _idempotency_key: str | None = None
    _sleeping: tuple[int, Callable[[], None]] | None = None
    _again: Callable[[], Parking | None] | None = None
    """For a task with limits: says what has to come before its code begins or goes on."""
    _beat_ns: int | None = None
    """For a task with a heartbeat: when it was heard of last, as monotonic time."""
    _progress: tuple[float, float | None] | None = None
    _is_barred: bool = False
    """Whether nothing can be asked for now: it waits for a child, whose code the same asyncio or
    trio task may execute, or has left a wait."""
    _left: str | None = None
    """Which wait its code was to leave by a cancel scope of its own."""
    is_over: bool = False
    """Whether the attempt has ended: nothing can be asked for any more."""

    def __init__(self, executor: Executor, state: RunState, host: Any) -> None:
        """Made by the engine, not by users."""
        self._executor = executor
        self._pipeline = executor.pipeline
        self._state = state
        self._host = host
        self._now_ns = state.attempt_at_ns
        self._shown: dict[int, int] = {}
        """The failed steps that the code knows of, each with the last ordinal by then."""

    def __repr__(self) -> str:
        """Name the run."""
        return f"<Run {self.id} of {self._state.task}, attempt {self.attempt}>"

    # ------------------------------------------------------------ what it is

    @property
    def id(self) -> int:
        """The run's id: the sequence of the record that made it."""
        return self._state.id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._state.attempt

    @property
    def key(self) -> Any:
        """The key of the firing that began it, or ``None``."""
        return self._state.key

    @property
    def task(self) -> str:
        """The name of the task, or of the rule whose action this is."""
        return self._state.task

    @property
    def cause(self) -> int:
        """Sequence of the record that directly led to it: an event, or the parent run."""
        state = self._state
        return state.events[-1] if state.events else state.parent or state.id

    @property
    def rules(self) -> Rules:
        """The rules of its engine: ``await run.rules.add(…)``, as `Engine.add_rule`."""
        assert self._executor.rules is not None, "an engine has rules"
        return self._executor.rules

    @property
    def trace(self) -> int:
        """Sequence of the outside event that began it all."""
        return self._state.trace or self._state.id

    @property
    def idempotency_key(self) -> str:
        """A text that is the same for all attempts and after a crash, and for no other run.

        ``log/run``, and for a step the way down to it: ``/attempt.ordinal`` of each parent.
        Not the step's own id: a step begins before its request is durable, and after a
        crash its sequence may be another's.
        """
        if self._idempotency_key is None:
            runs = self._pipeline.kernel.state.runs.active
            state, way = self._state, ""
            while state.parent:
                parent = runs[state.parent]
                state, way = parent, f"/{parent.attempt}.{state.ordinal}{way}"
            self._idempotency_key = f"{self._pipeline.log.log_id.hex()}/{state.id}{way}"
        return self._idempotency_key

    @property
    def logger(self) -> Any:
        """A structlog logger that names the run in each line."""
        return self._executor.logger_of(self.id)

    def now(self) -> float:
        """Return the log time of the record that last resumed the run, in seconds."""
        return self._now_ns / NS

    def random(self) -> float:
        """Return the next number from 0 up to 1, the same again in each attempt."""
        if self._random is None:
            from random import Random  # loads hashlib, and few runs need it

            self._random = Random(self.idempotency_key)  # noqa: S311 (no secret)
        return self._random.random()

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the attempt has come, for `Engine.runs`: *done* of *total*.

        It is not recorded, and may be called from any thread.  A task that is declared with
        ``heartbeat=`` has to call it that often, but for the times when it waits for steps,
        sleeps or signals.
        """
        self._progress = (done, total)
        if self._beat_ns is not None:
            self._beat_ns = self._pipeline.monotonic_ns()

    # ------------------------------------------------------------ inside

    def _current_task(self) -> Any:
        try:
            return self._pipeline.backend.current_task()
        except RuntimeError:  # in a worker thread, with trio
            return None

    def _is_at_work(self) -> bool:
        """Whether this is the code of the run, and nobody wants it to end."""
        executor = self._executor
        return (
            not self.is_over
            and executor.is_at_work(self)
            and executor.pipeline.failure is None
            and self._current_task() is self._host
        )

    def _check_host(self) -> None:
        if self.is_over:
            raise RunEnded(
                f"{self!r}, call {self._ordinal + 1}: expected a call while its code executes, "
                f"found that it has ended; do not keep a Run for longer, or launch another"
            )
        if self._is_barred or self._current_task() is not self._host:
            self._refuse()

    def _refuse(self) -> None:
        if self._left is not None and self._current_task() is self._host:
            if self._executor.is_at_work(self) and self._host.cancelling():
                return  # see `_leave`: its code only tidies up
            raise StepLeft(self._left)
        raise ConcurrentSteps(
            f"{self!r}: a step was asked for outside of the run's own coroutine, so its "
            f"place could not be found again; use run.spawn, run.map, or pass data instead"
        )

    def _leave(self) -> None:
        """End the attempt: its code was cancelled at a wait, and nobody wants it to end.

        That was a scope of its own, which goes by the machine's clock or by what is no step.  A
        crash could let the code take the other way.
        """
        if not self._is_at_work():
            return
        self._left = (
            f"{self!r}, call {self._ordinal}: expected that its code waits for what it has asked "
            f"for, found that it was to leave that by a time-out or another cancel scope of its "
            f"own, so that it might go another way after a crash; use timeout= of the call or of "
            f"the task, run.race, or handle.cancel()"
        )
        self._is_barred = True
        if current_effective_deadline() == -math.inf:
            self._executor.leave(self)
        else:
            self._pipeline.backend.call_soon(self._leave_if_it_goes_on)

    def _leave_if_it_goes_on(self) -> None:
        """End the attempt, unless its code is still being cancelled.

        For asyncio's own cancellation.  That may be one of all tasks, as after Ctrl-C, and then
        the run stays open.
        """
        if self._executor.is_at_work(self) and not self._host.cancelling():
            self._executor.leave(self)

    async def _committed(self, sequence: int) -> None:
        try:
            await self._pipeline.committed(sequence)
        except get_cancelled_exc_class():
            self._leave()
            raise

    def _next_ordinal(self) -> int:
        self._check_host()
        self._ordinal += 1
        return self._ordinal

    def _recorded(
        self, ordinal: int, kind: str, name: str, raw: Any, key: str | None = None
    ) -> Step | None:
        """Return what the log holds at *ordinal*, if that is what is asked for now."""
        step = self._state.steps.get(ordinal)
        if step is None:
            return None
        if (step.kind, step.name) != (kind, name) or (
            raw is not None and step.digest != digest_of(with_key(raw, key))
        ):
            log, steps = self._pipeline.log, self._state.steps
            try:
                recorded, asked = both_sides(log, steps, step, (kind, name, raw, key))
            except OSError as error:
                raise self._pipeline.unreadable(f"what {self!r} has recorded", error) from error
            raise Diverged(self.id, ordinal, recorded=recorded, asked=asked)
        return step

    def _encoded(self, spec: TaskSpec, args: Any, kwargs: Any, ordinal: int) -> Raw:
        try:
            return spec.encode_args(args, kwargs)
        except (EventRefused, TypeError) as error:
            raise type(error)(f"run {self.id}, call {ordinal}: {error}") from error

    def _request(
        self, kind: StepKind, spec: TaskSpec, args: Any, kwargs: Any, ordinal: int
    ) -> Step:
        raw = self._encoded(spec, args, kwargs, ordinal)
        return self._recorded(ordinal, kind, spec.name, raw) or self._put_request(
            kind, spec, raw, ordinal
        )

    def _put_request(self, kind: StepKind, spec: TaskSpec, raw: Raw, ordinal: int) -> Step:
        at_ns = self._pipeline.tick()
        record = StepRequested(at_ns, self.id, ordinal, kind, spec.name, raw)
        self._pipeline.put(record)
        return self._state.steps[ordinal]

    def _outcome(self, step: Step, spec: TaskSpec) -> Any:
        self._now_ns = max(self._now_ns, step.at_ns)
        if step.status == "done":
            if step.blob is not None:
                return self._decoded(step, spec, self._stored(step.blob))
            assert step.result is not None
            return self._decoded(step, spec, step.result)
        self._shown[step.sequence] = self._ordinal
        kind = StepCancelled if step.status == "cancelled" else StepFailed
        raise kind(step.name, step.sequence, step.error or "unknown")

    def _decoded(self, step: Step, spec: TaskSpec, raw: bytes | Raw) -> Any:
        try:
            return spec.decode_result(raw)
        except ValidationError as error:
            raise TypeChanged(
                f"run {self.id}, call {self._ordinal}: expected the stored result of {step.name!r} "
                f"(run {step.sequence}) as its annotation says now, found {error}; let old runs "
                f"finish with the old code, or redrive this one from its start"
            ) from error

    def _stored(self, blob: bytes) -> bytes:
        try:
            return self._pipeline.log.blobs.get(blob)
        except BlobUnusable as error:
            raise BlobUnusable(f"run {self.id}, call {self._ordinal}: {error}") from error

    def _parking(self) -> Parking:
        go_on = None if self._again is None else self._go_on
        return Parking(self._pipeline.backend.waiter(), self._note_wait, go_on, self._leave)

    def _note_wait(self, change: int) -> None:
        self._executor.park(self, change)

    async def _go_on(self) -> None:
        """Return once its code may begin, or go on after a wait."""
        while self._again is not None and (parking := self._again()) is not None:
            await parking.wait()
