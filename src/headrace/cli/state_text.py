"""The parts of the engine's state as text: what is open, what is armed, what runs wait for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.cli.state_projections import projection_lines
from headrace.cli.text import safe, to_json

JSON = dict[str, Any]
EVENTS_SHOWN_MAX = 8


def parts_text(document: JSON, *, is_whole: bool) -> Iterator[str]:
    """Yield a paragraph for each part of *document* that has something to say."""
    for view in document["automata"]:
        lines = list(_automaton(view))
        if len(lines) > 1 or not is_whole:
            yield "\n".join(lines)
    for row in document["projections"]:
        yield "\n".join(projection_lines(row))
    runs = [line for run in document["open_runs"] for line in run_lines(run)]
    if runs:
        yield "\n".join(["open runs", *runs, *_more(document["more_open_runs"])])
    armed = [f"  {timer_line(timer)}" for timer in document["armed"]]
    if armed:
        yield "\n".join(["timers", *armed, *_more(document["more_armed"])])
    lines = list(_limits(document["limits"]))
    if lines and is_whole:
        yield "\n".join(["limits", *lines])


def _automaton(view: JSON) -> Iterator[str]:
    yield f"{safe(view['rule'])}: {safe(view['pattern'])}"
    if view["why_not"]:
        yield f"  not in force: {view['why_not']}"
    if "watermark" in view:
        at = view["watermark"] or "not there before the first event"
        yield f"  watermark {at}; {view['waiting']} events wait for it"
    for row in view["open"]:
        yield from holding_lines(row)
    yield from _more(view["more"])


def holding_lines(row: JSON) -> Iterator[str]:
    """Yield the lines of what an operator holds for a key."""
    key = "" if row["key"] is None else f"key {to_json(row['key'])} "
    events = f": {events_text(row['events'])}" if row["events"] else ""
    yield f"  {key}{safe(row['operator'])}: {safe(row['has'])}{events}"
    if row["steps"] and len(row["events"]) > 1:
        steps = ", ".join(
            f"{safe(name)} {events_text(numbers) or '-'}" for name, numbers in row["steps"].items()
        )
        yield f"    has {steps}"
    span = ", ".join(f"{name} {row[name]}" for name in ("since", "until") if row[name])
    yield f"    waits for {safe(row['waits_for'])}{f' ({span})' if span else ''}"


def events_text(events: list[int]) -> str:
    """Return sequences as ``#3, #5``; of many the first and the last."""
    shown = [f"#{sequence}" for sequence in events]
    if len(shown) > EVENTS_SHOWN_MAX:
        left_out = len(shown) - EVENTS_SHOWN_MAX + 1
        shown = [*shown[: EVENTS_SHOWN_MAX - 2], f"… {left_out} more …", shown[-1]]
    return ", ".join(shown)


def run_lines(run: JSON) -> Iterator[str]:
    """Yield the lines of an open run."""
    key = "" if run["key"] is None else f" key {to_json(run['key'])}"
    attempt = f", attempt {run['attempt']}" if run["attempt"] > 1 else ""
    yield (
        f"  run {run['run']} of {safe(run['task'])}{key}: {run['status']}{attempt}, "
        f"since {run['attempt_began']}"
    )
    waits = run["waits_for"]
    until = f" until {run['retry']}" if run["retry"] else ""
    at_work = "its code is at work" if run["attempt"] else "it ends with the next start"
    yield f"    waits for {safe(waits)}{until}" if waits else f"    {at_work}"
    if run["error"]:
        yield f"    error {safe(run['error'])}"
    for call in run["calls"]:
        name = f" {safe(call['name'])}" if call["name"] else ""
        until = f" until {call['until']}" if call.get("until") else ""
        yield f"    call {call['call']} {call['kind']}{name}: {call['status']}{until}"


def timer_line(timer: JSON) -> str:
    """Return the line of a timer."""
    if "rule" in timer:
        key = "" if timer["key"] is None else f" key {to_json(timer['key'])}"
        return f"{timer['due']}  rule {safe(timer['rule'])}{key}: {safe(timer['what'])}"
    if "run" in timer:
        call = f" call {timer['call']}" if "call" in timer else ""
        return f"{timer['due']}  run {timer['run']}{call}: {timer['what']}"
    return f"{timer['due']}  task {safe(timer['task'])}: its circuit is tried"


def _limits(limits: JSON) -> Iterator[str]:
    for one in limits["breakers"]:
        state = one["state"].replace("_", " ")
        yield f"  circuit of {safe(one['task'])}: {state} until {one['until']}"
    for one in limits["launch_keys"]:
        until = f" until {one['until']}" if one["until"] else ""
        yield f"  key {safe(one['key'])} of {safe(one['task'])}: held by run {one['run']}{until}"
    for rule in limits["paused_rules"]:
        yield f"  rule {safe(rule)}: paused"
    if limits["history"]:
        yield f"  events are of before: {safe(limits['history'])}"


def _more(count: int) -> list[str]:
    return [f"  and {count} more; --limit shows them"] if count else []
