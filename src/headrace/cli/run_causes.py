"""What led to a record, one by one, up to what came from outside, as people see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.cli.logs import decoder
from headrace.cli.text import rfc3339, safe
from headrace.engine import record as r
from headrace.engine.tracing import links

if TYPE_CHECKING:
    from headrace.engine.log import LogReader


def causes_of(reader: LogReader, sequence: int) -> list[dict[str, Any]]:
    """Return what led to the record at *sequence*, the nearest first, each with its own."""
    causes = links.causes_of(reader, sequence, decoder(reader))
    return [{"sequence": cause, **said_of(record)} for cause, record in causes]


def said_of(record: r.Record | None) -> dict[str, Any]:
    """Return what is to be said of a cause; ``None`` stands for one that was removed."""
    if record is None:
        return {"kind": "removed", "recorded_at": None, "name": None}
    at = rfc3339(getattr(record, "at_ns", 0) or None)
    if isinstance(record, r.EventStored):
        return {"kind": "event", "recorded_at": at, "name": record.subject}
    if isinstance(record, r.RuleFired):
        return {"kind": "run", "recorded_at": None, "name": record.task or record.rule}
    if isinstance(record, (r.StepRequested, r.RunLaunched)):
        return {"kind": "run", "recorded_at": at, "name": record.task}
    if isinstance(record, r.TimerFired):
        return {"kind": "timer.fired", "recorded_at": at, "name": record.owner or None}
    return {"kind": r.KIND_BY_TYPE[type(record)], "recorded_at": at, "name": None}


def cause_lines(causes: list[dict[str, Any]]) -> list[str]:
    """Return *causes* as text, a line for each."""
    return [
        f"because of {cause['kind']} {cause['sequence']}"
        f"{'  ' + safe(cause['name']) if cause['name'] else ''}"
        f"{'  ' + cause['recorded_at'] if cause['recorded_at'] else ''}"
        for cause in causes
    ]
