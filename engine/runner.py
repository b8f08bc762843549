"""`Runner`: carries out what the kernel has decided about runs.

Runs are executed by resident workers (a task for each run would cost more than the run); each
attempt has a cancel scope of its own.  What comes of an attempt
goes into the log, and the kernel says what follows.  Nothing here is state: after a crash
all of it is made anew from the run table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from anyio import CancelScope
from anyio.abc import TaskGroup

from headrace.engine.admission import Admission
from headrace.engine.attempt import Attempt, Outcome, is_interrupt
from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.deadlock import check_wait
from headrace.engine.defaults import PROBE_S
from headrace.engine.diagnostics import logger
from headrace.engine.errors import LogError, ResourceFailed
from headrace.engine.event import Firing
from headrace.engine.executor import Rules
from headrace.engine.fresh import Batch, is_unread
from headrace.engine.processes import Processes
from headrace.engine.run import Run
from headrace.engine.run_state import RunState
from headrace.engine.runs import Progress
from headrace.engine.state import Effect
from headrace.engine.stepping import Stepping
from headrace.engine.stopwatch import Stopwatch, Watched
from headrace.engine.task import TaskSpec
from headrace.engine.versions import spec_for
from headrace.engine.workers import STRAIGHT_MAX, Workers

ACTIVE_MAX: Final = 1000
"""Runs whose code executes at once; those that wait for children or timers do not count."""


def _no_code() -> None:
    raise AssertionError("what is only to be ended is not executed")


class Runner(Stepping):
    """Executes runs.  All methods belong to the event loop's thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        specs: dict[str, TaskSpec],
        clock: Clock,
        load_firing: Callable[[RunState], Firing[Any]],
        *,
        processes_max: int | None = None,
        concurrency: int | None = None,
        crash_attempts_max: int = 0,
        probe_s: float = PROBE_S,
    ) -> None:
        super().__init__(pipeline, clock, load_firing, probe_s=probe_s)
        self._executor = self
        self.rules: Rules | None = None
        """What changes the engine's rules."""
        self.resources: dict[str, Any] = {}
        """What tasks are given by annotation, by name."""
        self.stopwatch = Stopwatch(clock.monotonic_ns)
        self.processes = Processes(pipeline.backend, processes_max)
        self._specs = specs
        self._by_function = {spec.function: spec for spec in specs.values()}
        self._active_max = concurrency
        self._queue = Admission(
            pipeline, clock, let_work=self._let_work, crash_attempts_max=crash_attempts_max
        )
        for name, spec in specs.items():
            if name == spec.name:  # the limits are those of its newest version
                self._queue.declare(spec)
        self._workers = Workers(pipeline.backend, self._work, self._queued, self._wanted)
        self._missing: set[int] = set()
        """Runs whose code is not declared, as was said."""
        self._to_end: deque[int] = deque()
        """Runs whose code is not to be executed, but that wait for others or undo something."""

    def run_in(self, group: TaskGroup) -> None:
        """Let workers live in *group*."""
        self._group = group
        group.start_soon(self._workers.recruit, group, name="headrace recruiter")

    # ------------------------------------------------------------ what there is to do

    @property
    def is_settled(self) -> bool:
        """Whether no code executes but what waits for timers, and none is about to."""
        if self._queued and len(self._queued) > self._queue.held_for_time:
            return False
        return len(self._attempts) <= self._parked

    @property
    def queued(self) -> int:
        """How many runs wait for room: for a worker, or for what limits their task."""
        return len(self._queued)

    @property
    def waits_for_circuit(self) -> bool:
        """Whether runs wait for the timer of a circuit."""
        return self._queue.waits_for_circuit

    @property
    def has_open_runs(self) -> bool:
        """Whether any run is open whose task is declared, itself or through its parent."""
        table, specs = self.pipeline.kernel.state.runs, self._specs
        return any(spec_for(specs, batch) is not None for batch in table.fresh.values()) or any(
            not run.parent and spec_for(specs, run) is not None for run in table.known
        )

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the kernel asked for; the records that ask are committed."""
        for effect in effects:
            if effect.kind == "start":
                self.start(effect.run)
            elif effect.kind == "wake":
                attempt = self._attempts.get(effect.run)
                if attempt is not None:
                    attempt.run.wake(effect.ordinal)
                else:  # it slept when the engine started
                    self.start(effect.run)
            elif effect.kind == "admit":
                self._queue.admit_all()
            else:
                self._cancel(effect.run)
        self._deadlines.end_late_runs()  # by input, time has moved on only now

    def start(self, run_id: int) -> None:
        """See `Executor`."""
        state = self._runs.get(run_id)
        if state is None or run_id in self._attempts or run_id in self._queued:
            return
        spec = spec_for(self._specs, state)
        if spec is not None and spec.limits is not None:
            self._deadlines.watch(state, spec)
        if not state.is_startable or state.is_asleep:
            return  # a timer starts it
        if spec is None:
            self._tell_missing(state)
            return
        self._enqueue(state)

    def _tell_missing(self, state: RunState) -> None:
        """Warn, once, of a run whose code is not declared."""
        if state.id not in self._missing:
            self._missing.add(state.id)
            is_older = bool(state.version) or state.task in self._specs
            version = {"version": state.version or "none"} if is_older else {}
            logger().warning("task_missing", run=state.id, task=state.task, **version)

    def _enqueue(self, state: RunState) -> None:
        self._queued.add(state.id)
        if state.failing is not None or state.id in self._doomed:
            self._to_end.append(state.id)
            self._workers.call()
        else:
            self._queue.push(state)

    def resume(self, task: str | None = None) -> None:
        """Start every run that the log holds open, or those of *task* only.

        Those that sleep are not invoked until they are due.  Steps are started by their
        parents, but for those of a parent that sleeps.
        """
        runs = self._runs
        self._queue.resume()
        for batch, ids in self.pipeline.kernel.state.runs.in_stretches():
            if batch is not None and (
                (task is not None and batch.task != task) or self._resume_fresh(batch, ids)
            ):
                continue
            for state in map(runs.get, ids):
                if state is None or (task is not None and state.task != task):
                    continue  # it has ended with its parent
                if state.cancelling is not None:
                    self._cancel(state.id)
                elif not state.parent or runs[state.parent].is_asleep:
                    self.start(state.id)

    def _resume_fresh(self, batch: Batch, ids: list[int]) -> bool:
        """Start many that nothing was done of yet, unless each has to be looked at: then none."""
        spec = spec_for(self._specs, batch)
        if spec is None or spec.limits is not None or not self._queued.isdisjoint(ids):
            return False
        if not self._queue.push_all((batch.rule, batch.key), ids, batch.crashes):
            return False
        self._queued.update(ids)
        return True

    def _let_work(self) -> None:
        # Whoever ends or waits next lets others work.
        if self._executing < (self._active_max or ACTIVE_MAX):
            self._workers.call()

    def _wanted(self) -> int:
        """Return for how many workers there is something to do."""
        if self.stopping or not self._queued:
            return 0
        ready = len(self._queue)
        if ready:
            ready = min(ready, (self._active_max or ACTIVE_MAX) - self._executing)
        return max(0, ready) + len(self._to_end)

    async def _work(self) -> None:
        """Execute one run after the other, until all workers are to end."""
        host, new_scope = self.pipeline.backend.current_task(), self.pipeline.backend.scope
        crew = self._workers.begin()
        attempt: Attempt | None = None
        try:
            while attempt is not None or not crew.is_ending:
                if crew.requests():
                    await crew.take_back()
                with new_scope() as scope:  # of all those that nobody stops
                    crew.scopes[host] = scope
                    if crew.is_ending:
                        scope.cancel()
                    if attempt is not None:
                        ended, attempt = attempt, None
                        await self._end_attempt(ended)
                        del ended  # with what its code has left
                    straight = 0
                    while attempt is None and not crew.is_ending:
                        if crew.requests():  # by code that has ended without awaiting more
                            await crew.take_back()
                        if straight == STRAIGHT_MAX:
                            await self._workers.pause()
                            straight = 0
                        chosen = self._next()
                        if chosen is None:
                            if self.is_settled:
                                self.on_settled()
                            await self._workers.rest()
                            straight = 0
                            continue
                        straight += 1
                        attempt = self._attempt(*chosen, host, scope)
                        if attempt is not None:
                            await attempt.execute(self._load_firing, self.threads)
                            if self._settle_at_once(attempt):
                                self._forget(attempt, succeeded=True)
                                attempt = None
        except (KeyboardInterrupt, BaseExceptionGroup) as error:
            self.was_interrupted |= is_interrupt(error)  # another worker may have been
            self.stop()  # also whoever waits for this one, whatever shields them
            raise
        finally:
            if attempt is not None:
                self._forget(attempt, succeeded=None)

    def _next(self) -> tuple[RunState, TaskSpec] | None:
        """Return the run whose turn it is, and its code; ``None``: there is none."""
        while True:
            if self._to_end and not self.stopping:
                run_id = self._to_end.popleft()
            else:
                is_full = self._executing >= (self._active_max or ACTIVE_MAX)
                popped = None if is_full or self.stopping else self._queue.pop()
                if popped is None:
                    return None
                run_id = popped
            if run_id not in self._queued:
                continue  # its parent has executed it, or it may not begin after all
            self._queued.discard(run_id)
            try:
                state = self._runs[run_id]
            except (OSError, LogError) as error:
                self.pipeline.unreadable(f"what made run {run_id}", error)
                return None
            if is_unread(state):
                self._end_unread(state)
                continue
            spec = self._spec_for(state)
            if spec is not None:  # else it stays open; `start` has said so
                return state, spec

    def _attempt(
        self, state: RunState, spec: TaskSpec, host: Any, scope: CancelScope
    ) -> Attempt | None:
        """Return an attempt that is to be executed now; ``None``: the run has ended already."""
        code: Watched | None = None
        if spec.never_waits and self._is_free(state):
            has_ended, code = self._execute_at_once(state, spec)
            if has_ended:
                return None
        attempt = self._begin(state, spec, host, scope)
        if code is not None:
            attempt.begun = code
        if self._queue.holds(state):
            self._hold(attempt)
        return attempt

    async def _end_attempt(self, attempt: Attempt) -> None:
        """Record what came of *attempt*, by a worker."""
        outcome: Outcome | None = None
        try:
            outcome = attempt.outcome()
            with suppress(LogError):  # of its record: it stays open, and whoever waits knows
                await self._settle(attempt, outcome)
        finally:
            succeeded = None if outcome is None else outcome.succeeded
            self._forget(attempt, succeeded=succeeded)

    def _spec_for(self, state: RunState) -> TaskSpec | None:
        """Return the code of a run; what is only to be ended needs none that is declared."""
        spec = spec_for(self._specs, state)
        if spec is None and state.id in self._doomed:
            return TaskSpec(state.task, _no_code, run_type=Run)
        return spec

    # ------------------------------------------------------------ what runs ask for

    def declare(self, spec: TaskSpec) -> None:
        """Take the code of a task, in place of what had its name."""
        is_new = spec.name not in self._specs
        self._queue.declare(spec)
        self._specs[spec.name] = spec
        self._by_function[spec.function] = spec
        if is_new:  # runs of before that nobody could go on with
            self.resume(spec.name)

    def park(self, run: object, change: int) -> None:
        """See `Executor`."""
        assert isinstance(run, Run)
        attempt = self._attempts.get(run.id)
        if attempt is not None and attempt.run is run:
            self._park(attempt, change)

    def leave(self, run: object) -> None:
        """See `Executor`."""
        assert isinstance(run, Run)
        self._stop(self._attempts[run.id], "left", "")

    def check_wait(self, run_id: int) -> None:
        """See `Executor`."""
        current = self.pipeline.backend.current_task()
        if current in self._workers.crew.scopes:
            at_work = {i: (a.run._host, a.run._ordinal) for i, a in self._attempts.items()}
            check_wait(self._runs, at_work, current, run_id)

    def is_at_work(self, run: object) -> bool:
        """See `Executor`."""
        assert isinstance(run, Run)
        attempt = self._attempts.get(run.id)
        if attempt is None or attempt.run is not run or self._is_ending:
            return False
        # An end of its caller, in the same asyncio or trio task, is its own.
        while attempt is not None and attempt.run._host is run._host:
            if attempt.stopped is not None:
                return False
            attempt = self._attempts.get(attempt.state.parent)
        return True

    async def take_back(self) -> bool:
        """See `Executor`."""
        return await self._workers.crew.take_back(only_own=True)

    def progress(self) -> dict[int, Progress]:
        """Return how far attempts say that they have come, by run."""
        runs = ((run_id, attempt.run._progress) for run_id, attempt in self._attempts.items())
        return {run_id: progress for run_id, progress in runs if progress is not None}

    def resource(self, name: str) -> Any:
        """See `Executor`.

        Raises:
            ResourceFailed: it was declared after the engine was opened.
        """
        try:
            return self.resources[name]
        except KeyError:
            raise ResourceFailed(
                f"resource {name!r}: expected that it is open, found that it was declared after "
                "the engine was opened; declare it before"
            ) from None

    def logger_of(self, run_id: int) -> Any:
        """See `Executor`."""
        attempt = self._attempts[run_id]
        return logger().bind(run=run_id, task=attempt.spec.name, attempt=attempt.state.attempt)

    # ------------------------------------------------------------ time and threads

    def next_deadline_ns(self) -> int | None:
        """Return when to call `expire`, as monotonic time."""
        late_ns, turn_ns = self._deadlines.next_due_ns(), self._queue.next_due_ns()
        if late_ns is None or turn_ns is None:
            return turn_ns if late_ns is None else late_ns
        return min(late_ns, turn_ns)

    def expire(self, now_ns: int) -> None:
        """Stop what is late at monotonic time *now_ns*; begin what had to wait for its time."""
        with suppress(LogError):  # of a record: whoever waits knows it
            self._deadlines.expire(now_ns)
            self._queue.expire(now_ns)

    async def close(self) -> None:
        """End the processes of tasks; after all attempts have ended."""
        await self.processes.close()
