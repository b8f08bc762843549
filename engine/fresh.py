"""`OpenRuns`: the runs that have not ended, of which those that are fresh need no more than a line.

A run is fresh as long as it is just what its firing made of it.  The log has all of that, so a
snapshot only says which runs are, and a start reads the firing of one when somebody asks for the
run: a million that wait for their turn take up a fifth of the memory, and are there at once.

Where the log is damaged by then, such a run is *unread*: what is known without its firing, and
why that cannot be had.  It can only end, and all others go on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Final, TypeVar, overload

from msgspec import Struct

from headrace.engine.errors import LogCorrupt, LogMismatch, LogUnusable
from headrace.engine.record import RuleFired, RunFailed, text_for_record, thaw
from headrace.engine.run_state import RunState

D = TypeVar("D")
AT_ONCE: Final = 1000
"""Firings that are read together, where all are."""
WHY_CHARS_MAX: Final = 1000
MEND: Final = "restore a copy, or `headrace log salvage` copies what is intact"

ReadFirings = Callable[[list[int]], list[RuleFired]]


class Batch(Struct, gc=False):
    """What fresh runs have in common that were made at the same time."""

    task: str
    rule: str
    key: Any
    crashes: int
    at_ns: int
    oldest: int
    """The oldest record that one of them needs."""
    version: str = ""
    """Of the task: what a firing makes belongs to none."""


class OpenRuns(dict[int, RunState]):
    """The open runs by id.  Where there are none that came as fresh, a plain dict does as well.

    Who asks for one that is fresh gets a `RunState` that is kept.  Who goes through all gets such
    that are not; with many that takes as long as to read so much of the log.
    """

    def __init__(self, read: ReadFirings) -> None:
        """Begin without any; *read* fetches firings from the log."""
        super().__init__()
        self.fresh: dict[int, Batch] = {}
        self._read = read

    def add(self, ids: list[int], batch: Batch) -> None:
        """Add runs that are fresh."""
        self.fresh.update(dict.fromkeys(ids, batch))

    def __missing__(self, run_id: int) -> RunState:
        """Read what made the run.

        Raises:
            OSError, LogError: that cannot be read now, which says nothing about the record.
        """
        batch = self.fresh[run_id]
        (run,) = self._made([run_id], batch)
        self[run_id] = run
        del self.fresh[run_id]
        return run

    def _made(self, ids: list[int], batch: Batch) -> Iterator[RunState]:
        firings: list[RuleFired] | None = None
        try:
            firings = self._read(ids)
        except (LogCorrupt, LogMismatch, LogUnusable, OSError) as error:
            if not _is_damage(error):
                raise
            if len(ids) == 1:
                yield unread_run(ids[0], batch, error)
                return
        if firings is None:  # which of them it is: the others are whole
            for run_id in ids:
                yield from self._made([run_id], batch)
            return
        for run_id, fired in zip(ids, firings, strict=True):
            run = run_of_firing(run_id, fired, at_ns=batch.at_ns)
            run.status = "active"  # also if it had to wait for its turn
            run.crashes = batch.crashes
            yield run

    @overload
    def get(self, run_id: int, default: None = None, /) -> RunState | None: ...
    @overload
    def get(self, run_id: int, default: RunState, /) -> RunState: ...
    @overload
    def get(self, run_id: int, default: D, /) -> RunState | D: ...
    def get(self, run_id: int, default: Any = None, /) -> Any:
        """Return the run, as ``[]`` does."""
        return self[run_id] if run_id in self.fresh else super().get(run_id, default)

    def __contains__(self, run_id: object) -> bool:
        """Say whether the run is open."""
        return super().__contains__(run_id) or run_id in self.fresh

    def __len__(self) -> int:
        """Return how many are open."""
        return super().__len__() + len(self.fresh)

    def __iter__(self) -> Iterator[int]:
        """Yield the ids of all, oldest first."""
        return iter(sorted([*super().__iter__(), *self.fresh]))

    def in_stretches(self) -> Iterator[tuple[Batch | None, list[int]]]:
        """Yield all ids, oldest first: of fresh ones with their batch, of others with ``None``."""
        for batch, ids in groupby(self, self.fresh.get):
            yield batch, list(ids)

    # The views of a dict know nothing of what is fresh.

    def keys(self) -> Any:
        """Yield the ids of all, oldest first."""
        return iter(self)

    def values(self) -> Any:
        """Yield all, oldest first."""
        for batch, ids in self.in_stretches():
            if batch is None:
                yield from (self[run_id] for run_id in ids)
            else:
                for first in range(0, len(ids), AT_ONCE):
                    yield from self._made(ids[first : first + AT_ONCE], batch)

    def items(self) -> Any:
        """Yield all with their ids, oldest first."""
        return ((run.id, run) for run in self.values())


def fresh_in(runs: dict[int, RunState]) -> dict[int, Batch]:
    """Return those of *runs* that came as fresh and that nobody has asked for."""
    return runs.fresh if isinstance(runs, OpenRuns) else {}


def run_of_firing(run_id: int, fired: RuleFired, *, at_ns: int, missed: int = 0) -> RunState:
    """Return the run that *fired*, which has that sequence, makes at *at_ns*."""
    return RunState(
        run_id,
        fired.task or fired.rule,
        "waiting" if fired.outcome == "waiting" else "active",
        at_ns,
        at_ns,
        fired.rule,
        thaw(fired.key),
        fired.events,
        fired.due_ns,
        fired.branches,
        missed,
        trace=fired.trace,
        hops=fired.hops,
        details=fired.details,
    )


def _is_damage(error: Exception) -> bool:
    """Say whether *error* is about what is stored: a disk that is asked again says the same."""
    cause = error.__cause__ if isinstance(error, LogUnusable) else error
    return not isinstance(cause, OSError) or cause.errno == errno.EIO


def unread_run(run_id: int, batch: Batch, error: Exception) -> RunState:
    """Return what is known of a run of *batch* whose firing cannot be had because of *error*."""
    what = f"run {run_id}: expected at {run_id} in the log the firing that made it, found"
    found = str(error)
    if isinstance(error, LogUnusable | OSError):
        found += f"; {MEND}"
    why = text_for_record(f"{type(error).__name__}: {what} {found}", WHY_CHARS_MAX)
    run = RunState(run_id, batch.task, "active", batch.at_ns, batch.at_ns, batch.rule, batch.key)
    run.attempt, run.crashes, run.error = 0, batch.crashes, why
    return run


def is_unread(run: RunState) -> bool:
    """Say whether what made *run* could not be read, so that it has no first attempt."""
    return not run.attempt


def to_fail(runs: dict[int, RunState], ended: RunFailed) -> RunState | None:
    """Return the run that has *ended*, unread if it had no attempt: in a mended log, too."""
    run = runs.get(ended.run)
    if run is not None and not ended.attempt:
        run.attempt, run.trace, run.hops, run.missed = 0, 0, 0, 0
        run.events, run.due_ns, run.branches, run.details = [], None, None, None
    return run


def is_fresh(run: RunState) -> bool:
    """Say whether *run*, whose code may execute, is what `run_of_firing` makes, but for crashes."""
    return (
        run.rule != ""
        and run.status == "active"
        and run.created_at_ns == run.attempt_at_ns
        and run.attempt == 1
        and run.kind is None
        and run.cancelling is None
        and run.failing is None
        and run.error is None
        and run.signals is None
        and not (run.steps or run.undos or run.patches or run.missed)
        and not (run.redriven_attempt or run.began)
    )
