"""What ``headrace runs show`` tells of a run's waits for signals and patterns."""

from __future__ import annotations

from typing import Any

from headrace.cli.logs import plain_raw
from headrace.cli.text import rfc3339, safe, to_json
from headrace.engine import record as r


def take(steps: dict[int, Any], queued: list[r.SignalSent], record: r.Record) -> None:
    """Change *steps*, by ordinal, and the signals that were not received, by a record."""
    if isinstance(record, r.WaitRequested):
        step: dict[str, Any] = {"kind": record.kind, "name": record.name, "status": "pending"}
        if record.due_ns is not None:
            step["until"] = rfc3339(record.due_ns)
        steps[record.ordinal] = step
        for signal in queued if record.kind == "receive" else ():
            if signal.name == record.name:
                queued.remove(signal)
                _receive(step, signal)
                break
    elif isinstance(record, r.SignalSent):
        for step in steps.values():  # some are stories of tasks
            if type(step) is dict and (step["kind"], step.get("name"), step["status"]) == (
                "receive",
                record.name,
                "pending",
            ):
                _receive(step, record)
                return
        queued.append(record)
    elif isinstance(record, r.WaitEnded) and record.ordinal in steps:
        step = steps[record.ordinal]
        step["status"] = "done"
        if record.met is not None:
            step["events"] = record.met.events
        elif record.error is not None:
            step["error"] = record.error


def _receive(step: dict[str, Any], signal: r.SignalSent) -> None:
    step["status"] = "done"
    step["data"] = plain_raw(signal.data)


def line(step: dict[str, Any]) -> str:
    """Return the line of a wait."""
    until = f" until {step['until']}" if "until" in step else ""
    said = f"{step['kind']} {safe(step['name'])}{until}  {step['status']}"
    if "data" in step:
        return f"{said} {to_json(step['data'])}"
    if "events" in step:
        return f"{said} by events {to_json(step['events'])}"
    return f"{said}: {safe(step['error'])}" if "error" in step else said
