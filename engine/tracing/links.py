"""Which record directly led to which: every record says so, and nothing else has to be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from headrace.engine import record as r
from headrace.engine.log import LogReader

Decode = Callable[[int, bytes], r.Record]
"""Makes a record of what is stored at a sequence, or raises for what is none."""

CAUSES_MAX: Final = 1000
"""A bound for damaged logs: chains of rules that are too long are cut as loops, and steps
within steps are no deeper."""


RUN_TAGS: Final = frozenset((3, 4, 5, 6, 7, 8, 9, 23, 25, 26, 27, 29))
"""Kinds of records whose first fields are their time and the run that they are about."""

_TIME: Final = 0xCF
_WIDTHS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # of msgpack's unsigned numbers


def run_named(raw: bytes) -> int:
    """Return the run that an encoded record of `RUN_TAGS` is about, without decoding it.

    -1: it is not to be seen so quickly.
    """
    if len(raw) < 12 or raw[2] != _TIME:
        return -1
    number = raw[11]
    if number < 0x80:
        return number
    width = _WIDTHS.get(number)
    return -1 if width is None else int.from_bytes(raw[12 : 12 + width])


def cause_of(record: r.Record | None) -> int:
    """Return the sequence of what directly led to *record*.

    0: it came from outside or is gone; or it is a decision that names nothing, and then the
    input of its unit led to it (`input_before`).
    """
    if isinstance(record, (r.RuleFired, r.RuleLoop)):
        return record.events[-1] if record.events else 0
    if isinstance(record, r.StepRequested):
        return record.parent
    if isinstance(record, r.EventStored):
        return record.run or _told_of(record) or record.offer
    if isinstance(record, (r.RuleMismatch, r.RuleError, r.RuleLate)):
        return record.event
    if isinstance(record, r.TimerFired):
        return 0 if record.owner else record.slot
    return getattr(record, "run", 0)  # a launch, and all that becomes of a run


def _told_of(event: r.EventStored) -> int:
    """Return what an event of the engine's own tells of; 0: it is none."""
    if not event.hops:
        return 0
    data = plain(event.data)
    named = (data.get("firing") or data.get("event")) if isinstance(data, dict) else None
    return named if isinstance(named, int) else event.trace


def input_before(reader: LogReader, sequence: int, decode: Decode) -> int:
    """Return the sequence of the input that the record at *sequence* belongs to, or is."""
    while sequence > reader.first_sequence:
        record = stored(reader, sequence, decode)
        if record is None or not r.is_decision(record):
            break
        sequence -= 1
    return sequence


def causes_of(
    reader: LogReader, sequence: int, decode: Decode
) -> list[tuple[int, r.Record | None]]:
    """Return what led to the record at *sequence*, the nearest first.

    The last is what came from outside; ``None`` if retention has removed it.
    """
    found: list[tuple[int, r.Record | None]] = []
    record = stored(reader, sequence, decode)
    while record is not None and len(found) < CAUSES_MAX:
        cause = cause_of(record)
        if not cause and r.is_decision(record):
            cause = input_before(reader, sequence, decode)
        if not 0 < cause < sequence:
            break
        sequence, record = cause, stored(reader, cause, decode)
        found.append((sequence, record))
    return found


def stored(reader: LogReader, sequence: int, decode: Decode) -> r.Record | None:
    """Return the record at *sequence*, or ``None``."""
    raw = reader.fetch([sequence]).get(sequence)
    return None if raw is None else decode(sequence, raw)


def plain(raw: Any) -> Any:
    """Return what msgpack bytes hold, as plain data."""
    return None if raw is None else msgspec.msgpack.decode(raw)
