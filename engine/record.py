"""The records of the log: one registered table of kinds, and how they become bytes.

A record is a msgpack array that begins with an integer tag.  Tags are never reused and
fields are only ever appended (with a default), so that an old log stays readable for ever
and an older headrace can pass on what it does not know (`UnknownRecord`).

Tags below `DECISION_TAG_MIN` are *inputs*: facts that come from outside the kernel.  The
others are *decisions*: what the kernel made of the input before them.  An input with the
decisions that follow it is one unit.  Decisions carry no time of their own: they happen
at the time of their input.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.decisions import (
    Details,
    Outcome,
    RuleError,
    RuleEvicted,
    RuleFired,
    RuleLate,
    RuleLoop,
    RuleMismatch,
    RunCancelling,
    RunReleased,
    RunReplaced,
)
from headrace.engine.inputs import (
    AlarmAcknowledged,
    AttemptFailed,
    BreakerMoved,
    CancelRequested,
    ClockStepped,
    CrashesCounted,
    CursorMoved,
    EngineStarted,
    EngineStopped,
    EventOffered,
    EventStored,
    HistoryBegan,
    HistoryEnded,
    Met,
    PatchMarked,
    RuleChanged,
    RuleDiverged,
    RulePaused,
    RulesListed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunFailing,
    RunLaunched,
    RunRedriven,
    SignalSent,
    SleepRequested,
    SourceOpened,
    StepKind,
    StepRequested,
    TasksListed,
    TimerFired,
    WaitEnded,
    WaitKind,
    WaitRequested,
)

__all__ = [
    "COMPLETED_TAG",
    "DECISION_KINDS",
    "DECISION_TAG_MIN",
    "EVENT_TAG",
    "INPUT_TAG_MAX",
    "KIND_BY_TYPE",
    "TAG_MAX",
    "UNTIMED",
    "AlarmAcknowledged",
    "AttemptFailed",
    "BreakerMoved",
    "CancelRequested",
    "ClockStepped",
    "CrashesCounted",
    "CursorMoved",
    "Decision",
    "Details",
    "EngineStarted",
    "EngineStopped",
    "EventOffered",
    "EventStored",
    "HistoryBegan",
    "HistoryEnded",
    "Input",
    "Met",
    "Outcome",
    "PatchMarked",
    "Record",
    "RuleChanged",
    "RuleDiverged",
    "RuleError",
    "RuleEvicted",
    "RuleFired",
    "RuleLate",
    "RuleLoop",
    "RuleMismatch",
    "RulePaused",
    "RulesListed",
    "RunCancelled",
    "RunCancelling",
    "RunCompleted",
    "RunFailed",
    "RunFailing",
    "RunLaunched",
    "RunRedriven",
    "RunReleased",
    "RunReplaced",
    "SignalSent",
    "SleepRequested",
    "SourceOpened",
    "StepKind",
    "StepRequested",
    "TasksListed",
    "TimerFired",
    "UnknownRecord",
    "WaitEnded",
    "WaitKind",
    "WaitRequested",
    "as_stored",
    "decode",
    "decode_all",
    "encode",
    "encode_fields",
    "is_decision",
    "text_for_record",
    "thaw",
]

INPUT_TAG_MAX: Final = 63
DECISION_TAG_MIN: Final = 64
TAG_MAX: Final = 127  # one byte in msgpack


class UnknownRecord(Struct, frozen=True):
    """A record of a kind that this headrace does not know: kept and passed through."""

    tag: int
    raw: bytes


Input = (
    EventStored
    | TimerFired
    | RunCompleted
    | RunFailed
    | RunCancelled
    | AttemptFailed
    | StepRequested
    | SleepRequested
    | CancelRequested
    | EngineStarted
    | EngineStopped
    | SourceOpened
    | RuleDiverged
    | ClockStepped
    | EventOffered
    | CursorMoved
    | RulesListed
    | RuleChanged
    | RulePaused
    | AlarmAcknowledged
    | HistoryBegan
    | HistoryEnded
    | RunLaunched
    | RunRedriven
    | BreakerMoved
    | CrashesCounted
    | PatchMarked
    | RunFailing
    | TasksListed
    | WaitRequested
    | WaitEnded
    | SignalSent
)
Decision = (
    RuleFired
    | RunReleased
    | RunReplaced
    | RunCancelling
    | RuleMismatch
    | RuleError
    | RuleEvicted
    | RuleLoop
    | RuleLate
)
Record = Input | Decision | UnknownRecord

KIND_BY_TYPE: Final[dict[type[Any], str]] = {
    EventStored: "event",
    TimerFired: "timer.fired",
    RunCompleted: "run.completed",
    RunFailed: "run.failed",
    RunCancelled: "run.cancelled",
    AttemptFailed: "attempt.failed",
    StepRequested: "step.requested",
    SleepRequested: "sleep.requested",
    CancelRequested: "cancel.requested",
    EngineStarted: "engine.started",
    EngineStopped: "engine.stopped",
    SourceOpened: "source.opened",
    RuleDiverged: "rule.diverged",
    ClockStepped: "clock.stepped",
    EventOffered: "event.offered",
    CursorMoved: "cursor.moved",
    RulesListed: "rules.listed",
    RuleChanged: "rule.changed",
    RulePaused: "rule.paused",
    AlarmAcknowledged: "alarm.acknowledged",
    HistoryBegan: "history.began",
    HistoryEnded: "history.ended",
    RunLaunched: "run.launched",
    RunRedriven: "run.redriven",
    BreakerMoved: "breaker.moved",
    CrashesCounted: "crashes.counted",
    PatchMarked: "patch.marked",
    RunFailing: "run.failing",
    TasksListed: "tasks.listed",
    WaitRequested: "wait.requested",
    WaitEnded: "wait.ended",
    SignalSent: "signal.sent",
    RuleFired: "rule.fired",
    RunReleased: "run.released",
    RunReplaced: "run.replaced",
    RunCancelling: "run.cancelling",
    RuleMismatch: "rule.mismatch",
    RuleError: "rule.error",
    RuleEvicted: "rule.evicted",
    RuleLoop: "rule.loop",
    RuleLate: "rule.late",
    UnknownRecord: "unknown",
}
"""The name of each kind, as people see it."""

DECISION_KINDS: Final = (
    RuleFired,
    RunReleased,
    RunReplaced,
    RunCancelling,
    RuleMismatch,
    RuleError,
    RuleEvicted,
    RuleLoop,
    RuleLate,
)

UNTIMED: Final = (
    RulesListed,
    EngineStarted,
    EngineStopped,
    EventOffered,
    CancelRequested,
    RulePaused,
    AlarmAcknowledged,
    RunRedriven,
    CrashesCounted,
    TasksListed,
    WaitEnded,
    SignalSent,
)
"""Records before which timers that are due need not have fired.

