"""`RunState`: what the log says about one run that has not ended, and about its calls."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from headrace.engine.record import Details, Met, StepKind, StepRequested

if TYPE_CHECKING:
    import hashlib

RETRY: Final = 0
"""The key of a run's retry timer; that of a call that waits is its ordinal, from 1."""
ASLEEP: Final = ("sleep", "receive")
"""The calls that records end, whether the run's code is there or not."""

RunStatus = Literal[
    "waiting",
    "active",
    "retrying",
    "compensating",
    "completed",
    "failed",
    "dead",
    "cancelled",
]
StepStatus = Literal["pending", "done", "failed", "cancelled"]


class Waiting(Struct, gc=False):
    """What ends a wait for a signal or for a pattern, besides the signal and the events."""

    due_ns: int | None
    """When it ends in any case."""
    since: int
    """A pattern is met by events after this sequence."""
    until: int = 0
    """Sequence of the timer by which its time has run out; 0: it has not."""
    subjects: list[str] = []
    """Those of the engine's own events that may meet its pattern."""


class Step(Struct, gc=False):
    """One call of a run, by its ordinal: what was asked and what came of it."""

    kind: Literal["call", "spawn", "launch", "sleep", "emit", "receive", "wait", "compensate"]
    name: str
    """The task, an emit's subject, a receive's signal, or a wait's pattern as text."""
    digest: bytes
    """Of what a task is given, or of an emit's data; for a wait the fingerprint of its pattern;
    empty for a sleep and for a receive."""
    sequence: int
    """Of the record that asked; for a task that is the id of the child run."""
    status: StepStatus
    at_ns: int
    """Log time of its last change."""
    result: Raw | None = None
    error: str | None = None
    blob: bytes | None = None
    """Digest of the file that has the result, if it is too large to be here."""
    ended: int = 0
    """Sequence of the record that ended the child run; 0: it has not, or an old log."""
    wait: Waiting | None = None
    """Of a wait that is open: what ends it."""
    asked: int = 0
    """Of a launch whose key another run held: sequence of the record that asked."""


class Undo(Struct, array_like=True, frozen=True, gc=False):
    """A task that undoes what a run has done, if that fails."""

    task: str
    args: bytes
    is_forgotten: bool = False
    """The attempt that registered it has failed, and the next may not come that way; it is
    executed nevertheless, unless it is registered again."""


class Failing(Struct, array_like=True, frozen=True, gc=False):
    """How a run ends once all is undone: what `RunFailing` says."""

    error: str
    traceback: str
    is_cancelled: bool


