"""`Attempts`: how attempts begin, wait for others and are let go of.

Which of them execute code, and which only wait, is counted here: so many may execute at once,
and log time that comes from the input stands still while any does.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from headrace.engine.attempt import Attempt
from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.deadlines import Deadlines
from headrace.engine.endings import Endings
from headrace.engine.event import Firing
from headrace.engine.executor import Executor
from headrace.engine.parking import Parking
from headrace.engine.run import Run
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec
from headrace.engine.threads import Threads


class Attempts(Endings):
    """The part of the runner that has attempts executed."""

    _executor: Executor
    """What runs ask: the runner itself."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        load_firing: Callable[[RunState], Firing[Any]],
        *,
        probe_s: float,
    ) -> None:
        super().__init__(pipeline, clock, probe_s=probe_s)
        self.on_settled: Callable[[], None] = lambda: None
        """Called when nothing executes and nothing waits to be executed."""
        self.threads = Threads(pipeline.backend)
        """Where sync tasks execute; whoever has the runner may give it others, and closes them."""
        self._load_firing = load_firing
        self._group: TaskGroup | None = None
        self._parked = 0  # attempts that only wait for children or timers
        self._deadlines = Deadlines(
            pipeline, clock, self._attempts, end_attempt=self._stop, end_run=self._end_late
        )

    @property
    @abstractmethod
    def is_settled(self) -> bool:
        """Whether no code executes but what waits for timers, and none is about to."""

    @abstractmethod
    def _let_work(self) -> None:
        """Let workers look for what there is to do."""

    @property
    def _executing(self) -> int:
        return len(self._attempts) - self._parked

    # ------------------------------------------------------------ begin and end

    def _begin(
        self, state: RunState, spec: TaskSpec, host: Any, scope: CancelScope, depth: int = 0
    ) -> Attempt:
        """Return an attempt that is to be executed by *host* at once, in *scope*."""
        attempt = Attempt(Run(self._executor, state, host), state, spec, scope, depth)
        self._attempts[state.id] = attempt
        doom = self._doomed.pop(state.id, None) if self._doomed else None
        if state.cancelling is not None:
            attempt.stop("cancel", state.cancelling)
        elif doom is not None:
            attempt.stop(*doom)
        elif self.stopping:
            attempt.stop("shutdown", "the engine stops")
        if spec.timeout_s is not None or spec.limits is not None:
            attempt.on_begin = self._let_time_count
        if self.observer is not None and attempt.stopped is None:
            self.observer.begin(state, self.pipeline)
        return attempt

    def _is_left(self) -> bool:
        """Whether what is cancelled here is so by its caller: by that one's end, or its code."""
        by_scope = anyio.current_effective_deadline() == -math.inf
        return by_scope and not self._is_ending and self.pipeline.failure is None

    @property
    def _is_ending(self) -> bool:
        """Whether everything comes to an end, in good order or not."""
        return self.stopping or (self._group is not None and self._group.cancel_scope.cancel_called)

    def _hold(self, attempt: Attempt) -> None:
        """Let *attempt* keep to the limits of its task, and be on trial if it has to."""
        if attempt.stopped is not None or attempt.state.failing is not None:
            self._queue.discard(attempt.state)  # its code is not executed
        else:
            attempt.run._again = partial(self._come_back, attempt)
            attempt.enter = partial(self._enter, attempt)

    async def _enter(self, attempt: Attempt) -> None:
        """Return when the code of *attempt* may begin; raise what it fails of instead."""
        await attempt.run._go_on()
        refused = self._queue.begin(attempt.state)
        if refused is not None:
            raise refused

    def _come_back(self, attempt: Attempt) -> Parking | None:
        """Say what has to come before the code of *attempt* goes on, or begins."""
        parking = Parking(self.pipeline.backend.waiter(), partial(self._note_wait, attempt))
        return None if self._queue.come_back(attempt.state, parking.wake) else parking

    def _let_time_count(self, attempt: Attempt) -> None:
        """Note that the code of *attempt* begins; before, it may have waited for a thread."""
        spec = attempt.spec
        if spec.timeout_s is not None:
            self._deadlines.set_timeout(attempt, spec.timeout_s)
        if spec.limits is not None and spec.limits.heartbeat_ns is not None:
            self._deadlines.set_heartbeat(attempt, spec.limits.heartbeat_ns)

    def _forget(self, attempt: Attempt, *, succeeded: bool | None) -> None:
        # The frames of what was raised hold the attempt, and handles of children the run: what
        # holds these in turn would be freed by the collector only, long after.
        attempt.failure = attempt.thrown = attempt.run._handles = None
        if self.observer is not None:
            self.observer.leave(attempt.state.id)
        if self._attempts.get(attempt.state.id) is attempt:
            del self._attempts[attempt.state.id]
            # Else nobody is to go on, and whoever was on trial is the one.
            if attempt.run._again is not None and not self.was_interrupted:
                self._queue.end(attempt.state, succeeded=succeeded)
            if attempt.is_parked:
                self._count(attempt, parked=False)
            self._left.send()

    # ------------------------------------------------------------ waits

    def _lend(self, caller: Attempt) -> bool:
        """Let a child have the place of *caller*, whose code waits for it; say whether that is so.

        As `_park`, where that would come to no more: what executes is as much as before.
        """
        if caller.waits or caller.stopped is not None or caller.run._again is not None:
            return False
        caller.waits = 1
        caller.is_parked = True
        self._parked += 1
        return True

    def _give_back(self, caller: Attempt) -> None:
        """Let *caller* have its place again: the child has ended."""
        if caller.waits == 1 and caller.is_parked and caller.run._beat_ns is None:
            caller.waits = 0
            caller.is_parked = False
            self._parked -= 1
        else:
            self._park(caller, -1)

    def _park(self, attempt: Attempt, change: int) -> None:
        if change > 0 and attempt.run._again is not None:
            self._queue.leave(attempt.state)
        self._note_wait(attempt, change)

    def _note_wait(self, attempt: Attempt, change: int) -> None:
        attempt.waits += change
        parked = attempt.waits > 0 and attempt.stopped is None
        if parked != attempt.is_parked:
            self._count(attempt, parked=parked)

    def _count(self, attempt: Attempt, *, parked: bool) -> None:
        if parked == attempt.is_parked:
            return
        attempt.is_parked = parked
        if parked:
            self._parked += 1
            if self._queue:
                self._let_work()
            if self.is_settled:
                self.on_settled()
            return
        self._parked -= 1
        if attempt.run._beat_ns is not None:
            attempt.run._beat_ns = self._clock.monotonic_ns()
