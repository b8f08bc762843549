"""What led to a run, record by record, up to what came from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from headrace.cli.logs import decoded
from headrace.cli.text import rfc3339, safe
from headrace.engine import record as r

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

CAUSES_MAX: Final = 100
"""More than a chain of rules can have: those that are too long are cut as loops."""


def causes_of(reader: LogReader, run: int) -> list[dict[str, Any]]:
    """Return what led to *run*, the nearest first, each with its sequence."""
    found: list[dict[str, Any]] = []
    cause = _before(_record(reader, run))
    while cause and len(found) < CAUSES_MAX:
        record = _record(reader, cause)
        found.append({"sequence": cause, **_said(record)})
        before = _before(record)
        cause = before if before < cause else 0
    return found


def _record(reader: LogReader, sequence: int) -> r.Record | None:
    raw = reader.fetch([sequence]).get(sequence)
    return None if raw is None else decoded(reader, sequence, raw)


def _before(record: r.Record | None) -> int:
    """Return what directly led to *record*; 0: it came from outside, or is gone."""
    if isinstance(record, r.RuleFired):
        return record.events[-1] if record.events else 0
    if isinstance(record, r.StepRequested):
        return record.parent
    if isinstance(record, (r.RunLaunched, r.EventStored)):
        return record.run
    return 0


def _said(record: r.Record | None) -> dict[str, Any]:
    if record is None:
        return {"kind": "removed", "recorded_at": None, "name": None}
    at = rfc3339(getattr(record, "at_ns", 0) or None)
    if isinstance(record, r.EventStored):
        return {"kind": "event", "recorded_at": at, "name": record.subject}
    if isinstance(record, r.RuleFired):
        return {"kind": "run", "recorded_at": None, "name": record.task or record.rule}
    if isinstance(record, (r.StepRequested, r.RunLaunched)):
        return {"kind": "run", "recorded_at": at, "name": record.task}
    return {"kind": r.KIND_BY_TYPE[type(record)], "recorded_at": at, "name": None}


def cause_lines(causes: list[dict[str, Any]]) -> list[str]:
    """Return *causes* as text, a line for each."""
    return [
        f"because of {cause['kind']} {cause['sequence']}"
        f"{'  ' + safe(cause['name']) if cause['name'] else ''}"
        f"{'  ' + cause['recorded_at'] if cause['recorded_at'] else ''}"
        for cause in causes
    ]