class RunState(Struct, gc=False):
    """A run that has not ended."""

    id: int
    """Sequence of the record that made it."""
    task: str
    """The task, or for a run that a firing made the rule."""
    status: RunStatus
    created_at_ns: int
    attempt_at_ns: int
    """Log time at which the present attempt began."""
    rule: str = ""
    key: Any = None
    events: list[int] = []
    due_ns: int | None = None
    branches: list[int] | None = None
    missed: int = 0
    args: Raw | None = None
    parent: int = 0
    ordinal: int = 0
    kind: StepKind | None = None
    trace: int = 0
    hops: int = 0
    attempt: int = 1
    error: str | None = None
    """Of the last failed attempt."""
    retry_at_ns: int | None = None
    cancelling: str | None = None
    """Why it is being cancelled, if it is."""
    steps: dict[int, Step] = {}
    details: Details | None = None
    """What its firing says beyond its events."""
    launch_key: str | None = None
    """The key that it holds, if it was launched under one."""
    window_ns: int = 0
    """How long it holds that after its end."""
    redriven_attempt: int = 0
    """Attempts before the last redrive: retries are counted from there."""
    redriven_at_ns: int = 0
    crashes: int = 0
    """How often the process died while it may have been executing; see `Crashes`."""
    signals: dict[str, list[tuple[int, bytes]]] | None = None
    """Signals that it has not received yet, by name: ``(sequence, data)``, oldest first."""

    version: str = ""
    """Of the task, in force when the run was made; empty: it had none."""
    patches: dict[str, bool] = {}
    """Whether it takes the way of a patch, by name, once that was asked for."""
    undos: dict[int, Undo] = {}
    """What `Run.compensate` has registered, by the sequence of that; the step that executes
    it has that number, negative, as its ordinal."""
    failing: Failing | None = None
    """What it will end with, while what it registered to undo is executed."""
    began: int = 0
    """Sequence of the redrive that let it begin anew; 0: it began with its own record."""

    @property
    def is_startable(self) -> bool:
        """Whether something of it is to be executed now: its code, or what undoes it."""
        return self.status == "active" or self.status == "compensating"

    @property
    def to_undo(self) -> list[int]:
        """What is still to be undone, by the sequence of what registered it, newest first."""
        return [
            number
            for number in sorted(self.undos, reverse=True)
            if (step := self.steps.get(-number)) is None or step.status == "pending"
        ]

    @property
    def waits_for_time(self) -> bool:
        """Whether a timer of its own will make it go on: a retry, a sleep or a time-out."""
        return self.status == "retrying" or any(
            step.kind == "sleep" if step.wait is None else step.wait.due_ns is not None
            for step in self.steps.values()
            if step.status == "pending" and not (step.wait is not None and step.wait.until)
        )

    @property
    def is_dormant(self) -> bool:
        """Whether it waits for a time, a signal or a pattern: nobody can get it through."""
        return self.status == "retrying" or any(
            step.status == "pending" and (step.kind == "sleep" or step.wait is not None)
            for step in self.steps.values()
        )

    @property
    def is_asleep(self) -> bool:
        """Whether its code is at a wait that a record ends: it need not be invoked before."""
        return bool(self.steps) and any(
            step.status == "pending" and step.kind in ASLEEP for step in self.steps.values()
        )


_decode_met = msgspec.msgpack.Decoder(Met).decode


def met_of(step: Step) -> Met | None:
    """Return how the pattern was met that *step* waited for; ``None``: not yet, or in vain."""
    if step.kind != "wait" or step.result is None:
        return None
    return _decode_met(step.result)


def events_of(run: RunState) -> set[int]:
    """Return the events that *run* is given again, whenever its code is invoked."""
    met = (met_of(step) for step in run.steps.values())
    return {*run.events, *(number for one in met if one is not None for number in one.events)}


def oldest_needed(run: RunState) -> int:
    """Return the oldest record that is read again when the code of *run* is invoked.

    For an open wait from the record on after which it sees all: its pattern begins at that
    one's time.
    """
    since = (max(1, step.wait.since) for step in run.steps.values() if step.wait is not None)
    return min([run.id, *events_of(run), *since])


def digest_of(raw: bytes | Raw) -> bytes:
    """Return 8 bytes that stand for *raw* when a resumed run asks again."""
    return _hash_function()(raw, digest_size=8).digest()


@cache
def _hash_function() -> type[hashlib.blake2b]:
    from hashlib import blake2b  # a tenth of what importing the engine costs

    return blake2b


def with_key(args: bytes | Raw, key: str | None) -> bytes | Raw:
    """Return what is compared of a launch: its arguments, and the key if it has one."""
    return args if key is None else bytes(args) + key.encode()


def register_undo(run: RunState, sequence: int, asked: StepRequested) -> None:
    """Note what *run* wants to be executed should it fail."""
    args, digest = bytes(asked.args), digest_of(asked.args)
    for number, undo in run.undos.items():
        if undo.is_forgotten and (undo.task, undo.args) == (asked.task, args):
            del run.undos[number]
            break
    run.undos[sequence] = Undo(asked.task, args)
    run.steps[asked.ordinal] = Step("compensate", asked.task, digest, sequence, "done", asked.at_ns)


def forget_undos(run: RunState, ordinals: list[int]) -> None:
    """Note that the next attempt may not register the undos at *ordinals*."""
    for ordinal in ordinals:
        step = run.steps.get(ordinal)
        if step is not None and step.kind == "compensate":
            undo = run.undos[step.sequence]
            run.undos[step.sequence] = msgspec.structs.replace(undo, is_forgotten=True)
