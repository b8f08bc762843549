"""What a verdict of the rules comes to, given the runs that are active: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from headrace.engine import record as r
from headrace.engine.decider import Matched, Queue, RunMode, Verdict
from headrace.engine.runs import RunTable

CLEAR = "clear"


class Situation(Protocol):
    """What a decision depends on."""

    at_ns: int
    started_at_ns: int
    hops_max: int
    runs: RunTable
    paused: set[str]
    history: str


def decide(state: Situation, verdict: Verdict | r.Decision) -> Iterable[r.Decision]:
    """Say what a verdict comes to, given the runs that are active now."""
    if type(verdict) is not Matched:
        return (verdict,)  # type: ignore[return-value]
    rule, key = verdict.rule, verdict.key
    hops = verdict.hops + 1
    if (
        verdict.details is None  # as most: without what the others need
        and verdict.policy.is_plain
        and hops <= state.hops_max
        and not state.history
        and not state.paused
    ):
        due_ns, branches, trace = verdict.due_ns, verdict.branches, verdict.trace
        return (r.RuleFired(rule, key, verdict.events, "run", due_ns, branches, trace, hops),)
    if hops > state.hops_max:
        return (r.RuleLoop(rule, key, verdict.events, hops),)
    before: list[r.Decision] = []
    outcome: r.Outcome = "run"
    policy, details = verdict.policy, verdict.details
    reason = details.reason if details is not None else None
    task = policy.tasks.get(reason, "") if reason is not None else ""
    if state.history:
        outcome = "history"
    elif rule in state.paused:
        outcome = "paused"
    elif policy.late_ns is not None and _is_missed(state, verdict, policy.late_ns):
        outcome = "missed"
    elif policy.mode != "parallel" and (ids := state.runs.of_rule(task or rule, key)):
        outcome, before = _take_turn(state.runs, policy.mode, ids)
    if reason is None and CLEAR in policy.tasks:
        details = msgspec.structs.replace(details or r.Details(), alarm=True)
    fired = r.RuleFired(
        rule,
        key,
        verdict.events,
        outcome,
        verdict.due_ns,
        verdict.branches,
        verdict.trace,
        hops,
        details,
        task,
    )
    return (*before, fired)


def _is_missed(state: Situation, verdict: Matched, late_ns: int) -> bool:
    """Say whether a firing was due in a downtime, and *late_ns* ago or more."""
    due_ns, details = verdict.due_ns, verdict.details
    if due_ns is None or (details is not None and details.at_ns is not None):
        return False  # by an event, or by a timer of event time
    return due_ns < state.started_at_ns and state.at_ns - due_ns >= late_ns


def _take_turn(
    runs: RunTable, mode: RunMode, ids: Sequence[int]
) -> tuple[r.Outcome, list[r.Decision]]:
    """Say what becomes of a firing while there are runs of its rule and key, and of these."""
    if mode == "single":
        return "dropped", []
    present = [runs.active[run_id] for run_id in ids]
    waiting = [run.id for run in present if run.status == "waiting"]
    if isinstance(mode, Queue):
        if len(waiting) < mode.max:
            return "waiting", []
        if mode.overflow == "drop_new" or not waiting:
            return "dropped", []
        return "waiting", [r.RunReplaced(waiting[0])]
    before: list[r.Decision] = []
    for run in present:
        if run.status == "waiting":
            before.append(r.RunReplaced(run.id))
        elif mode == "restart" and run.cancelling is None:
            before.append(r.RunCancelling(run.id, "a newer firing restarts it"))
    return "waiting", before
