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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

from headrace.engine.backend import Backend, in_own_thread
from headrace.engine.decider import Matched, Verdict, Watched
from headrace.engine.diagnostics import logger
from headrace.engine.errors import EventRefused
from headrace.engine.kernel import Kernel
from headrace.engine.log.index import log_time_ns
from headrace.engine.log.protocol import EventLog
from headrace.engine.reading import reading
from headrace.engine.record import EventStored, Input, Met, WaitEnded, decode
from headrace.engine.run_state import Step
from headrace.engine.subject import matches_user
from headrace.engine.subject_index import SubjectIndex
from headrace.engine.timers import NEVER_NS, Timers

READ_AT_ONCE: Final = 1000
"""Records that are read without a thread of their own."""
CHUNK: Final = 20_000
"""Records that a thread reads before the loop has its turn."""


class Storing(Protocol):
    """What waits need of the pipeline: see `headrace.engine.commit.Pipeline`."""

    kernel: Kernel
    log: EventLog
    backend: Backend
    on_change: Callable[[], None]

    def put(self, record: Input) -> int:
        """Apply and append a record."""
        ...

    def tick(self) -> int:
        """Return the log time of a record that is stored now."""
        ...

    async def committed(self, sequence: int) -> None:
        """Return once a record is committed."""
        ...

    def unreadable(self, what: str, error: OSError) -> Exception:
        """Give up the log, and return why."""
        ...


class Watch:
    """One wait: a pattern with state and timers of its own."""

    def __init__(self, run_id: int, ordinal: int, step: Step, watched: Watched) -> None:
        self.run_id = run_id
        self.ordinal = ordinal
        self.step = step
        self.watched = watched
        self.timers = Timers()
        self.met: Met | None = None
        self.is_live = False
        """Whether it has seen all that was stored before it was opened."""
        self.backlog: list[tuple[int, EventStored]] = []
        """What came while it read that."""
        self.last = 0
        self.planned_ns = NEVER_NS
        self._is_active = False

    @property
    def takes(self) -> bool:
        """Whether it is still open: neither met nor out of time."""
        wait = self.step.wait
        return self.met is None and wait is not None and not wait.until

    def activate(self, at_ns: int) -> None:
        """Begin at log time *at_ns*, if it has not begun."""
        if not self._is_active:
            self._is_active = True
            self.watched.decider.activate(self.watched.rule, at_ns)

    def feed(self, sequence: int, event: EventStored) -> None:
        """Let it see an event; first what is due fires (law L3)."""
        self.advance(event.at_ns)
        if self.met is None:
            self._note(self.watched.decider.on_event(sequence, event))

    def advance(self, at_ns: int) -> None:
        """Fire its timers that are due by *at_ns*."""
        self.activate(at_ns)
        timers = self.timers
        while self.met is None and (first := timers.first()) is not None and first[0] <= at_ns:
            due_ns, timer = first
            timers.disarm(timer)
            owner, slot, key = timer
            decider = self.watched.decider
            self._note(decider.on_timer(owner, slot, key, due_ns=due_ns, missed=0))

    def _note(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            if type(verdict) is not Matched:
                logger().warning("wait_skips", run=self.run_id, wait=self.step.name, why=verdict)
            elif self.met is None:
                self.met = Met(
                    verdict.key, verdict.events, verdict.due_ns, verdict.branches, verdict.details
                )


class Waits:
    """All waits for patterns that are open in one life of the kernel."""

    def __init__(self, pipeline: Storing) -> None:
        self._pipeline = pipeline
        self._index: SubjectIndex[Watch] = SubjectIndex()
        self._due: list[tuple[int, int, Watch]] = []
        self._tickets = 0
        self.due_ns = NEVER_NS
        """No timer of a pattern is due before this."""

    def open(self, run_id: int, ordinal: int, step: Step, watched: Watched) -> Watch:
        """Let a wait see what is stored from now on; `catch_up` comes next."""
        watch = Watch(run_id, ordinal, step, watched)
        watched.decider.attach(watch.timers, self._pipeline.kernel.state.sources)
        for subject in dict.fromkeys(watched.subjects):
            self._index.add(subject, watch)
        return watch

    def close(self, watch: Watch) -> None:
        """Let it see nothing more."""
        if watch.watched.subjects:
            self._index.remove(watch)
        watch.planned_ns = NEVER_NS
        watch.backlog = []

    # ------------------------------------------------------------ what was before

    async def catch_up(self, watch: Watch) -> None:
        """Let *watch* see what was stored since its beginning, then what came meanwhile.

        Raises:
            SegmentGone, LogCorrupt: the log does not have that any more.
            DurabilityLost, LogFull: the log has failed.
        """
        pipeline, step = self._pipeline, watch.step
        assert step.wait is not None
        since, upto = step.wait.since, pipeline.kernel.sequence
        if since == step.sequence:
            watch.activate(step.at_ns)
        if upto > since:
            await pipeline.committed(upto)
            try:
                await self._read(watch, since, upto)
            except OSError as error:
                what = f"what run {watch.run_id} waits for, after record {since}"
                raise pipeline.unreadable(what, error) from error
        for sequence, event in watch.backlog:
            if watch.met is None:
                watch.feed(sequence, event)
        watch.backlog = []
        watch.is_live = True
        if watch.takes:
            watch.advance(pipeline.kernel.state.at_ns)
        self._settle(watch)

    async def _read(self, watch: Watch, since: int, upto: int) -> None:
        wait = watch.step.wait
        until = 0 if wait is None else wait.until
        count = upto - since
        # One record before, for its time.
        with reading(self._pipeline.log, after=max(0, since - 1)) as batches:
            records = _wanted(batches, upto, watch.watched)
            while watch.met is None:
                take = partial(_take, records, CHUNK)
                if count <= READ_AT_ONCE:
                    chunk = take()
                else:
                    chunk = await in_own_thread(self._pipeline.backend, take)
                if not chunk:
                    return
                for sequence, at_ns, event in chunk:
                    if (until and sequence >= until) or watch.met is not None:
                        return
                    if at_ns:
                        watch.activate(at_ns)
                    if event is not None and sequence > since:
                        watch.feed(sequence, event)

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
        while due and (due[0][2].planned_ns != due[0][0] or not due[0][2].takes):
            heapq.heappop(due)
        return due[0][0] if due else NEVER_NS

    def timed_runs(self) -> set[int]:
        """Return the runs whose patterns wait for a time."""
        return {w.run_id for due_ns, _, w in self._due if w.planned_ns == due_ns and w.takes}

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


_Wanted = tuple[int, int, EventStored | None]


def _wanted(
    batches: Iterator[tuple[int, list[bytes]]], upto: int, watched: Watched
) -> Iterator[_Wanted]:
    """Yield ``(sequence, log time, event)`` of the first record with a time, and of events."""
    is_first = True
    for first, batch in batches:
        for sequence, raw in enumerate(batch, first):
            if sequence > upto:
                return
            at_ns = log_time_ns(raw) if is_first else 0
            if at_ns:
                is_first = False
                yield sequence, at_ns, None
            record: Any = decode(raw)
            if type(record) is EventStored and any(
                matches_user(subject, record.subject) for subject in watched.subjects
            ):
                yield sequence, 0, record


def _take(records: Iterator[_Wanted], count: int) -> list[_Wanted]:
    return list(islice(records, count))
