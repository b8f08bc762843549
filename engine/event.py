"""`Event` and `Firing`: what conditions, rules and runs get to see of the log."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import Struct

T_co = TypeVar("T_co", covariant=True)


class Event(Struct, Generic[T_co], frozen=True):
    """A stored fact.  Never changed, never deleted one by one."""

    sequence: int
    """1-based, gapless place in the log."""
    subject: str
    data: T_co
    """The payload, decoded as the type that the rule's pattern names."""
    recorded_at_ns: int
    """Log time, in nanoseconds since the epoch: what windows and timers go by."""
    event_time_ns: int | None = None
    """The event's own time, if its producer gave one."""
    id: str | None = None
    key: str | None = None
    source: str = ""
    """Name of the source that brought it; empty: emitted by the program itself."""
    run: int = 0
    """The run that emitted it; 0: it came from outside."""
    value: Any = None
    """Behind `.aggregate`: what that made of the events, of which this is the newest."""
    headers: dict[str, str] | None = None
    """What came with it beside its data, such as the context of a trace.  Never empty."""

    @property
    def tokens(self) -> list[str]:
        """The parts of the subject: ``a.b.c`` → ``["a", "b", "c"]``."""
        return self.subject.split(".")

    @property
    def time(self) -> float:
        """Log time in seconds since the epoch."""
        return self.recorded_at_ns / 1_000_000_000

    @property
    def t(self) -> float:
        """The same as `time`, in short."""
        return self.recorded_at_ns / 1_000_000_000


class Awaited(Generic[T_co]):
    """What a run can wait for: a pattern over events whose data is of this type.

    The engine does not know patterns; `headrace.triggers.pattern.Pattern` is one.
    """

    __slots__ = ()


class Firing(Struct, Generic[T_co], frozen=True):
    """The recorded moment at which a rule's pattern was met."""

    sequence: int
    """Sequence of the firing itself: also the id of the run that it started."""
    rule: str
    key: Any
    sequences: list[int]
    """Sequences of the events that met the pattern, oldest first."""
    events: list[Event[T_co]]
    """The events themselves, in the same order."""
    at_ns: int
    """Log time of the firing; for a firing by timer the time that it was due.

    For a rule that goes by event time: its event time."""
    due_ns: int | None = None
    """For a firing by timer: the time that it was scheduled for."""
    branches: list[int] | None = None
    """For `any_of`: which branches matched, from 0."""
    lateness_ns: int = 0
    """How long after `due_ns` it was recorded, e.g. because nothing ran at that time."""
    missed: int = 0
    """Further firings of a repeating timer that fell into the same downtime."""
    reason: str | None = None
    """Why it fired, where a pattern has several: ``timeout``, ``clear``, ``leading`` …"""
    steps: dict[str, list[Event[Any]]] = {}
    """For `sequence` and `all_of`: the events by the name of the step that took them."""
    value: Any = None
    """What `.aggregate` made of the events: plain data."""
    count: int = 0
    """How many events met the pattern; more than `events` if those were too many to name."""

    @property
    def at(self) -> float:
        """Log time of the firing in seconds since the epoch."""
        return self.at_ns / 1_000_000_000

    @property
    def scheduled_at(self) -> float | None:
        """For a firing by timer: the time that it was scheduled for, in seconds."""
        return None if self.due_ns is None else self.due_ns / 1_000_000_000

    @property
    def lateness(self) -> float:
        """How long after `scheduled_at` it was recorded, in seconds."""
        return self.lateness_ns / 1_000_000_000
