"""The run table: what the log says about every run that has not ended.

Part of the kernel's state, so it changes by records only.  A run is here from the record
that makes it to the one that ends it; of ended runs a bounded list of summaries stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from headrace.engine.record import Details, RuleFired, RunLaunched, StepKind, StepRequested, thaw
from headrace.engine.table import ENCODE

RUNS_ENDED_MAX: Final = 1000
"""Summaries of ended runs that are kept; the log has them all."""

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


class Step(Struct, gc=False):
    """One call of a run, by its ordinal: what was asked and what came of it."""

    kind: Literal["call", "spawn", "launch", "sleep", "emit", "receive", "wait", "compensate"]
    name: str
    """The task, or for an emit the subject."""
    digest: bytes
    """Of the arguments (call, spawn, launch) or of the data (emit); empty for a sleep."""
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


class RunView(Struct, frozen=True, gc=False):
    """A run as people see it."""

    id: int
    task: str
    status: RunStatus
    attempt: int
    created_at_ns: int
    ended_at_ns: int | None = None
    rule: str = ""
    key: Any = None
    parent: int = 0
    events: list[int] = []
    error: str | None = None
    version: str = ""


class Ending(Struct, frozen=True):
    """What came of a run, for who waits for it."""

    task: str
    status: RunStatus
    result: Raw | None = None
    error: str | None = None
    blob: bytes | None = None
    """Where the result is, if it is too large for the log."""


def digest_of(raw: bytes | Raw) -> bytes:
    """Return 8 bytes that stand for *raw* when a resumed run asks again."""
    from hashlib import blake2b  # a tenth of what importing the engine costs

    return blake2b(raw, digest_size=8).digest()


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
    run.steps[asked.ordinal] = Step(
        "compensate", asked.task, digest, sequence, "done", asked.at_ns
    )


def forget_undos(run: RunState, ordinals: list[int]) -> None:
    """Note that the next attempt may not register the undos at *ordinals*."""
    for ordinal in ordinals:
        step = run.steps.get(ordinal)
        if step is not None and step.kind == "compensate":
            undo = run.undos[step.sequence]
            run.undos[step.sequence] = msgspec.structs.replace(undo, is_forgotten=True)


def view_of(
    run: RunState, *, status: RunStatus | None = None, ended_at_ns: int | None = None
) -> RunView:
    """Return *run* as people see it."""
    return RunView(
        run.id,
        run.task,
        status or run.status,
        run.attempt,
        run.created_at_ns,
        ended_at_ns,
        run.rule,
        run.key,
        run.parent,
        run.events,
        run.error,
        run.version,
    )


class RunTable:
    """All runs that have not ended, by id, and a little about those that have."""

    def __init__(self) -> None:
        self.active: dict[int, RunState] = {}
        """By id, oldest first.  What is changed is to be had from `touch`."""
        self.ended: deque[RunView] = deque(maxlen=RUNS_ENDED_MAX)
        self.counts: dict[str, dict[str, int]] = {}
        """How many runs ended how, by task and status."""
        self.retries = 0
        self.versions: dict[str, str] = {}
        """The versions in force, by task."""
        self.dormant: set[int] = set()
        """Which of them wait for a time, and so are none that need to be got through."""
        self._by_rule: dict[tuple[str, Any], list[int]] = {}
        self._writing: RunsWriting | None = None
        self.watched: dict[int, Callable[[Ending], None]] = {}
        """Whom to tell of the end of which run.  The shell's: no part of the state."""

    def touch(self, run_id: int) -> RunState | None:
        """Return a run that has not ended, to be changed; or ``None``."""
        run = self.active.get(run_id)
        if run is not None and self._writing is not None:
            self._writing.save(run)
        return run

    @property
    def pending(self) -> int:
        """How many runs are open and do not wait for a time."""
        return len(self.active) - len(self.dormant)

    def of_rule(self, task: str, key: Any) -> list[int]:
        """Return the ids of the runs of *task* for *key* that firings made, oldest first.

        By task: what a rule starts when something ends does not wait for what it started
        when that began.
        """
        return self._by_rule.get((task, key), [])

    def make_from_firing(
        self, run_id: int, fired: RuleFired, *, at_ns: int, missed: int = 0
    ) -> RunState:
        """Add the run that *fired* makes."""
        run = RunState(
            run_id,
            fired.task or fired.rule,
            "waiting" if fired.outcome == "waiting" else "active",
            at_ns,
            at_ns,
            fired.rule,
            fired.key,
            fired.events,
            fired.due_ns,
            fired.branches,
            missed,
            trace=fired.trace,
            hops=fired.hops,
            details=fired.details,
        )
        self._add(run)
        return run

    def _add(self, run: RunState) -> None:
        self.active[run.id] = run
        if run.rule:
            ids = self._by_rule.setdefault((run.task, run.key), [])
            ids.append(run.id)
            if len(ids) > 1 and ids[-2] > run.id:
                ids.sort()  # one that was redriven is the oldest again

    def make_from_step(self, run_id: int, asked: StepRequested) -> RunState | None:
        """Add the child run that *asked* makes, or return ``None`` if the parent has ended."""
        parent = self.touch(asked.parent)
        if parent is None:
            return None
        if asked.kind == "compensate":
            register_undo(parent, run_id, asked)
            return None
        launched = asked.kind == "launch"
        args = asked.args.copy()
        run = RunState(
            run_id,
            asked.task,
            "active",
            asked.at_ns,
            asked.at_ns,
            key=parent.key,
            args=args,
            parent=0 if launched else parent.id,
            ordinal=asked.ordinal,
            kind=asked.kind,
            trace=parent.trace,
            hops=parent.hops + (1 if launched else 0),
            version=self.versions.get(asked.task, ""),
        )
        self._add(run)
        parent.steps[asked.ordinal] = Step(
            asked.kind,
            asked.task,
            digest_of(args),
            run_id,
            "done" if launched else "pending",
            asked.at_ns,
        )
        return run

    def make_from_launch(self, run_id: int, asked: RunLaunched) -> RunState:
        """Add the independent run that *asked* makes."""
        parent = self.active.get(asked.run) if asked.run else None
        run = RunState(
            run_id,
            asked.task,
            "active",
            asked.at_ns,
            asked.at_ns,
            key=None if parent is None else parent.key,
            args=asked.args.copy(),
            ordinal=asked.ordinal,
            kind="launch",
            trace=0 if parent is None else parent.trace or parent.id,
            hops=0 if parent is None else parent.hops + 1,
            launch_key=asked.key,
            window_ns=asked.window_ns,
            version=self.versions.get(asked.task, ""),
        )
        self._add(run)
        return run

    def redrive(self, run: RunState, *, at_ns: int) -> None:
        """Add *run*, which was given up, to those that are open, with another attempt."""
        run.status = "active"
        run.redriven_attempt = run.attempt
        run.redriven_at_ns = run.attempt_at_ns = at_ns
        run.attempt += 1
        run.cancelling = None
        run.failing = None
        run.undos = {}
        run.crashes = 0
        self._add(run)
        self.ended = deque((v for v in self.ended if v.id != run.id), maxlen=RUNS_ENDED_MAX)

    def end(
        self,
        run: RunState,
        status: RunStatus,
        *,
        at_ns: int,
        result: Raw | None = None,
        error: str | None = None,
        blob: bytes | None = None,
        sequence: int = 0,
    ) -> None:
        """Remove *run*, tell its parent, and count it.  Children that are left go with it."""
        self.touch(run.id)
        if run.steps:
            self._end_children(run, at_ns=at_ns)
        del self.active[run.id]
        self.dormant.discard(run.id)
        if run.rule:
            place = (run.task, run.key)
            ids = self._by_rule[place]
            ids.remove(run.id)
            if not ids:
                del self._by_rule[place]
        run.error = error or run.error
        by_status = self.counts.setdefault(run.task, {})
        by_status[status] = by_status.get(status, 0) + 1
        self.ended.append(view_of(run, status=status, ended_at_ns=at_ns))
        if self.watched and (tell := self.watched.pop(run.id, None)) is not None:
            tell(Ending(run.task, status, result, error, blob))
        parent = self.touch(run.parent) if run.parent else None
        if parent is not None:
            step = parent.steps.get(run.ordinal)
            if step is not None and step.sequence == run.id:
                step.at_ns = at_ns
                step.ended = sequence
                step.result = result.copy() if result is not None else None
                step.blob = blob
                step.error = error
                step.status = (
                    "done"
                    if status == "completed"
                    else ("cancelled" if status == "cancelled" else "failed")
                )

    def _end_children(self, run: RunState, *, at_ns: int) -> None:
        """End what a run that asked for less than before has left behind."""
        for step in run.steps.values():
            child = self.active.get(step.sequence)
            if child is not None and child.parent == run.id:
                self.end(child, "cancelled", at_ns=at_ns, error="its parent ended")

    def dump(self) -> dict[str, Any]:
        """Return the whole state as data that msgspec encodes."""
        return {
            # Lists of pairs, since only dicts by text have a fixed order as msgpack.
            "active": [
                {
                    **msgspec.structs.asdict(run),
                    "steps": sorted(run.steps.items()),
                    "undos": sorted(run.undos.items()),
                }
                for run in self.active.values()
            ],
            "ended": list(self.ended),
            "counts": self.counts,
            "retries": self.retries,
            "versions": sorted(self.versions.items()),
        }

    def write_out(self) -> RunsWriting:
        """Begin to write out `active`; the rest is for the caller to keep."""
        assert self._writing is None, "one at a time"
        self._writing = RunsWriting(self)
        return self._writing

    def written(self) -> None:
        """Note that no writing needs to know of changes any more."""
        self._writing = None

    def load(self, entries: list[Raw]) -> None:
        """Take in runs that were written out."""
        for raw in entries:
            run = unpacked_run(raw)
            self._add(run)
            if run.is_dormant:
                self.dormant.add(run.id)


