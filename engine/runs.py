"""The run table: what the log says about every run that has not ended.

Part of the kernel's state, so it changes by records only.  A run is here from the record
that makes it to the one that ends it; of ended runs a bounded list of summaries stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.fresh import Batch, OpenRuns, ReadFirings, fresh_in, run_of_firing
from headrace.engine.record import RuleFired, RunLaunched, StepRequested
from headrace.engine.run_state import (
    RunState,
    RunStatus,
    Step,
    StepStatus,
    digest_of,
    oldest_needed,
    register_undo,
)
from headrace.engine.run_writing import RunsWriting, Stretch, unpacked_entry
from headrace.engine.subject import matches

RUNS_ENDED_MAX: Final = 1000
"""Summaries of ended runs that are kept; the log has them all."""

FEW_MAX: Final = 64
"""Runs of one rule and key up to which a list is as good as a deque, and smaller."""

Progress = tuple[float, float | None]


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
    progress: Progress | None = None
    """How far its attempt has come, as it said by `Run.progress`: done, and of how much."""


class Ending(Struct, frozen=True):
    """What came of a run, for who waits for it."""

    task: str
    status: RunStatus
    result: Raw | None = None
    error: str | None = None
    blob: bytes | None = None
    """Where the result is, if it is too large for the log."""


_STEP_STATUS: Final[dict[RunStatus, StepStatus]] = {"completed": "done", "cancelled": "cancelled"}


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


def _tell_nobody(run_id: int, ending: Ending) -> None:
    """Do nothing: nobody waits for runs."""


class RunTable:
    """All runs that have not ended, by id, and a little about those that have."""

    def __init__(self) -> None:
        self.active: dict[int, RunState] = {}
        """By id.  What is changed is to be had from `touch`."""
        self.read: ReadFirings | None = None
        """Fetches firings from the log, for runs that a snapshot has as fresh."""
        self.ended: deque[RunView] = deque(maxlen=RUNS_ENDED_MAX)
        self.counts: dict[str, dict[str, int]] = {}
        """How many runs ended how, by task and status."""
        self.retries = 0
        self.versions: dict[str, str] = {}
        """The versions in force, by task."""
        self.dormant: set[int] = set()
        """Which of them wait for a time, a signal or a pattern: nobody can get these through."""
        self.listening: set[int] = set()
        """Those that wait for events of the engine's own, or have done so."""
        self.reaching: set[int] = set()
        """Those that have begun to need older records, so that no snapshot may know of it."""
        self._by_rule: dict[tuple[str, Any], list[int] | deque[int]] = {}
        self._writing: RunsWriting | None = None
        self.watched: set[int] = set()
        """The runs of whose end `tell_end` is told.  The shell's: no part of the state."""
        self.tell_end: Callable[[int, Ending], None] = _tell_nobody

    def touch(self, run_id: int) -> RunState | None:
        """Return a run that has not ended, to be changed; or ``None``."""
        run = self.active.get(run_id)
        if run is not None and self._writing is not None:
            self._writing.save(run)
        return run

    @property
    def known(self) -> Iterable[RunState]:
        """The open runs, but for those that a snapshot had as fresh and nobody has asked for."""
        return dict.values(self.active)

    @property
    def fresh(self) -> dict[int, Batch]:
        """Those, each with what is known of it."""
        return fresh_in(self.active)

    def in_stretches(self) -> Iterator[tuple[Batch | None, list[int]]]:
        """Yield the ids of all, oldest first: of `fresh` ones with that, of others with ``None``.

        There may be changes meanwhile.
        """
        if isinstance(self.active, OpenRuns):
            return self.active.in_stretches()
        return iter([(None, sorted(self.active))])

    def count_crash(self) -> None:
        """Count a death of the process against all that are `fresh`: each may have caused it."""
        if self._writing is None:
            for batch in {id(batch): batch for batch in self.fresh.values()}.values():
                batch.crashes += 1
        else:  # it writes them down as they are now
            for run_id in list(self.fresh):
                run = self.touch(run_id)
                assert run is not None
                run.crashes += 1

    @property
    def pending(self) -> int:
        """How many runs are open and do not wait for a time, a signal or a pattern."""
        return len(self.active) - len(self.dormant)

    def listens(self, subject: str) -> bool:
        """Say whether an open run waits for an event of the engine's own on *subject*."""
        return bool(self.listening) and any(
            matches(pattern, subject)
            for run_id in self.listening
            for step in self.active[run_id].steps.values()
            if step.wait is not None
            for pattern in step.wait.subjects
        )

    def of_rule(self, task: str, key: Any) -> Sequence[int]:
        """Return the ids of the runs of *task* for *key* that firings made, oldest first.

        By task: what a rule starts when something ends does not wait for what it started
        when that began.
        """
        return self._by_rule.get((task, key), ())

    def is_waiting(self, run_id: int) -> bool:
        """Say whether an open run waits for another of its rule and key to end."""
        run = dict.get(self.active, run_id)  # what is fresh does not, and need not be read
        return run is not None and run.status == "waiting"

    def make_from_firing(
        self, run_id: int, fired: RuleFired, *, at_ns: int, missed: int = 0
    ) -> RunState:
        """Add the run that *fired* makes."""
        run = run_of_firing(run_id, fired, at_ns=at_ns, missed=missed)
        self._add(run)
        return run

    def _add(self, run: RunState) -> None:
        self.active[run.id] = run
        if run.rule:
            place = (run.task, run.key)
            ids = self._by_rule.get(place)
            if ids is None:
                self._by_rule[place] = [run.id]
                return
            ids.append(run.id)
            if ids[-2] > run.id:
                ids = self._by_rule[place] = sorted(ids)  # one that was redriven is the oldest
            if len(ids) > FEW_MAX and type(ids) is list:
                # Those that end are near its beginning, and a list would move all others up.
                self._by_rule[place] = deque(ids)

    def oldest_needed(self) -> int | None:
        """Return the oldest record that an open run has begun to need, besides its own firing.

        A snapshot that was begun before does not know of it.
        """
        return min((oldest_needed(self.active[run_id]) for run_id in self.reaching), default=None)

    def held_blobs(self) -> set[bytes]:
        """Return the digests of large results that open runs need though the log may forget them.

        Of those that were redriven: what they did before may be forgotten by then.  The others
        keep the log from that.
        """
        redriven = (run for run in self.known if run.redriven_attempt)
        steps = (step for run in redriven for step in run.steps.values())
        return {step.blob for step in steps if step.blob is not None}

    def make_from_step(
        self, run_id: int, asked: StepRequested, parent: RunState
    ) -> RunState | None:
        """Add the child run that *parent* has asked for; ``None``: that made none."""
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
            trace=parent.trace or parent.id,
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

    def add_step_done(
        self, run_id: int, asked: StepRequested, parent: RunState, result: Raw
    ) -> None:
        """Let what `make_from_step` makes, and `end` ends, have been there."""
        at_ns, args = asked.at_ns, asked.args
        parent.steps[asked.ordinal] = Step(
            "call",
            asked.task,
            digest_of(args),
            run_id,
            "done",
            at_ns,
            result.copy(),
            ended=run_id + 1,
        )
        by_status = self.counts.get(asked.task)
        if by_status is None:
            by_status = self.counts[asked.task] = {}
        by_status["completed"] = by_status.get("completed", 0) + 1
        self.ended.append(
            RunView(
                run_id,
                asked.task,
                "completed",
                1,
                at_ns,
                at_ns,
                key=parent.key,
                parent=parent.id,
                version=self.versions.get(asked.task, ""),
            )
        )

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
        self.reaching.add(run.id)  # dead letters do not keep the log
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
        if self._writing is not None:
            self._writing.save(run)
        if run.steps:
            self._end_children(run, at_ns=at_ns)
        del self.active[run.id]
        if self.dormant:
            self.dormant.discard(run.id)
        if self.listening:
            self.listening.discard(run.id)
        if self.reaching:
            self.reaching.discard(run.id)
        if run.rule:
            self._leave_rule(run)
        run.error = error or run.error
        by_status = self.counts.get(run.task)
        if by_status is None:
            by_status = self.counts[run.task] = {}
        by_status[status] = by_status.get(status, 0) + 1
        self.ended.append(  # `view_of` written out: this is done for each run
            RunView(
                run.id,
                run.task,
                status,
                run.attempt,
                run.created_at_ns,
                at_ns,
                run.rule,
                run.key,
                run.parent,
                run.events,
                run.error,
                run.version,
            )
        )
        if run.id in self.watched:
            self.watched.discard(run.id)
            self.tell_end(run.id, Ending(run.task, status, result, error, blob))
        if run.parent and (parent := self.touch(run.parent)) is not None:
            step = parent.steps.get(run.ordinal)
            if step is not None and step.sequence == run.id:
                step.at_ns = at_ns
                step.ended = sequence
                step.result = result.copy() if result is not None else None
                step.blob = blob
                step.error = error
                step.status = _STEP_STATUS.get(status, "failed")

    def _leave_rule(self, run: RunState) -> None:
        place = (run.task, run.key)
        ids = self._by_rule[place]
        ids.remove(run.id)
        if not ids:
            del self._by_rule[place]

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
                for run in sorted(self.active.values(), key=attrgetter("id"))
            ],
            "ended": list(self.ended),
            "counts": self.counts,
            "retries": self.retries,
            "versions": sorted(self.versions.items()),
        }

    def write_out(self) -> RunsWriting:
        """Begin to write out `active`; the rest is for the caller to keep."""
        assert self._writing is None, "one at a time"
        self._writing = RunsWriting(self.active, self.written)
        return self._writing

    def written(self) -> None:
        """Note that no writing needs to know of changes any more."""
        self._writing = None

    def load(self, entries: list[Raw]) -> None:
        """Take in runs that were written out; `loaded` comes after the last of them."""
        for raw in entries:
            run = unpacked_entry(raw)
            if type(run) is Stretch:
                self._load_fresh(run)
                continue
            assert type(run) is RunState
            self.active[run.id] = run
            if run.rule:
                self._by_rule.setdefault((run.task, run.key), []).append(run.id)
            if not run.steps and run.status != "retrying":
                continue  # it waits for nothing
            if run.is_dormant:
                self.dormant.add(run.id)
            if any(step.wait is not None and step.wait.subjects for step in run.steps.values()):
                self.listening.add(run.id)

    def _load_fresh(self, stretch: Stretch) -> None:
        if not isinstance(self.active, OpenRuns):
            if self.read is None:
                raise ValueError("a snapshot with fresh runs is of use with its log only")
            known, self.active = self.active, OpenRuns(self.read)
            self.active.update(known)
        for ids, batch in stretch.batches():
            self.active.add(ids, batch)
            self._by_rule.setdefault((batch.task, batch.key), []).extend(ids)

    def loaded(self) -> None:
        """Put what was loaded in order."""
        for place, ids in self._by_rule.items():
            self._by_rule[place] = sorted(ids) if len(ids) <= FEW_MAX else deque(sorted(ids))
