"""The records that are inputs: facts that come from outside the kernel, tags 1 to 63.

Tags are never reused and fields are only ever appended: see `headrace.engine.record`.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Raw, Struct

from headrace.engine.decisions import Details

StepKind = Literal["call", "spawn", "launch", "compensate"]
CircuitMove = Literal["open", "closed"]
WaitKind = Literal["receive", "wait"]


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
    headers: dict[str, str] | None = None
    """What came with it beside its data, such as the context of a trace.  Never empty."""


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
    blob: bytes | None = None
    """Digest of the file that has the result, if it is too large for a record; see
    `headrace.engine.log.blobs`.  `result` says nothing then."""


class RunFailed(Struct, array_like=True, frozen=True, gc=False, tag=4):
    """A run was given up.  Of a run without a parent: a dead letter."""

    at_ns: int
    run: int
    attempt: int
    error: str
    """``Type: message`` of the last attempt."""
    traceback: str
    forget: list[int] | None = None
    """For a dead letter: ordinals of the steps that a redrive executes again; ``None``: of
    a log from before that was recorded."""


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
    warm: dict[str, int] = {}
    """Of the rules that are new or changed, those that do not begin empty, but as if they had
    been there from a sequence on."""


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
    headers: dict[str, str] | None = None
    """As of `EventStored`."""


class CursorMoved(Struct, array_like=True, frozen=True, gc=False, tag=16):
    """A source has come further with events that were stored before, under the same ids."""

    at_ns: int
    source: int
    position: int
    """Its cursor now."""


class RulesListed(Struct, array_like=True, frozen=True, tag=17):
    """A part of the rules of the `EngineStarted` that comes next, if they are too many for it."""

    at_ns: int
    rules: dict[str, str]
    """Fingerprint by rule."""
    warm: dict[str, int] = {}
    is_first: bool = False
    """Whether what was listed before is of a start that did not come to its end."""


class RuleChanged(Struct, array_like=True, frozen=True, tag=18):
    """A rule was added, replaced or removed while the engine ran."""

    at_ns: int
    rule: str
    fingerprint: str | None
    """``None``: it was removed."""
    warm: int = 0
    """The sequence from which on it is as if it had been there; 0: it begins empty."""
    cause: str = ""
    """Who did it: such as a file of rules."""


class RulePaused(Struct, array_like=True, frozen=True, tag=19):
    """A rule was paused, or resumed: it goes on looking at events, but starts no runs."""

    at_ns: int
    rule: str
    paused: bool
    reason: str = ""


class AlarmAcknowledged(Struct, array_like=True, frozen=True, tag=20):
    """Somebody said that they know of an alarm that stands."""

    at_ns: int
    rule: str
    key: Any
    by: str
    note: str = ""


class HistoryBegan(Struct, array_like=True, frozen=True, tag=21):
    """From here on events are from before the engine took part: no firing starts a run."""

    at_ns: int
    source: str


class HistoryEnded(Struct, array_like=True, frozen=True, tag=22):
    """From here on events are live."""

    at_ns: int


class PatchMarked(Struct, array_like=True, frozen=True, gc=False, tag=26):
    """A run asked whether it takes the way of a patch; the answer stays."""

    at_ns: int
    run: int
    name: str
    is_patched: bool
    """False: it had passed the place before there was the patch."""


class RunFailing(Struct, array_like=True, frozen=True, gc=False, tag=27):
    """A run will end without success; what it registered to undo is executed before that."""

    at_ns: int
    run: int
    attempt: int
    error: str
    """``Type: message`` of the last attempt; of one that is cancelled, the reason."""
    traceback: str = ""
    is_cancelled: bool = False


class RunLaunched(Struct, array_like=True, frozen=True, gc=False, tag=28):
    """Somebody asked for an independent run.  Its sequence is the id of the run, if it makes one.

    It makes none if there is a run that holds its key.
    """

    at_ns: int
    task: str
    args: Raw
    """As of `StepRequested`."""
    key: str | None = None
    """At most one run of the task holds it: while it is open, and `window_ns` after its end."""
    window_ns: int = 0
    run: int = 0
    """The run that asked; 0: it came from outside."""
    ordinal: int = 0
    """Which call of that run, from 1."""
    headers: dict[str, str] | None = None
    """As of `EventStored`."""


class BreakerMoved(Struct, array_like=True, frozen=True, tag=30):
    """The circuit of a task was opened or closed; a timer half-opens one that is open."""

    at_ns: int
    task: str
    state: CircuitMove
    failures: int = 0
    """Failed attempts that opened it."""
    until_ns: int = 0
    """Log time until which no attempt begins."""


class CrashesCounted(Struct, array_like=True, frozen=True, tag=31):
    """The process has died: each run whose code may have been executing is counted.

    Or, with `trial`: the code of a run that was counted before begins now, alone among such;
    -1: the code of that run waits for others.
    """

    at_ns: int
    trial: int = 0


class RunRedriven(Struct, array_like=True, frozen=True, tag=29):
    """A run that was given up goes on, with another attempt under its old id."""

    at_ns: int
    run: int
    from_start: bool = False
    """Whether all its steps are forgotten; else only what its last failure made of it."""
    made: bytes | None = None
    """The run as its making record says, if the state did not have it any more."""


class TasksListed(Struct, array_like=True, frozen=True, tag=32):
    """From here on runs of these tasks are of these versions; all others of none."""

    at_ns: int
    versions: dict[str, str]
    """By task."""


class Met(Struct, array_like=True, frozen=True, gc=False):
    """How the pattern was met that a run waited for."""

    key: Any
    events: list[int]
    """Sequences of the events that met it, oldest first."""
    due_ns: int | None = None
    """If a timer of the pattern met it: the time that it was scheduled for."""
    branches: list[int] | None = None
    details: Details | None = None


class WaitRequested(Struct, array_like=True, frozen=True, gc=False, tag=23):
    """A run asked to go on with a signal, or when a pattern is met."""

    at_ns: int
    run: int
    ordinal: int
    kind: WaitKind
    name: str
    """The signal's, or the pattern as text."""
    due_ns: int | None = None
    """When it goes on without; ``None``: never."""
    since: int | None = None
    """For a pattern: it is met by events after this sequence; ``None``: after this record."""
    digest: bytes = b""
    """Stands for the pattern when a resumed run asks again."""
    subjects: list[str] = []
    """Those of the engine's own events that may meet it: they are stored while it is open."""


class WaitEnded(Struct, array_like=True, frozen=True, gc=False, tag=24):
    """A run's wait for a pattern is over.  (That for a signal ends with the signal.)"""

    at_ns: int
    run: int
    ordinal: int
    met: Met | None = None
    """``None``: its time has run out."""
    error: str | None = None
    """Why it was met and that cannot be recorded."""


class SignalSent(Struct, array_like=True, frozen=True, gc=False, tag=25):
    """Somebody sent a signal to an open run."""

    at_ns: int
    run: int
    name: str
    data: Raw
