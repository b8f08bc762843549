"""`Waits`: the patterns that runs wait for, at work.

A pattern is code, and only its run has it.  So what a wait has seen is no part of the
kernel's state: it is made anew from the log when the run is invoked again.  What met a
pattern is recorded, and from then on only the record counts.

An event goes to the waits right after it was put and before anything else is, and timers of
patterns fire in the order of log time.  So what a wait comes to depends on the log only, and
is the same when the log is read again after a crash.
"""

from __future__ import annotations

import heapq
from typing import Final

from headrace.engine.decider import Watched
from headrace.engine.errors import EventRefused
from headrace.engine.lookback import LookBack
from headrace.engine.record import EventStored, WaitEnded
from headrace.engine.run_state import Step
from headrace.engine.subject_index import SubjectIndex
from headrace.engine.timers import NEVER_NS
from headrace.engine.watching import Storing, Watch

SPARE: Final = 64
"""Entries that say nothing any more, beyond twice as many as there are waits."""


class Waits:
    """All waits for patterns that are open in one life of the kernel."""

    def __init__(self, pipeline: Storing) -> None:
        self._pipeline = pipeline
        self._watches: set[Watch] = set()
        self._index: SubjectIndex[Watch] = SubjectIndex()
        self._look_back = LookBack(pipeline, self._settle)
        self._due: list[tuple[int, int, Watch]] = []
        self._tickets = 0
        self.due_ns = NEVER_NS
        """No timer of a pattern is due before this."""

    def open(
        self, run_id: int, ordinal: int, step: Step, watched: Watched, *, begins_ns: int
    ) -> Watch:
        """Let a wait see what is stored from now on; `catch_up` comes next.

        Its pattern begins at log time *begins_ns* at the earliest.
        """
        watch = Watch(run_id, ordinal, step, watched, begins_ns=begins_ns)
        self._watches.add(watch)
        watched.decider.attach(watch.timers, self._pipeline.kernel.state.sources)
        for subject in dict.fromkeys(watched.subjects):
            self._index.add(subject, watch)
        return watch

    def close(self, watch: Watch) -> None:
        """Let it see nothing more."""
        self._watches.discard(watch)
        if watch.watched.subjects:
            self._index.remove(watch)
        watch.planned_ns = NEVER_NS
        watch.backlog = []

    async def catch_up(self, watch: Watch) -> None:
        """See `LookBack.catch_up`."""
        if watch.position == watch.step.sequence:  # it begins with itself
            watch.activate(watch.step.at_ns)
        await self._look_back.catch_up(watch)

    # ------------------------------------------------------------ what comes

    def feed(self, sequence: int, event: EventStored) -> None:
        """Let the waits see an event that was put just now.

        All of them see it before anything that follows from it is put.
        """
        watches = self._index.lookup(event.subject)
        if not watches:
            return
        concerned: list[Watch] = []
        for watch in watches:
            if watch.last == sequence or not watch.takes:
                continue  # it may match by several of its subjects
            watch.last = sequence
            if watch.is_live:
                watch.feed(sequence, event)
                concerned.append(watch)
            else:
                watch.backlog.append((sequence, event))
        for watch in concerned:
            self._settle(watch)

    def fire(self, now_ns: int) -> None:
        """Fire what is due by *now_ns*."""
        due = self._due
        while due and due[0][0] <= now_ns:
            due_ns, _, watch = heapq.heappop(due)
            if watch.planned_ns == due_ns:
                watch.planned_ns = NEVER_NS
                if watch.takes:
                    watch.advance(now_ns)
                    self._settle(watch, now_ns)
        self.due_ns = self.first_ns()

    def first_ns(self) -> int:
        """Return when the next timer of a pattern is due; `NEVER_NS`: there is none."""
        due = self._due
        while due and not _counts(due[0]):
            heapq.heappop(due)
        return due[0][0] if due else NEVER_NS

    def timed_runs(self) -> set[int]:
        """Return the runs whose patterns wait for a time."""
        return {entry[2].run_id for entry in self._due if _counts(entry)}

    def expire(self, watch: Watch) -> None:
        """End a wait whose time has run out, as what came before that says."""
        wait = watch.step.wait
        if wait is not None and wait.due_ns is not None:
            if watch.met is None:
                watch.advance(wait.due_ns)
            self._end(watch, self._pipeline.tick())

    def _settle(self, watch: Watch, at_ns: int = 0) -> None:
        """Record that it was met, or plan for its next timer."""
        if watch.met is not None:
            self._end(watch, max(at_ns, self._pipeline.kernel.state.at_ns))
            return
        if not len(watch.timers) or not watch.takes:
            return
        first = watch.timers.first()
        if first is not None and first[0] != watch.planned_ns:
            watch.planned_ns = first[0]
            self._tickets += 1
            heapq.heappush(self._due, (first[0], self._tickets, watch))
            if len(self._due) > 2 * len(self._watches) + SPARE:
                # Most are of timers that were moved, as each event moves that of a silence.
                self._due[:] = filter(_counts, self._due)
                heapq.heapify(self._due)
            if first[0] < self.due_ns:
                self.due_ns = first[0]
                self._pipeline.on_change()

    def _end(self, watch: Watch, at_ns: int) -> None:
        if watch.step.wait is None:
            return
        run_id, ordinal = watch.run_id, watch.ordinal
        try:
            self._pipeline.put(WaitEnded(at_ns, run_id, ordinal, watch.met))
        except EventRefused as error:  # an aggregate can be of any size
            text = f"run {run_id}, call {ordinal}: what met {watch.step.name[:200]}: {error}"
            self._pipeline.put(WaitEnded(at_ns, run_id, ordinal, None, text))


def _counts(entry: tuple[int, int, Watch]) -> bool:
    """Say whether an entry is of a timer that is still planned for its time."""
    due_ns, _, watch = entry
    return watch.planned_ns == due_ns and watch.takes
