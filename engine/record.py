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

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

INPUT_TAG_MAX: Final = 63
DECISION_TAG_MIN: Final = 64
TAG_MAX: Final = 127  # one byte in msgpack

StepKind = Literal["call", "spawn", "launch"]
Outcome = Literal["run", "dropped", "waiting", "missed"]
"""What became of a firing: ``run`` started at once, ``waiting`` for other runs of its rule and
key, ``dropped`` because of them, ``missed`` since it was due too long ago."""

# ---------------------------------------------------------------- inputs


class EventStored(Struct, array_like=True, frozen=True, gc=False, tag=1):
    """An event that was accepted."""

    at_ns: int
    """Log time in nanoseconds since the epoch (law L1: monotone)."""
    subject: str
    data: Raw
    """The payload as msgpack, exactly as it was encoded when it was emitted."""
    source: int = 0
    """Number of the source that brought it (`SourceOpened`); 0: emitted in the process."""
    position: int | None = None
    """The source's cursor after this event, e.g. a byte offset."""
    id: str | None = None
    time_ns: int | None = None
    """The event's own time, if it was given."""
    key: str | None = None
    run: int = 0
    """The run that emitted it; 0: it came from outside."""
    ordinal: int = 0
    """Which call of that run, from 1."""
    trace: int = 0
    """Sequence of the outside event that began it all; 0: this one."""
    hops: int = 0
    """Runs between that outside event and this one."""
    offer: int = 0
    """Sequence of the `EventOffered` that this pays; 0: it pays none."""


class TimerFired(Struct, array_like=True, frozen=True, gc=False, tag=2):
    """A timer was due."""

    at_ns: int
    due_ns: int
    """The time that it was scheduled for; at most `at_ns`."""
    owner: str
    """The rule whose timer it is; empty: a run's."""
    slot: int
    """For a rule which of its stages, for a run its id."""
    key: Any = None
    """For a rule the key of the automaton, for a run the ordinal of its sleep (0: retry)."""
    missed: int = 0
    """Due times of a repeating timer that fell into a downtime and lead to no firing."""


class RunCompleted(Struct, array_like=True, frozen=True, gc=False, tag=3):
    """A run returned."""

    at_ns: int
    run: int
    result: Raw


class RunFailed(Struct, array_like=True, frozen=True, gc=False, tag=4):
    """A run was given up.  Of a run without a parent: a dead letter."""

    at_ns: int
    run: int
    attempt: int
    error: str
    """``Type: message`` of the last attempt."""
    traceback: str


class RunCancelled(Struct, array_like=True, frozen=True, gc=False, tag=5):
    """A run that was to be cancelled has ended."""

    at_ns: int
    run: int
    reason: str


class AttemptFailed(Struct, array_like=True, frozen=True, gc=False, tag=6):
    """An attempt failed and there will be another one."""

    at_ns: int
    run: int
    attempt: int
    error: str
    traceback: str
    retry_at_ns: int
    """When the next attempt is due, in log time."""
    forget: list[int]
    """Ordinals of the steps that the next attempt executes again."""


class StepRequested(Struct, array_like=True, frozen=True, gc=False, tag=7):
    """A run asked for a task.  Its sequence is the id of the run that this makes."""

    at_ns: int
    parent: int
    ordinal: int
    kind: StepKind
    task: str
    args: Raw
    """The bound arguments by name, as msgpack in deterministic order."""


class SleepRequested(Struct, array_like=True, frozen=True, gc=False, tag=8):
    """A run asked to sleep until `due_ns`."""

    at_ns: int
    run: int
    ordinal: int
    due_ns: int


class CancelRequested(Struct, array_like=True, frozen=True, gc=False, tag=9):
    """Somebody asked for a run to be cancelled."""

    at_ns: int
    run: int
    reason: str


class EngineStarted(Struct, array_like=True, frozen=True, tag=10):
    """An engine opened the log.  From here on these rules are in force."""

    at_ns: int
    version: str
    clock: str
    """``system`` or ``input``: where log time comes from.  The same for the log's life."""
    rules: dict[str, str]
    """Fingerprint by rule."""
    dedupe_window_ns: int = 0
    """How long an id of a source is remembered; 0: not at all."""


class EngineStopped(Struct, array_like=True, frozen=True, tag=11):
    """The engine closed the log in good order."""

    at_ns: int


class SourceOpened(Struct, array_like=True, frozen=True, tag=12):
    """A source was seen for the first time; events name it by its number from here on."""

    at_ns: int
    number: int
    name: str


class RuleDiverged(Struct, array_like=True, frozen=True, tag=13):
    """Recovery derived another decision than was recorded, under the same fingerprint.

    The recorded one holds; the rule starts empty.
    """

    at_ns: int
    rule: str
    sequence: int
    """Sequence of the first record that differs."""
    recorded: str
    derived: str


class ClockStepped(Struct, array_like=True, frozen=True, tag=14):
    """The wall clock moved by over a second against the monotonic one."""

    at_ns: int
    step_ns: int


