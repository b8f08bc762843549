"""What was recorded of a rule in one step: whether it fired, and what held its run back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    wish: str = ""
    """What would have had to be so for its run to begin."""


def outcome_of(
    state: EngineState,
    rule: str,
    decisions: Sequence[tuple[int, r.Decision]],
    keys: tuple[Any, ...],
) -> Outcome:
    """Return what *decisions*, of one unit that *state* has seen, say of *rule*."""
    outcome = Outcome(firings=[])
    for sequence, decision in decisions:
        if not isinstance(decision, (r.RuleFired, r.RuleLoop)) or decision.rule != rule:
            continue
        key = r.thaw(decision.key)
        if keys and key not in keys:
            continue
        if isinstance(decision, r.RuleLoop):
            outcome.verdict = "suppressed"
            outcome.because = f"its causes are {decision.hops} deep: that is taken for a loop"
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
        unit = [one for _, one in decisions]
        outcome.verdict, outcome.because, outcome.wish = _told(state, sequence, decision, key, unit)
    return outcome


def trouble_of(rule: str, said: Iterable[object]) -> str | None:
    """Return what was *said* of a failure of *rule* in one step; ``None``: nothing failed."""
    for one in said:
        if isinstance(one, r.RuleMismatch) and one.rule == rule:
            return f"its data is not of the rule's type: {one.error}"
        if isinstance(one, r.RuleError) and one.rule == rule:
            return f"{one.place} raised {one.error}"
        if isinstance(one, r.RuleLate) and one.rule == rule:
            return (
                f"it came too late: its time {time_text(one.time_ns)} is not after the "
                f"watermark {time_text(one.watermark_ns)}"
            )
    return None


def _told(
    state: EngineState, sequence: int, fired: r.RuleFired, key: Any, unit: Sequence[r.Decision]
) -> tuple[str, str, str]:
    """Return verdict, text and wish."""
    events = ", ".join(f"#{event}" for event in fired.events[:8])
    met = f"the pattern was met by {events}" if events else "the pattern was met by time"
    of_key = "" if key is None else f" of key {shown(key)}"
    task = fired.task or fired.rule
    if fired.outcome == "run":
        held_back = _held_back(state, task)
        return "fired", f"{met}; run {sequence} of {task}{of_key} was made{held_back}", ""
    others = [one for one in state.runs.of_rule(task, key) if one != sequence]
    if fired.outcome == "waiting":
        return "fired", f"{met}; run {sequence} {_turn(others, unit)} (run mode)", ""
    if fired.outcome == "dropped":
        dropped = f"{met}, and the firing was dropped by the run mode"
        if not others:
            return "suppressed", dropped, ""
        runs = " and ".join(map(str, others[:3]))
        are = (
            f"run {runs} of the same key is"
            if len(others) == 1
            else f"runs {runs} of the same key are"
        )
        return "suppressed", f"{dropped}: {are} open", f"run {others[0]} had ended before"
    if fired.outcome == "paused":
        wish = "the rule had not been paused"
        return "suppressed", f"{met}, and the rule is paused: no run is made", wish
    if fired.outcome == "missed":
        due = "" if fired.due_ns is None else f" at {time_text(fired.due_ns)}"
        text = f"{met}{due} while no engine ran, and that is too long ago (on_missed)"
        return "suppressed", text, ""
    return "suppressed", f"{met}, by history that is folded in: no run is made", ""


def _turn(others: Sequence[int], unit: Sequence[r.Decision]) -> str:
    """Return when a waiting run begins, with the runs *others* of its key before it."""
    ended = [one.run for one in unit if isinstance(one, r.RunCancelling) and one.run in others]
    if ended:
        return f"begins when run {ended[0]} has ended, which is cancelled for it"
    ahead = f" while run {others[0]} is active" if others else ""
    replaced = [one.run for one in unit if isinstance(one, r.RunReplaced)]
    instead = f", instead of run {replaced[0]}" if replaced else ""
    return f"waits for its turn{ahead}{instead}"


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
