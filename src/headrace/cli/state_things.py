"""The engine's state as things with fields, so that two of them can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.cli.state_parts import Wanted, automata, limits, open_runs, timers, with_times
from headrace.cli.state_projections import add_projections
from headrace.cli.text import rfc3339, to_json

if TYPE_CHECKING:
    from headrace.engine.inspect.differ import Things
    from headrace.engine.kernel import Kernel
    from headrace.engine.run_state import RunState
    from headrace.engine.state import EngineState
    from headrace.triggers.ruleset import RuleSet

JSON = dict[str, Any]


def things_of(kernel: Kernel, rules: RuleSet, wanted: Wanted) -> Things:
    """Return what of the state is wanted, by name."""
    things: Things = {}
    if wanted == Wanted():
        _add_engine(things, kernel)
    _add_rules(things, kernel, rules, wanted)
    add_projections(things, kernel, rules, wanted)
    for run in open_runs(kernel, wanted):
        things[f"run {run['run']} of {run['task']}"] = _run(run)
    for timer in timers(kernel, rules, wanted):
        things[_timer_name(timer)] = {"due": timer["due"]}
    if wanted == Wanted():
        _add_limits(things, kernel)
    return things


def ended_as(kernel: Kernel, run: int) -> str | None:
    """Return how a run has ended, as far as the state knows."""
    known = (view for view in kernel.state.runs.ended if view.id == run)
    view = next(known, None)
    return None if view is None else view.status


def run_fields(state: EngineState, run: RunState) -> JSON:
    """Return what there is to compare of one open run."""
    from headrace.engine.inspect.views import run_view

    view: JSON = with_times(run_view(state, run))
    return _run(view)


def _add_engine(things: Things, kernel: Kernel) -> None:
    state = kernel.state
    things["log"] = {"time": rfc3339(state.at_ns), "events": state.events, "clock": state.clock}
    for number, name in enumerate(state.sources, 1):
        things[f"source {name}"] = {"cursor": state.cursors.get(number)}
    for alarm in state.alarms.all():
        things[f"alarm of {alarm.rule}{_key(alarm.key)}"] = {
            "raised": rfc3339(alarm.raised_at_ns),
            "count": alarm.count,
            "acknowledged by": alarm.by or None,
        }


def _add_rules(things: Things, kernel: Kernel, rules: RuleSet, wanted: Wanted) -> None:
    from headrace.cli.state import numbers_of
    from headrace.engine.views import state_of

    if not wanted.shows_rules:
        return
    if not wanted.keys:
        for row in numbers_of(state_of(kernel))["rules"]:
            if wanted.rule in (None, row["rule"]):
                things[f"rule {row.pop('rule')}"] = row
    for view in automata(kernel, rules, wanted):
        rule = view["rule"]
        if "watermark" in view:
            things[f"watermark of {rule}"] = {"at": view["watermark"], "waiting": view["waiting"]}
        for row in view["open"]:
            name = f"{rule}{_key(row.pop('key'))}: {row.pop('operator')}"
            steps = row.pop("steps")
            if steps is not None:  # a key has several partial matches, known by their first event
                row.update({f"step {step}": events for step, events in steps.items()})
                name += f" from #{row['events'][0]}"
            things[name if name not in things else f"{name} {row['events']}"] = row


def _run(run: JSON) -> JSON:
    fields = {
        name: run[name]
        for name in ("status", "attempt", "waits_for", "retry", "error", "cancelling", "key")
    }
    fields["waits_for"] = fields["waits_for"] or None
    for call in run["calls"]:
        until = f" until {call['until']}" if call.get("until") else ""
        named = f" {call['name']}" if call["name"] else ""
        fields[f"call {call['call']}"] = f"{call['kind']}{named}: {call['status']}{until}"
    return fields


def _timer_name(timer: JSON) -> str:
    if "rule" in timer:
        return f"timer of {timer['rule']}{_key(timer['key'])}: {timer['what']}"
    if "run" in timer:
        call = f" call {timer['call']}" if "call" in timer else ""
        return f"timer of run {timer['run']}{call}: {timer['what']}"
    return f"timer of the circuit of {timer['task']}"


def _add_limits(things: Things, kernel: Kernel) -> None:
    found = limits(kernel)
    for one in found["breakers"]:
        things[f"circuit of {one.pop('task')}"] = one
    for one in found["launch_keys"]:
        things[f"key {one.pop('key')} of {one.pop('task')}"] = one


def _key(key: Any) -> str:
    return "" if key is None else f" key {to_json(key)}"