class EventOffered(Struct, array_like=True, frozen=True, gc=False, tag=15):
    """An event that was put into the log while no engine ran: the next one stores it.

    Nothing but that follows from it.  See `headrace.engine.offers`.
    """

    at_ns: int
    """Log time, which stands still while no engine runs: that of the last record before."""
    offered_at_ns: int
    """The wall clock's time, for people."""
    subject: str
    data: Raw
    source: str = ""
    """By its name: a number is given to it when the event is stored."""
    id: str | None = None
    time_ns: int | None = None
    key: str | None = None


class CursorMoved(Struct, array_like=True, frozen=True, gc=False, tag=16):
    """A source has come further with events that were stored before, under the same ids."""

    at_ns: int
    source: int
    position: int
    """Its cursor now."""


# ---------------------------------------------------------------- decisions


class Details(Struct, array_like=True, frozen=True, gc=False):
    """What a firing says beyond its events; only some patterns say any of it."""

    reason: str | None = None
    """Why it fired, where a pattern has several: such as ``timeout`` or ``clear``."""
    steps: dict[str, list[int]] | None = None
    """Sequences of the events by the name of the step that took them."""
    value: Any = None
    """What an aggregate made of the events: plain data."""
    count: int = 0
    """How many events met the pattern, if that is more than are named; else 0."""
    at_ns: int | None = None
    """The time of the firing in event time, for a rule that goes by that."""


class RuleFired(Struct, array_like=True, frozen=True, gc=False, tag=64):
    """A rule's pattern was met.  Its sequence is the id of the run, if it makes one."""

    rule: str
    key: Any
    events: list[int]
    """Sequences of the events that met it, oldest first."""
    outcome: Outcome
    due_ns: int | None = None
    """For a firing by timer: the time that it was scheduled for."""
    branches: list[int] | None = None
    """For `any_of`: which branches matched, from 0."""
    trace: int = 0
    hops: int = 0
    details: Details | None = None
    task: str = ""
    """The task that it starts; empty: the rule's action."""


class RunReleased(Struct, array_like=True, frozen=True, gc=False, tag=65):
    """A waiting run may start."""

    run: int


class RunReplaced(Struct, array_like=True, frozen=True, gc=False, tag=66):
    """A waiting run will not start, since a newer firing takes its place."""

    run: int


class RunCancelling(Struct, array_like=True, frozen=True, gc=False, tag=67):
    """An active run is being cancelled."""

    run: int
    reason: str


class RuleMismatch(Struct, array_like=True, frozen=True, gc=False, tag=68):
    """An event could not be decoded as the type of a rule.  The event is kept."""

    rule: str
    event: int
    error: str


class RuleError(Struct, array_like=True, frozen=True, gc=False, tag=69):
    """A condition or key function raised (law L4): no match."""

    rule: str
    event: int
    place: str
    """The operator whose function it was: ``where``, ``key`` …"""
    error: str
    """The last line of the traceback."""


class RuleEvicted(Struct, array_like=True, frozen=True, tag=70):
    """A bound of law L6 was met and the oldest entry had to go."""

    rule: str
    key: Any
    what: str
    """``key`` or ``event``."""


class RuleLoop(Struct, array_like=True, frozen=True, tag=71):
    """A firing was not made a run, since its causal chain is too long."""

    rule: str
    key: Any
    events: list[int]
    hops: int


class RuleLate(Struct, array_like=True, frozen=True, gc=False, tag=72):
    """An event came after the watermark of a rule that goes by event time: not for this rule."""

    rule: str
    event: int
    time_ns: int
    """Its event time."""
    watermark_ns: int


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

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_known: Callable[[bytes | Raw], Input | Decision] = msgspec.msgpack.Decoder(
    Input | Decision
).decode
_decode_any = msgspec.msgpack.Decoder().decode
_TAGS: Final = frozenset(
    kind.__struct_config__.tag for kind in KIND_BY_TYPE if kind is not UnknownRecord
)


_FIRED_FIELDS: Final = attrgetter(*RuleFired.__struct_fields__[:8])
_OUTSIDE_FIELDS: Final = EventStored.__struct_fields__[:8]
_CAUSED_FIELDS: Final = attrgetter(*EventStored.__struct_fields__[:12])


def encode(record: Record) -> bytes:
    """Return *record* as msgpack.  Trailing defaults of an event or a firing are left out."""
    if type(record) is EventStored:
        if record.offer:
            return _encode(record)
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
    if type(record) is UnknownRecord:
        return record.raw
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


def text_for_record(text: str, chars_max: int) -> str:
    """Return *text* as a record can hold it: of limited length, and with an encoding.

    The message of an error may hold half a character, as of a file name that is no UTF-8.
    """
    return text[:chars_max].encode(errors="backslashreplace").decode()


def thaw(key: Any) -> Any:
    """Return a key as it was before msgpack made a list of each tuple in it."""
    return tuple(thaw(part) for part in key) if isinstance(key, list) else key


def is_decision(record: Record) -> bool:
    """Say whether *record* belongs to the input before it (else it begins a unit)."""
    if type(record) is UnknownRecord:
        return record.tag >= DECISION_TAG_MIN
    return isinstance(record, DECISION_KINDS)
