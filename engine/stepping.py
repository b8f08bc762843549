"""`Stepping`: how code is executed that may be over before anybody knows of its run.

That are the steps of a run, by the worker that executes their parent, and code that never waits.

Most steps do nothing that they would have to wait for, or are done by the time that one looks.
Such a step begins before its request is recorded, and leaves the request and its end in the log
together, as if each had been put there by itself.  As soon as it waits, or fails, its request is
recorded, and it goes on as any run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from typing import Any, Final

from anyio import CancelScope
from msgspec import Raw, ValidationError

from headrace.engine.attempt import Attempt, Outcome, begun, tell_of_step, untold
from headrace.engine.attempts import Attempts
from headrace.engine.diagnostics import logger
from headrace.engine.errors import EventRefused, LogError
from headrace.engine.payload import BLOB_BYTES_MIN
from headrace.engine.record import RunCompleted, StepRequested
from headrace.engine.run import Run
from headrace.engine.run_state import RunState
from headrace.engine.stopwatch import Stopwatch, Watched
from headrace.engine.task import TaskSpec
from headrace.engine.versions import spec_for

DEPTH_MAX: Final = 16
"""Calls below this are executed by a worker of their own: each needs some of the stack."""


def _tell(run_id: int, task: str, attempt: int, late_ns: int) -> None:
    """Tell of code that took too long, and was over before it was an attempt."""
    tell_of_step(logger().bind(run=run_id, task=task, attempt=attempt), late_ns)


class Stepping(Attempts):
    """The part of the runner that executes children for their parents."""

    _specs: dict[str, TaskSpec]
    _by_function: dict[Callable[..., Any], TaskSpec]
    stopwatch: Stopwatch

    def spec_of(self, task: Callable[..., Any]) -> TaskSpec:
        """See `Executor`."""
        spec = self._by_function.get(task)
        if spec is None:
            name = getattr(task, "__qualname__", repr(task))
            raise TypeError(f"{name} is no task of this app; declare it with @app.task")
        return spec

    # ------------------------------------------------------------ at once

    def may_begin(self, parent: object, spec: TaskSpec) -> bool:
        """See `Executor`."""
        assert isinstance(parent, Run)
        state = parent._state
        caller = self._attempts.get(state.id)
        return (
            spec.is_light
            and self.observer is None  # who sees attempts only
            and caller is not None
            and caller.run is parent
            and caller.stopped is None
            and caller.depth < DEPTH_MAX
            and parent._again is None
            and not state.crashes  # of those that may have killed the process all is recorded
            and state.failing is None
            and not self.stopping
            and self._specs.get(spec.name) is spec
            and (spec.version or "") == self.pipeline.kernel.state.runs.versions.get(spec.name, "")
            and not self._queue.has_gate(spec.name)
        )

    async def begin_step(self, parent: object, spec: TaskSpec, raw: Raw, ordinal: int) -> None:
        """See `Executor`."""
        assert isinstance(parent, Run)
        pipeline, caller = self.pipeline, self._attempts[parent._state.id]
        if pipeline.failure is not None:
            raise pipeline.failure
        try:
            args, kwargs = spec.decode_args(raw)
        except ValidationError:  # its attempt is to fail of that
            step = parent._put_request("call", spec, raw, ordinal)
            await self.finish(parent, step.sequence)
            return
        code = Watched(self.stopwatch, spec.bind(args, kwargs)(), untold)
        # Its own, and around all of its code, though it is not known yet whether anybody may
        # have reason to cancel it: nobody has with code that never lets others go on.
        scope: CancelScope | None = None
        if not spec.never_waits:
            scope = pipeline.backend.scope()
            scope.__enter__()
        code.begin()
        result = _result_at_once(spec, code)
        if result is not None:
            if scope is not None:
                scope.__exit__(None, None, None)
            asked = StepRequested(
                pipeline.tick(), parent._state.id, ordinal, "call", spec.name, raw
            )
            sequence = pipeline.put_step(asked, result)
            if code.late_ns:
                self.stopwatch.tell(partial(_tell, sequence - 1, spec.name, 1), code.late_ns)
            await pipeline.committed(sequence)
            return
        with ExitStack() as stack:
            stack.callback(code.close)  # if it is not to be awaited after all
            if scope is None:  # for what is left of it: to fail
                scope = pipeline.backend.scope()
                scope.__enter__()
            stack.push(scope)
            step = parent._put_request("call", spec, raw, ordinal)
            state = self._runs[step.sequence]
            attempt = self._begin(state, spec, parent._host, scope, caller.depth + 1)
            attempt.begun = code
            await self._finish_here(parent, attempt, caller, stack.pop_all())

    def _is_free(self, state: RunState) -> bool:
        """Whether nothing is to come before the code of *state*, and nobody wants to see it."""
        return (
            self.observer is None
            and not state.crashes
            and state.failing is None
            and state.cancelling is None
            and not (self._doomed and state.id in self._doomed)
            and not self._queue.has_gate(state.task)
            and self.pipeline.failure is None
        )

    def _execute_at_once(self, state: RunState, spec: TaskSpec) -> tuple[bool, Watched | None]:
        """Execute code that never waits; say whether that was all, and its run has ended.

        If not, its attempt is to go on with the code that is returned, or is to begin it.
        """
        code = begun(spec, state, self._load_firing, self.stopwatch)
        if code is None:
            return False, None
        result = _result_at_once(spec, code)
        if result is None:
            return False, code
        if code.late_ns:
            tell = partial(_tell, state.id, spec.name, state.attempt)
            self.stopwatch.tell(tell, code.late_ns)
        with suppress(LogError):  # it stays open, and whoever waits knows
            self._end(RunCompleted(self.pipeline.tick(), state.id, result))
        return True, None

    # ------------------------------------------------------------ one that is recorded

    async def finish(self, parent: object, run_id: int) -> None:
        """See `Executor`."""
        state = self._runs.get(run_id)
        assert state is not None, run_id
        assert isinstance(parent, Run)
        caller = self._attempts.get(parent._state.id)
        depth = 1 if caller is None else caller.depth + 1
        spec = spec_for(self._specs, state)
        if spec is not None and spec.limits is not None:
            self._deadlines.watch(state, spec)
        if state.is_startable and (spec is None or depth > DEPTH_MAX or self._queue.holds(state)):
            self.start(run_id)
        elif (
            spec is not None
            and state.is_startable
            and run_id not in self._attempts
            and not state.is_asleep
        ):
            if run_id in self._queued:
                self._queue.discard(state)
                self._queued.discard(run_id)
            scope = self.pipeline.backend.scope()
            attempt = self._begin(state, spec, self.pipeline.backend.current_task(), scope, depth)
            await self._finish_here(parent, attempt, caller, scope)
            return
        await self._wait_for_end(parent, run_id, 0)

    async def _finish_here(
        self,
        parent: Run,
        attempt: Attempt,
        caller: Attempt | None,
        within: AbstractContextManager[Any],
    ) -> None:
        """Carry out *attempt*, which is there, and wait for the end of its run."""
        try:
            sequence = await self._execute_child(attempt, caller, within)
        finally:
            if caller is not None:
                self._give_back(caller)
        if parent._again is not None:
            await parent._go_on()
        await self._wait_for_end(parent, attempt.state.id, sequence)

    async def _wait_for_end(self, parent: Run, run_id: int, sequence: int) -> None:
        """Return when the run has ended, and that is committed: if it has, at *sequence*."""
        if run_id in self._runs:
            parking = parent._parking()
            self.when_ended(run_id, parking.wake)
            await parking.wait()
        else:
            await self.pipeline.committed(sequence)

    async def _execute_child(
        self, attempt: Attempt, caller: Attempt | None, within: AbstractContextManager[Any]
    ) -> int:
        """Carry out an attempt in the code of its parent; return the sequence of its record.

        *caller* waits for it from when it is there: so the engine never seems to be settled.
        *within* is its scope, or leaves that, if it was entered before.
        """
        if caller is not None and not self._lend(caller):
            self._park(caller, +1)
        succeeded: bool | None = None
        try:
            with within:
                await attempt.execute(self._load_firing, self.threads)
            if sequence := self._settle_at_once(attempt):
                succeeded = True
                return sequence
            outcome = attempt.outcome()
            succeeded = outcome.succeeded
            return await self._settle(attempt, outcome)
        except BaseException:
            # At an end of everything (Ctrl-C in a task) it stays open, for the next start.
            if caller is not None and self._is_left():
                with CancelScope(shield=True):
                    await self._settle(attempt, Outcome(stopped="cancel"))
            raise
        finally:
            self._forget(attempt, succeeded=succeeded)


def _result_at_once(spec: TaskSpec, code: Watched) -> Raw | None:
    """Return the result of a step whose code is over, if a record can hold it."""
    if not code.is_over:
        return None
    try:
        result = spec.encode_result(code.value)
    except EventRefused as refused:
        code.fail(refused)
        return None
    return result if memoryview(result).nbytes <= BLOB_BYTES_MIN else None
