"""The records that are decisions: what the kernel made of the input before them, tags 64 to 127.

Tags are never reused and fields are only ever appended: see `headrace.engine.record`.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Outcome = Literal["run", "dropped", "waiting", "missed", "paused", "history"]
"""What became of a firing: ``run`` started at once, ``waiting`` for other runs of its rule and
key, ``dropped`` because of them, ``missed`` since it was due too long ago, ``paused`` with its
rule, ``history`` since the event is from before the engine took part."""


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
    alarm: bool = False
    """Whether it stands until a firing with the reason ``clear``."""


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
    """``key``, ``event`` or ``partial``."""
    alarm: bool = False
    """Whether nothing is left that would end the key's alarm."""


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
