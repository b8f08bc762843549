"""`Admission`: the way of a run from when it could be executed to when its code executes.

First through the gate of its task, if that has limits; then it is ready, and a worker takes it.
One that may have killed the process before waits for its trial instead, and passes the gate when
it has both; so it keeps no place from others meanwhile.  Most tasks have neither, and go straight
there.  Runs that are only to be ended do not come this way.

What a run has is taken from it in three places: `leave` while its code waits for others, `end`
(and before it `release`) when that has ended, and `discard` if it does not come to that.  Each
lets others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.errors import CircuitOpen
from headrace.engine.gate import Gate
from headrace.engine.limits import Limits
from headrace.engine.ready import Ready
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec
from headrace.engine.trials import Trials

_NO_LIMITS: Final = Limits()


class Admission:
    """All methods belong to the event loop's thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        *,
        let_work: Callable[[], None],
        crash_attempts_max: int = 0,
    ) -> None:
        """Call *let_work* for each run that is ready."""
        self._pipeline = pipeline
        self._clock = clock
        self._let_work = let_work
        self._runs = pipeline.kernel.state.runs.active
        self._ready = Ready()
        self._gates: dict[str, Gate] = {}
        self._levels: dict[str, int] = {}
        """The priority of each task that has one."""
        self._since_ns: dict[int, int] = {}
        """Since when runs wait, where that counts."""
        self._trials = Trials(pipeline, attempts_max=crash_attempts_max)
        self._is_plain = True
        """Whether no task has limits that count here: then only crashes can hold a run back."""
        self._rested_since_ns = self._rested()

    def _rested(self) -> int | None:
        """Return since when nothing has begun, as monotonic time: what a rate goes by."""
        state, now_ns = self._pipeline.kernel.state, self._clock.monotonic_ns()
        if not state.started_at_ns and not state.crashes.is_running:
            return None
        if state.crashes.is_running or state.clock == "input":
            return now_ns  # it died just now, for all that is known
        return now_ns - max(0, self._pipeline.now_ns() - state.at_ns)

    def __len__(self) -> int:
        return len(self._ready)

    # ------------------------------------------------------------ tasks

    def declare(self, spec: TaskSpec) -> None:
        """Let the limits of a task hold, in place of those that it had."""
        limits = spec.limits or _NO_LIMITS
        gate = self._gates.get(spec.name)
        if gate is not None:
            gate.declare(limits)
            self.admit(gate)
        elif limits.holds_back:
            self._gates[spec.name] = Gate(
                spec.name,
                limits,
                self._pipeline,
                self._clock,
                rested_since_ns=self._rested_since_ns,
            )
        if limits.priority:
            self._levels[spec.name] = limits.priority
            self._ready.add_level(limits.priority)
        else:
            self._levels.pop(spec.name, None)
        self._is_plain = not self._gates and not self._ready.has_levels

    def resume(self) -> None:
        """Open the circuits that a crash has kept from being opened."""
        for gate in self._gates.values():
            gate.look_at_failures()

    def has_gate(self, task: str) -> bool:
        """Say whether all runs of *task* have to come this way."""
        return bool(self._gates) and task in self._gates

    def holds(self, state: RunState) -> bool:
        """Say whether *state* has to come this way, and not to be executed by its caller."""
        return self.has_gate(state.task) or (state.crashes > 0 and self._trials.holds(state))

    # ------------------------------------------------------------ those that have not begun

    def push(self, state: RunState) -> None:
        """Let the code of *state* be executed when it is its turn."""
        if self._is_plain and not state.crashes:
            self._ready.push((state.rule, state.key), state.id)
            self._let_work()
            return
        if self._ready.has_levels:
            self._since_ns[state.id] = self._clock.monotonic_ns()
        gate = self._gates.get(state.task) if self._gates else None
        if state.crashes and self._trials.holds(state):
            self._trials.push(state)
            self._let_one_be_tried()
        elif gate is not None:
            gate.push(state)
            self.admit(gate)
        else:
            self._make_ready(state)

    def push_all(self, lane: tuple[str, Any], ids: list[int], crashes: int) -> bool:
        """Push many with so many *crashes* each, unless each has to be looked at: then none."""
        if not self._is_plain or self._trials.suspects(crashes):
            return False
        self._ready.push_all(lane, ids)
        self._let_work()
        return True

    def admit(self, gate: Gate) -> None:
        """Let those go on that *gate* lets through now."""
        gate.due_ns = None
        if self._trials.awaits_any:
            self._let_one_be_tried()
        for run_id in gate.admit():
            self._make_ready(self._runs[run_id])
        if gate.due_ns is not None:
            self._pipeline.on_change()

    def admit_all(self) -> None:
        """Let those go on that may now, of all tasks."""
        for gate in self._gates.values():
            self.admit(gate)
        if self._trials.end_if_cleared():
            self._let_one_be_tried()

    def _let_one_be_tried(self) -> None:
        """Let the next go on that has to be on trial, if nobody is."""
        trials = self._trials
        if not trials.is_free or trials.let_return():
            return
        for task, lanes in trials.waiting():
            gate = self._gates.get(task)
            if gate is not None and not gate.has_room():
                if gate.due_ns is not None:
                    self._pipeline.on_change()
                continue
            for key, run_id in lanes.turns():
                if gate is None or gate.take(run_id, key):
                    trials.begin(task, key)
                    self._make_ready(self._runs[run_id])
                    return

    def _make_ready(self, state: RunState) -> None:
        level = self._levels.get(state.task, 0) if self._levels else 0
        since_ns = self._since_ns.get(state.id, 0) if self._since_ns else 0
        self._ready.push((state.rule, state.key), state.id, level, since_ns)
        self._let_work()

    def pop(self) -> int | None:
        """Take the run whose turn it is; ``None``: there is none; 0: it may not begin after all."""
        run_id = self._ready.pop()
        if run_id is None or self._is_plain:
            return run_id
        gate = self._gates.get(self._runs[run_id].task) if self._gates else None
        if gate is not None and gate.holds_back(run_id):
            self._put_back(self._runs[run_id], gate)
            return 0
        if self._since_ns:
            self._since_ns.pop(run_id, None)
        return run_id

    def _put_back(self, state: RunState, gate: Gate) -> None:
        """Let *state* wait again, whose circuit was opened while it was ready."""
        if self._trials.has(state.id):
            gate.give_back(state.id)
            self._trials.put_back(state)
        else:
            gate.put_back(state)
        self.admit(gate)

    def discard(self, state: RunState) -> None:
        """Let *state* wait no more: its code is not to be executed."""
        self._since_ns.pop(state.id, None)
        self._ready.discard((state.rule, state.key), state.id)
        gate = self._gates.get(state.task)
        if gate is not None:
            gate.discard(state)
        self._let_others_go_on(gate, trial_is_over=self._trials.discard(state))

    def _let_others_go_on(self, gate: Gate | None, *, trial_is_over: bool) -> None:
        if trial_is_over:
            self._let_one_be_tried()
        if gate is not None:
            self.admit(gate)

    # ------------------------------------------------------------ attempts

    def begin(self, state: RunState) -> CircuitOpen | None:
        """Note that an attempt begins; or say why it fails at once."""
        gate = self._gates.get(state.task)
        if gate is None:
            return None
        refused = gate.begin(state.id)
        self.admit(gate)
        return refused

    def leave(self, state: RunState) -> None:
        """Note that the code of a run waits for others."""
        gate = self._gates.get(state.task)
        has_left = gate is not None and gate.leave(state.id)
        self._let_others_go_on(gate if has_left else None, trial_is_over=self._trials.end(state.id))

    def come_back(self, state: RunState, wake: Callable[[], None]) -> bool:
        """Say whether the code of a run may go on, or begin; else *wake* is called later.

        Then it is for the caller to ask again: there may be more that it has to wait for.
        """
        is_suspect = self._trials.holds(state)
        if is_suspect and not self._trials.come_back(state.id, wake):
            return False
        gate = self._gates.get(state.task)
        if gate is not None and not gate.come_back(state.id, state.key, wake):
            return False
        return not is_suspect or self._trials.is_recorded(state.id, wake)

    def release(self, state: RunState) -> None:
        """Note that the code of an attempt has ended; what comes of it is recorded later."""
        gate = self._gates.get(state.task)
        if gate is not None:
            gate.release(state.id)
        self._let_others_go_on(gate, trial_is_over=self._trials.release(state.id))

    def end(self, state: RunState, *, succeeded: bool | None) -> None:
        """Note what came of an attempt; ``None``: it ended neither well nor badly."""
        gate = self._gates.get(state.task)
        if gate is not None:
            gate.end(state.id, succeeded=succeeded)
        self._let_others_go_on(gate, trial_is_over=self._trials.release(state.id))

    # ------------------------------------------------------------ time

    @property
    def held_for_time(self) -> int:
        """How many runs wait for log time, such as for the timer of a circuit."""
        gates = self._gates.values() if self._gates else ()
        return sum(self._count(gate) for gate in gates if not gate.is_closed)

    @property
    def waits_for_circuit(self) -> bool:
        """Whether runs wait for the timer of a circuit."""
        return any(gate.is_open and self._count(gate) for gate in self._gates.values())

    def _count(self, gate: Gate) -> int:
        return gate.count + self._trials.count(gate.task)

    def next_due_ns(self) -> int | None:
        """Return when to look again, as monotonic time."""
        if not self._gates:
            return None
        due = [gate.due_ns for gate in self._gates.values() if gate.due_ns is not None]
        return min(due, default=None)

    def expire(self, now_ns: int) -> None:
        """Let those go on whose turn has come at monotonic time *now_ns*."""
        for gate in self._gates.values():
            if gate.due_ns is not None and gate.due_ns <= now_ns:
                self.admit(gate)