_decode_entry = msgspec.msgpack.Decoder(tuple[RunState, bytes | None, dict[int, bytes]]).decode


def unpacked_run(raw: bytes | Raw) -> RunState:
    """Return the run that `packed_run` wrote down."""
    run, args, results = _decode_entry(raw)
    run.key = thaw(run.key)
    run.args = None if args is None else Raw(args)
    for ordinal, result in results.items():
        run.steps[ordinal].result = Raw(result)
    return run


def packed_run(run: RunState) -> Raw:
    """Write *run* down; what is raw in it apart, since a field that may be so does not decode."""
    steps = run.steps
    results = {n: bytes(step.result) for n, step in steps.items() if step.result is not None}
    if results:
        steps = {n: msgspec.structs.replace(step, result=None) for n, step in steps.items()}
    args = None if run.args is None else bytes(run.args)
    if args is not None or results:
        run = msgspec.structs.replace(run, args=None, steps=steps)
    return Raw(ENCODE((run, args, results)))


class RunsWriting:
    """`headrace.engine.table.Writing` of the runs that have not ended."""

    def __init__(self, table: RunTable) -> None:
        self.oldest: int | None = None
        self._table = table
        self._ids = iter(list(table.active))
        self._last = max(table.active, default=0)
        self._saved: dict[int, Raw] = {}

    def save(self, run: RunState) -> None:
        """Encode *run*, for it is about to change."""
        if run.id <= self._last and run.id not in self._saved:
            self._saved[run.id] = packed_run(run)
            self._note(run)

    def _note(self, run: RunState) -> None:
        since = [step.wait.since + 1 for step in run.steps.values() if step.wait is not None]
        oldest = min([run.id, *run.events, *since])
        if self.oldest is None or oldest < self.oldest:
            self.oldest = oldest

    def step(self, count: int) -> list[Any]:
        """See `Writing`."""
        entries: list[Any] = []
        for run_id in self._ids:
            saved = self._saved.pop(run_id, None)
            if saved is None:
                run = self._table.active[run_id]
                self._note(run)
                saved = packed_run(run)
            entries.append(saved)
            if len(entries) >= count:
                break
        return entries

    def stop(self) -> None:
        """See `Writing`."""

    def settle(self, count: int) -> bool:
        """See `Writing`."""
        self._table.written()
        return True
