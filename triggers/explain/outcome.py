"""What was recorded of a rule in one step: whether it fired, and what held its run back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.state import EngineState
from headrace.triggers.explain.clauses import shown
from headrace.triggers.explain.said import time_text


class Outcome(Struct):
    """What came of a step, as far as the kernel decided it."""

    verdict: str = ""
    because: str = ""
    """Empty: the rule did not meet its pattern."""
    firings: list[dict[str, Any]] = []


def outcome_of(
    state: EngineState,
    rule: str,
    decisions: Sequence[tuple[int, r.Decision]],
    keys: tuple[Any, ...],
) -> Outcome:
    """Return what *decisions*, of one unit that *state* has seen, say of *rule*."""
    outcome = Outcome(firings=[])
    for sequence, decision in decisions:
        if isinstance(decision, r.RuleLoop) and decision.rule == rule:
            outcome.verdict = "suppressed"
            outcome.because = f"its causes are {decision.hops} deep: that is taken for a loop"
        if not isinstance(decision, r.RuleFired) or decision.rule != rule:
            continue
        key = r.thaw(decision.key)
        if keys and key not in keys:
            continue
        outcome.firings.append(
            {
                "sequence": sequence,
                "key": decision.key,
                "events": decision.events,
                "outcome": decision.outcome,
                "reason": None if decision.details is None else decision.details.reason,
            }
        )
        outcome.verdict, outcome.because = _told(state, sequence, decision, key)
    return outcome


def _told(state: EngineState, sequence: int, fired: r.RuleFired, key: Any) -> tuple[str, str]:
    events = ", ".join(f"#{event}" for event in fired.events[:8])
    met = f"the pattern was met by {events}" if events else "the pattern was met by time"
    of_key = "" if key is None else f" of key {shown(key)}"
    task = fired.task or fired.rule
    others = [one for one in state.runs.of_rule(task, key) if one != sequence]
    if fired.outcome == "run":
        return "fired", f"{met}; run {sequence} of {task}{of_key} was made{_held_back(state, task)}"
    if fired.outcome == "waiting":
        ahead = f" while run {others[0]} is active" if others else ""
        return "fired", f"{met}; run {sequence} waits for its turn{ahead} (run mode)"
    if fired.outcome == "dropped":
        ahead = ", ".join(map(str, others[:3]))
        runs = f": run {ahead} of the same key is open" if ahead else ""
        return "suppressed", f"{met}, and the firing was dropped by the run mode{runs}"
    if fired.outcome == "paused":
        return "suppressed", f"{met}, and the rule is paused: no run is made"
    if fired.outcome == "missed":
        due = "" if fired.due_ns is None else f" at {time_text(fired.due_ns)}"
        return "suppressed", f"{met}{due} while no engine ran, and that is too long ago (on_missed)"
    return "suppressed", f"{met}, by history that is folded in: no run is made"


def _held_back(state: EngineState, task: str) -> str:
    """Say whether the circuit of *task* keeps its attempts from beginning."""
    circuit = state.breakers.moved.get(task)
    if circuit is None:
        return ""
    until = time_text(circuit.until_ns)
    return (
        f", and does not begin: the circuit of {task} is {circuit.state.replace('_', ' ')} "
        f"until {until}, after {circuit.failures} failures"
    )