Offers, signals, and what is asked for of runs, rules and alarms may be written while no engine
runs, and so none that fires timers.  The end of a wait is put right behind what met it, before
any timer.  The others belong to a start.
"""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_known: Callable[[bytes | Raw], Input | Decision] = msgspec.msgpack.Decoder(
    Input | Decision
).decode
_decode_many: Callable[[bytes], list[Record]] = msgspec.msgpack.Decoder(
    list[Input | Decision]
).decode  # type: ignore[assignment]
_ARRAY_HEADER: Final = struct.Struct(">BI")
"""Of a msgpack array with 32 bits of length."""
_decode_any = msgspec.msgpack.Decoder().decode
_TAGS: Final = frozenset(
    kind.__struct_config__.tag for kind in KIND_BY_TYPE if kind is not UnknownRecord
)


EVENT_TAG: Final = 1
COMPLETED_TAG: Final = 3
encode_fields = _encode
"""Encodes a record as a tuple of its tag and its fields, or as it is: `encode` may say less."""

_FIRED_FIELDS: Final = attrgetter(*RuleFired.__struct_fields__[:8])
_OUTSIDE_FIELDS: Final = EventStored.__struct_fields__[:8]
_CAUSED_FIELDS: Final = attrgetter(*EventStored.__struct_fields__[:12])
_PAYING_FIELDS: Final = attrgetter(*EventStored.__struct_fields__[:13])
_RARE: Final = frozenset({UnknownRecord, RunLaunched, EventOffered})
_LAUNCHED_FIELDS: Final = attrgetter(*RunLaunched.__struct_fields__[:7])
_OFFERED_FIELDS: Final = attrgetter(*EventOffered.__struct_fields__[:8])


def encode(record: Record) -> bytes:
    """Return *record* as msgpack.  Trailing defaults of what is frequent are left out."""
    if type(record) is EventStored:
        if record.headers is not None:
            return _encode(record)
        if record.offer:
            return _encode((1, *_PAYING_FIELDS(record)))
        if not record.run and not record.hops:
            # From outside: what lies behind the last field that says something is left out,
            # up to 8 bytes less for each of many million.
            if record.key is None:
                fields: tuple[object, ...] = (1, record.at_ns, record.subject, record.data)
                if record.time_ns is not None:
                    fields = (*fields, record.source, record.position, record.id, record.time_ns)
                elif record.id is not None:
                    fields = (*fields, record.source, record.position, record.id)
                elif record.source:
                    fields = (*fields, record.source, record.position)
                return _encode(fields)
            return _encode((1, *(getattr(record, name) for name in _OUTSIDE_FIELDS)))
        return _encode((1, *_CAUSED_FIELDS(record)))
    if type(record) is RuleFired and record.details is None and not record.task:
        return _encode((64, *_FIRED_FIELDS(record)))
    if type(record) is RunCompleted and record.blob is None:
        return _encode((COMPLETED_TAG, record.at_ns, record.run, record.result))
    return _rare(record) if type(record) in _RARE else _encode(record)


def _rare(record: Record) -> bytes:
    if type(record) is UnknownRecord:
        return record.raw
    if type(record) is RunLaunched and record.headers is None:
        return _encode((28, *_LAUNCHED_FIELDS(record)))
    if type(record) is EventOffered and record.headers is None:
        return _encode((15, *_OFFERED_FIELDS(record)))
    return _encode(record)


def decode(raw: bytes | Raw) -> Record:
    """Return the record that `encode` made *raw* of.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError: the bytes are no record.
    """
    try:
        return _decode_known(raw)
    except msgspec.ValidationError:
        # Only now, since it is rare: is it damage or a kind from the future?
        parts = _decode_any(raw)
        if isinstance(parts, list) and parts:
            tag = parts[0]
            if isinstance(tag, int) and 0 < tag <= TAG_MAX and tag not in _TAGS:
                return UnknownRecord(tag, bytes(raw))
        raise


def decode_all(
    raws: Sequence[bytes], *, first: int = 1, one: Callable[[int, bytes], Record] | None = None
) -> list[Record]:
    """Return `decode` of each of *raws*, at a fifth of the cost.

    If that fails each is given to *one*, with its sequence: the first of *raws* has *first*.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError, or what *one* raises: one of
            them is no record.
    """
    try:
        return _decode_many(_ARRAY_HEADER.pack(0xDD, len(raws)) + b"".join(raws))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # There is one of a kind from the future among them, or one that is none.
        if one is None:
            return list(map(decode, raws))
        return [one(sequence, raw) for sequence, raw in enumerate(raws, first)]


def text_for_record(text: str, chars_max: int) -> str:
    """Return *text* as a record can hold it: of limited length, and with an encoding.

    The message of an error may hold half a character, as of a file name that is no UTF-8.
    """
    return text[:chars_max].encode(errors="backslashreplace").decode()


def as_stored(entries: list[Any]) -> list[Any]:
    """Return plain data as it would come back from a file."""
    stored: list[Any] = _decode_any(_encode(entries))
    return stored


def thaw(key: Any) -> Any:
    """Return a key as it was before msgpack made a list of each tuple in it."""
    return tuple(thaw(part) for part in key) if isinstance(key, list) else key


def is_decision(record: Record) -> bool:
    """Say whether *record* belongs to the input before it (else it begins a unit)."""
    if type(record) is UnknownRecord:
        return record.tag >= DECISION_TAG_MIN
    return isinstance(record, DECISION_KINDS)
