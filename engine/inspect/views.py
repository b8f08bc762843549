"""What a kernel's state holds besides automata: open runs with their calls, timers and limits.

As plain data for people and programs; times are in nanoseconds, in fields that end in
``_ns``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.engine.run_state import RETRY, RunState, Step
from headrace.engine.state import EngineState

JSON = dict[str, Any]


def open_runs(state: EngineState) -> Iterator[JSON]:
    """Yield the runs that have not ended, oldest first."""
    for run in state.runs.active.values():
        yield run_view(state, run)


def run_view(state: EngineState, run: RunState) -> JSON:
    """Return a run: what it is, what it waits for, and its calls."""
    view: JSON = {
        "run": run.id,
        "task": run.task,
        "rule": run.rule or None,
        "key": run.launch_key if run.key is None else run.key,
        "status": run.status,
        "attempt": run.attempt,
        "waits_for": waits_for(state, run),
        "parent": run.parent or None,
        "events": run.events,
        "created_ns": run.created_at_ns,
        "attempt_began_ns": run.attempt_at_ns,
        "retry_ns": run.retry_at_ns,
        "error": run.error,
        "cancelling": run.cancelling,
        "calls": [
            call_view(ordinal, step) for ordinal, step in sorted(run.steps.items()) if ordinal > 0
        ],
    }
    if run.undos:
        view["to_undo"] = [run.undos[number].task for number in run.to_undo]
    if run.signals:
        view["signals"] = {name: len(queue) for name, queue in run.signals.items()}
    return view


def call_view(ordinal: int, step: Step) -> JSON:
    """Return one call of a run."""
    view: JSON = {
        "call": ordinal,
        "kind": step.kind,
        "name": step.name or None,
        "status": step.status,
        "sequence": step.sequence,
        "at_ns": step.at_ns,
    }
    if step.wait is not None:
        view["until_ns"] = step.wait.due_ns
    if step.error is not None:
        view["error"] = step.error
    return view


def waits_for(state: EngineState, run: RunState) -> str:
    """Say what *run* is waiting for, as far as the log knows; empty: its code is at work."""
    if run.cancelling is not None:
        return "its code to end: it is being cancelled"
    if run.status == "waiting":
        ids = state.runs.of_rule(run.task, run.key)
        ahead = next((one for one in ids if one != run.id), 0)
        return f"run {ahead} of the same rule and key to end" if ahead else "its turn"
    if run.status == "retrying":
        return "its retry"
    circuit = state.breakers.moved.get(run.task)
    if circuit is not None:
        return f"the circuit of {run.task}, which is {circuit.state.replace('_', ' ')}"
    pending = [step for step in run.steps.values() if step.status == "pending"]
    return ", ".join(filter(None, map(_call_text, pending)))


def _call_text(step: Step) -> str:
    if step.kind == "sleep":
        return "the end of a sleep"
    if step.kind == "receive":
        return f"signal {step.name}"
    if step.kind == "wait":
        return f"wait {step.name}"
    return f"run {step.sequence} of {step.name}"


def timers(state: EngineState) -> Iterator[JSON]:
    """Yield all timers of the kernel, the next one first."""
    armed = sorted(state.timers._armed.items(), key=lambda item: item[1])
    for (owner, slot, key), (due_ns, _, _) in armed:
        yield _timer_view(state, owner, slot, key, due_ns)


def _timer_view(state: EngineState, owner: str, slot: int, key: Any, due_ns: int) -> JSON:
    if owner:
        return {"due_ns": due_ns, "rule": owner, "slot": slot, "key": key}
    if not slot:
        return {"due_ns": due_ns, "task": key, "what": "circuit"}
    if key == RETRY:
        return {"due_ns": due_ns, "run": slot, "what": "retry"}
    run = state.runs.active.get(slot)
    step = None if run is None else run.steps.get(key)
    what = "timeout" if step is None else step.kind
    return {"due_ns": due_ns, "run": slot, "call": key, "what": what}


def limits(state: EngineState) -> JSON:
    """Return what holds runs back: circuits, keys of launches, paused rules.

    Places and rates of tasks are not in the log: after a start they begin anew.
    """
    return {
        "breakers": [
            {
                "task": view.task,
                "state": view.state,
                "failures": view.failures,
                "until_ns": view.until_ns,
            }
            for view in state.breakers.moved.values()
        ],
        "failed_lately": {
            task: len(times) for task, times in sorted(state.breakers._failed.items())
        },
        "launch_keys": [
            {
                "task": held.task,
                "key": held.key,
                "run": held.run,
                "status": held.status,
                "until_ns": None if held.status == "active" else held.until_ns,
            }
            for held in state.launches._by_key.values()
            if held.status == "active" or held.until_ns > state.at_ns
        ],
        "paused_rules": sorted(state.paused),
        "history": state.history or None,
    }
