"""`World`: the engine's state as it would be under other rules, with nobody to execute runs.

It is the kernel's own state, which is changed by the same functions; three things differ.
Rules' timers fire by themselves here, while those of runs fire by their records only, as all
that runs do.  A run of which nothing is recorded takes no time: it ends where it would begin.
And it is not in the log, so its number is none of the log's.
"""

from __future__ import annotations

from typing import Any, Final

from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace.engine.run_state import RunState
from headrace.engine.runs import RunTable
from headrace.engine.timers import Timers

UNRECORDED_MIN: Final = 2**62
"""Ids from here on are of runs that no log has."""


class Supposition(RunTable):
    """A run table in which an id says nothing of a run's age."""

    @classmethod
    def of(cls, table: RunTable) -> Supposition:
        """Take over what *table* has."""
        made = cls()
        made.__dict__.update(table.__dict__)
        return made

    def _add(self, run: RunState) -> None:
        # By arrival: a run that is not recorded has the highest id, and may still be the oldest.
        self.active[run.id] = run
        if run.rule:
            self._by_rule.setdefault((run.task, run.key), []).append(run.id)


class World:
    """See above."""

    def __init__(self, kernel: Kernel) -> None:
        """Take *kernel*, which nobody else uses from now on."""
        state = self.state = kernel.state
        self.decider = state.decider
        self.rule_timers = state.timers
        state.timers = _runs_timers(state.timers)
        self.runs = state.runs = Supposition.of(state.runs)
        self.without_story: set[int] = set()
        """The open runs of which nothing more is recorded: they end where they would begin."""
        self._next_id = UNRECORDED_MIN
        if kernel.sequence:
            # What was in force at the snapshot is replaced by what is declared today.
            start = r.EngineStarted(state.at_ns, "", state.clock, dict(state.declared))
            state.put_in_force(kernel.sequence, start)

    def timer_until(self, at_ns: int) -> tuple[int, tuple[str, int, Any]] | None:
        """Return the rules' next timer if it is due by *at_ns*; it stays armed."""
        timers = self.rule_timers
        if at_ns < timers.bound_ns:
            return None
        first = timers.first()
        return None if first is None or first[0] > at_ns else first

    def missed(self, timer: tuple[str, int, Any], due_ns: int) -> int:
        """Return how many more due times of *timer* lie in a downtime that has just ended."""
        started_ns = self.state.started_at_ns
        if due_ns >= started_ns:
            return 0
        owner, slot, key = timer
        return self.decider.missed(owner, slot, key, due_ns=due_ns, until_ns=started_ns)

    def wait_unrecorded(self, fired: r.RuleFired, missed: int) -> int:
        """Let a run wait for its turn of which nothing is recorded; return its id."""
        self._next_id += 1
        self.wait_without_story(self._next_id, fired, missed)
        return self._next_id

    def wait_without_story(self, run_id: int, fired: r.RuleFired, missed: int) -> None:
        """Let the run *run_id* wait for its turn; of what it does then nothing is recorded."""
        self.runs.make_from_firing(run_id, fired, at_ns=self.state.at_ns, missed=missed)
        self.without_story.add(run_id)

    def root_of(self, run: RunState) -> RunState:
        """Return the run that *run* is a step of, or itself."""
        while run.parent and (parent := self.runs.active.get(run.parent)) is not None:
            run = parent
        return run

    def end_unknown(self, run: RunState) -> int | None:
        """End *run* with all its steps, so that nothing follows; return whose turn it is then."""
        self.without_story.discard(run.id)
        self.state._disarm(run)  # as its own end would do
        self.runs.end(run, "cancelled", at_ns=self.state.at_ns)
        if run.rule:
            left = self.runs.of_rule(run.task, run.key)
            if left and self.runs.active[left[0]].status == "waiting":
                return left[0]
        return None


def _runs_timers(timers: Timers) -> Timers:
    """Move the timers of runs out of *timers*, which stay the rules'; return them."""
    made = Timers()
    for owner, slot, key, due_ns, _ in timers.dump()[1]:
        if not owner:
            made.arm((owner, slot, key), due_ns)
            timers.disarm((owner, slot, key))
    return made
