"""`Admission`: the way of a run from when it could be executed to when a worker takes it.

First through the gate of its task, if that has limits; then, if it may have killed the process
before, a trial; then it is ready.  Most tasks have neither, and go straight there.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.engine.backend import Event
from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.errors import CircuitOpen
from headrace.engine.gate import Gate
from headrace.engine.limits import Limits
from headrace.engine.ready import Ready
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec
from headrace.engine.trials import Trials


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
        self._ready = Ready()
        self._gates: dict[str, Gate] = {}
        self._levels: dict[str, int] = {}
        """The priority of each task that has one."""
        self._at_once: set[int] = set()
        """Runs that are ready without a place, since they are only to be ended."""
        self._since_ns: dict[int, int] = {}
        """Since when runs wait, where that counts and they are not ready yet."""
        self._trials = Trials(pipeline, self._make_ready, attempts_max=crash_attempts_max)
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
        limits = spec.limits
        gate = self._gates.get(spec.name)
        if gate is not None:
            gate.limits = limits or Limits()
        elif limits is not None and limits.holds_back:
            self._gates[spec.name] = Gate(
                spec.name,
                limits,
                self._pipeline,
                self._clock,
                rested_since_ns=self._rested_since_ns,
            )
        if limits is not None and limits.priority:
            self._levels[spec.name] = limits.priority
            self._ready.add_level(limits.priority)

    def resume(self) -> None:
        """Open the circuits that a crash has kept from being opened."""
        for gate in self._gates.values():
            gate.look_at_failures()

    def holds(self, state: RunState) -> bool:
        """Say whether *state* has to come this way, and not to be executed by its caller."""
        return (bool(self._gates) and state.task in self._gates) or (
            state.crashes > 0 and self._trials.holds(state)
        )

    # ------------------------------------------------------------ in and out

    def push(self, state: RunState, *, at_once: bool = False) -> None:
        """Let *state* be executed when it is its turn; *at_once* if it is only to be ended."""
        if at_once:
            self._at_once.add(state.id)
            self._make_ready(state.id)
            return
        if self._ready.has_levels:
            self._since_ns[state.id] = self._clock.monotonic_ns()
        gate = self._gates.get(state.task) if self._gates else None
        if gate is not None:
            gate.push(state)
            self.admit(gate)
        elif state.crashes and self._trials.holds(state):
            self._trials.push(state)
        else:
            self._make_ready(state.id, state)

    def admit(self, gate: Gate) -> None:
        """Let those go on that *gate* lets through now."""
        runs = self._pipeline.kernel.state.runs.active
        for run_id in gate.admit():
            state = runs.get(run_id)
            if state is not None and state.crashes and self._trials.holds(state):
                self._trials.push(state)
            else:
                self._make_ready(run_id)
        if gate.due_ns is not None:
            self._pipeline.on_change()

    def admit_all(self) -> None:
        """Let those go on that may now, of all tasks."""
        for gate in self._gates.values():
            self.admit(gate)

    def _make_ready(self, run_id: int, state: RunState | None = None) -> None:
        state = state or self._pipeline.kernel.state.runs.active.get(run_id)
        since_ns = self._since_ns.pop(run_id, 0) if self._since_ns else 0
        if state is None:  # it has ended, and whoever takes it sees that
            self._ready.push(None, run_id)
        else:
            level = self._levels.get(state.task, 0) if self._levels else 0
            self._ready.push((state.rule, state.key), run_id, level, since_ns)
        self._let_work()

    def pop(self) -> int:
        """Take the run whose turn it is; 0: it may not begin after all.

        Raises:
            IndexError: none is ready.
        """
        run_id = self._ready.pop()
        if self._at_once and run_id in self._at_once:
            self._at_once.discard(run_id)
            return run_id
        if not self._gates:
            return run_id
        state = self._pipeline.kernel.state.runs.active.get(run_id)
        if state is None:  # it ended with its parent
            for held_by in self._gates.values():
                if held_by.leave(run_id):
                    self.admit(held_by)
            return run_id
        gate = self._gates.get(state.task)
        if gate is not None and gate.take_back(state):
            return 0
        return run_id

    def discard(self, state: RunState) -> None:
        """Let *state* wait no more."""
        self._at_once.discard(state.id)
        self._since_ns.pop(state.id, None)
        level = self._levels.get(state.task, 0)
        self._ready.discard((state.rule, state.key), state.id, level)
        if state.crashes:
            self._trials.discard(state.id)
        gate = self._gates.get(state.task)
        if gate is not None:
            gate.discard(state)
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
        if gate is not None and gate.leave(state.id):
            self.admit(gate)
        if state.crashes:
            self._trials.end(state.id)

    def come_back(self, state: RunState) -> Event | None:
        """Note that the wait is over; return what has to come before its code goes on."""
        gate = self._gates.get(state.task)
        if gate is None:
            return None
        event = gate.come_back(state.id, state.key)
        if event is not None:
            self._let_work()  # it does not count as executing
        return event

    def end(self, state: RunState, *, succeeded: bool | None) -> None:
        """Note that the attempt of *state* has ended; ``None``: neither well nor badly."""
        self._trials.end(state.id)
        gate = self._gates.get(state.task) if self._gates else None
        if gate is not None:
            gate.end(state.id, succeeded=succeeded)
            self.admit(gate)

    @property
    def returning(self) -> int:
        """How many attempts wait for a place before their code goes on."""
        return sum(len(gate.returning) for gate in self._gates.values()) if self._gates else 0

    # ------------------------------------------------------------ time

    @property
    def held_for_time(self) -> int:
        """How many runs wait for log time, such as for the timer of a circuit."""
        return sum(gate.held_for_time for gate in self._gates.values()) if self._gates else 0

    @property
    def waits_for_circuit(self) -> bool:
        """Whether runs wait for the timer of a circuit."""
        return any(gate.waits_for_circuit for gate in self._gates.values())

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
