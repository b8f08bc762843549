"""`Deadlines`: what has to be done by when: attempts in their time, runs within their deadline.

Deadlines go by log time, since they hold over restarts; the rest by the monotonic clock.
Nothing here is state: it is made anew from the run table.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from headrace.engine.attempt import Attempt, StopReason
from headrace.engine.clock import NS, Clock
from headrace.engine.commit import Pipeline
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec

SPARE: Final = 64
"""Entries that say nothing any more, beyond twice as many as there are others."""


class Deadlines:
    """All methods belong to the event loop's thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        attempts: dict[int, Attempt],
        *,
        end_attempt: Callable[[Attempt, StopReason, str], None],
        end_run: Callable[[int, str], None],
    ) -> None:
        """Watch *attempts*, by run; call *end_attempt* and *end_run* for what is late."""
        self._pipeline = pipeline
        self._clock = clock
        self._attempts = attempts
        self._end_attempt = end_attempt
        self._end_run = end_run
        self._due_ns: dict[int, int] = {}
        """When open runs are to be at their end, in log time."""
        self._runs: list[tuple[int, int, float]] = []
        self.times: list[tuple[int, int, int, Attempt]] = []
        """When to look at which attempt: for a heartbeat in ns, or if that is 0 a time-out."""
        self._tickets = 0  # keep equal times in the order in which they were asked for

    # ------------------------------------------------------------ attempts

    def set_timeout(self, attempt: Attempt, timeout_s: float) -> None:
        """Stop *attempt* if it is still there after *timeout_s*."""
        self._look_at(self._clock.monotonic_ns() + round(timeout_s * NS), 0, attempt)

    def set_heartbeat(self, attempt: Attempt, heartbeat_ns: int) -> None:
        """Stop *attempt* if it does not report its progress each *heartbeat_ns*."""
        attempt.run._beat_ns = now_ns = self._clock.monotonic_ns()
        self._look_at(now_ns + heartbeat_ns, heartbeat_ns, attempt)

    def _look_at(self, due_ns: int, heartbeat_ns: int, attempt: Attempt) -> None:
        self._tickets += 1
        heapq.heappush(self.times, (due_ns, self._tickets, heartbeat_ns, attempt))
        if len(self.times) > 2 * len(self._attempts) + SPARE:
            # Most are of attempts that have ended; one that lives long hides them from the top.
            self.times = [entry for entry in self.times if self._is_live(entry[3])]
            heapq.heapify(self.times)
        self._pipeline.on_change()

    def _is_live(self, attempt: Attempt) -> bool:
        return self._attempts.get(attempt.state.id) is attempt

    def _next_time_ns(self) -> int | None:
        while self.times:
            due_ns, _, _, attempt = self.times[0]
            if self._is_live(attempt):
                return due_ns
            heapq.heappop(self.times)
        return None

    def _end_late_attempts(self, now_ns: int) -> None:
        while (due_ns := self._next_time_ns()) is not None and due_ns <= now_ns:
            _, _, heartbeat_ns, attempt = heapq.heappop(self.times)
            if not heartbeat_ns:
                self._end_attempt(attempt, "timeout", "timeout")
                continue
            # While its code waits for children or timers it has nothing to say.
            beat_ns = now_ns if attempt.is_parked else attempt.run._beat_ns or 0
            if beat_ns + heartbeat_ns > now_ns:
                self._look_at(beat_ns + heartbeat_ns, heartbeat_ns, attempt)
            else:
                limit_s = heartbeat_ns / NS
                text = f"the attempt did not call run.progress(...) for {limit_s:g} s"
                self._end_attempt(attempt, "heartbeat", text)

    # ------------------------------------------------------------ runs

    def watch(self, state: RunState, spec: TaskSpec) -> None:
        """See to it that *state* ends within the deadline of its task, if that has one."""
        deadline_ns = None if spec.limits is None else spec.limits.deadline_ns
        if deadline_ns is None:
            return
        due_ns = deadline_of(state, deadline_ns)
        if self._due_ns.get(state.id) != due_ns:
            self._due_ns[state.id] = due_ns
            heapq.heappush(self._runs, (due_ns, state.id, deadline_ns / NS))
            runs = self._pipeline.kernel.state.runs.active
            if len(self._runs) > 2 * len(runs) + SPARE:
                self._due_ns = {n: due for n, due in self._due_ns.items() if n in runs}
                self._runs = [entry for entry in self._runs if self._counts(entry)]
                heapq.heapify(self._runs)
            self._pipeline.on_change()

    def _counts(self, entry: tuple[int, int, float]) -> bool:
        return self._due_ns.get(entry[1]) == entry[0]

    def _next_deadline_ns(self) -> int | None:
        runs = self._pipeline.kernel.state.runs.active
        while self._runs:
            due_ns, run_id, _ = self._runs[0]
            if self._counts(self._runs[0]):
                if run_id in runs:
                    return due_ns
                del self._due_ns[run_id]
            heapq.heappop(self._runs)
        return None

    def end_late_runs(self) -> None:
        """End the runs whose deadline has come."""
        while (
            due_ns := self._next_deadline_ns()
        ) is not None and due_ns <= self._pipeline.now_ns():
            _, run_id, limit_s = heapq.heappop(self._runs)
            del self._due_ns[run_id]
            self._end_run(
                run_id, f"the run was not at its end within its deadline of {limit_s:g} s"
            )

    # ------------------------------------------------------------ time

    def next_due_ns(self) -> int | None:
        """Return when to call `expire`, as monotonic time."""
        time_ns = self._next_time_ns()
        deadline_ns = self._next_deadline_ns()
        due_ns = None if deadline_ns is None else self._pipeline.monotonic_at(deadline_ns)
        if time_ns is None or due_ns is None:
            return due_ns if time_ns is None else time_ns
        return min(time_ns, due_ns)

    def expire(self, now_ns: int) -> None:
        """End what is late at monotonic time *now_ns*."""
        self._end_late_attempts(now_ns)
        self.end_late_runs()


def deadline_of(state: RunState, deadline_ns: int) -> int:
    """Return the log time by which *state* is to be at its end."""
    return (state.redriven_at_ns or state.created_at_ns) + deadline_ns
