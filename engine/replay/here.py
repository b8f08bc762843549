"""One input of a log, and what both sides make of it: what is recorded, and what is derived."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.replay.pending import Pending

MAKES_RUN: Final = frozenset({"run", "waiting"})
"""Outcomes of a firing that a run follows from."""
OF_RUNS: Final = (r.RunReleased, r.RunReplaced, r.RunCancelling)
OF_RULES: Final = (r.RuleMismatch, r.RuleError, r.RuleEvicted, r.RuleLoop, r.RuleLate)
RunDecision = r.RunReleased | r.RunReplaced | r.RunCancelling


class Here(Struct, gc=False):
    """One input, and what is left of both sides of it."""

    sequence: int
    cause: r.Input
    left: list[tuple[int, r.RuleFired]] = []
    """Recorded firings without a counterpart."""
    of_runs: list[RunDecision] = []
    """Recorded decisions about runs, likewise."""
    unmatched: list[Pending] = []
    """Derived firings without a counterpart."""

    @property
    def missed(self) -> int:
        """See `TimerFired`."""
        return self.cause.missed if type(self.cause) is r.TimerFired else 0


def makes_launch(record: r.Input) -> bool:
    """Say whether with *record* a run asked for one that is independent of it."""
    if isinstance(record, r.RunLaunched):
        return bool(record.run)
    return isinstance(record, r.StepRequested) and record.kind == "launch"


def near_to(
    derived: r.RuleFired, left: list[tuple[int, r.RuleFired]]
) -> tuple[int, r.RuleFired] | None:
    """Return the recorded firing at the same place of the same rule and key, if there is one."""
    for one in left:
        recorded = one[1]
        if (recorded.rule, recorded.key, recorded.task) == (
            derived.rule,
            derived.key,
            derived.task,
        ) and _reason(recorded) == _reason(derived):
            return one
    return None


def _reason(fired: r.RuleFired) -> Any:
    return None if fired.details is None else fired.details.reason


def take_known(decision: RunDecision, of_runs: list[RunDecision]) -> bool:
    """Say whether *decision* is among the recorded ones, and take it out of those."""
    for place, other in enumerate(of_runs):
        if type(other) is type(decision) and other.run == decision.run:
            del of_runs[place]
            return True
    return False
