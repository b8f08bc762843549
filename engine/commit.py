"""`Pipeline`: from a record to its effects, through the kernel and the log.

Everything here but `committed` and `room` is synchronous: a record is stamped with log
time, applied by the kernel and handed to the log in one go, so no other task can come in
between.  Effects are released when the records that ask for them have reached the log's
level, in the order of the records.

Cost of an event that nothing fires on: one clock reading a batch, one kernel step, one
encoding, one list append.  One `commit` and one wake-up a turn of the loop, however many
records the turn brought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Raw, Struct

from headrace.engine.backend import Backend, Event
from headrace.engine.clock import Clock, LogTime
from headrace.engine.emission import Checked
from headrace.engine.errors import DurabilityLost, EngineClosed, LogError
from headrace.engine.kernel import Kernel
from headrace.engine.log.frame import RECORD_BYTES_MAX
from headrace.engine.log.protocol import EventLog
from headrace.engine.payload import check_record
from headrace.engine.record import (
    COMPLETED_TAG,
    EVENT_TAG,
    ClockStepped,
    EventStored,
    Input,
    RunCompleted,
    SourceOpened,
    StepRequested,
    TimerFired,
    encode,
    encode_fields,
)
from headrace.engine.signal import Signal
from headrace.engine.state import Effect
from headrace.engine.timers import NEVER_NS
from headrace.engine.waits import Waits

PENDING_BYTES_MAX: Final = 16 * 1024 * 1024


class _Group(Struct):
    """Those who wait for the records up to *upto*: one event for all of them."""

    upto: int
    done: Event


class Pipeline:
    """The one way by which records come into being."""

    def __init__(self, kernel: Kernel, log: EventLog, clock: Clock, backend: Backend) -> None:
        self.kernel = kernel
        self.log = log
        self.backend = backend
        self.failure: Exception | None = None
        """Why nothing can be stored any more."""
        self.on_effects: Callable[[list[Effect]], None] = lambda _: None
        self.on_change: Callable[[], None] = lambda: None
        """Called when a timer or a time-out may be due earlier than before."""
        self.on_commit: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self._clock = clock
        self._time = LogTime(clock, last_ns=kernel.state.at_ns)
        self._sources = {name: n for n, name in enumerate(kernel.state.sources, 1)}
        self._effects: deque[tuple[int, list[Effect] | Callable[[], None]]] = deque()
        self._open: _Group | None = None
        self._groups: deque[_Group] = deque()
        self._commit_is_due = False
        self._has_turn_begun = False
        """Whether a record was put in this turn of the loop: all others get its time."""
        self.is_committing = False
        """Whether the log is being asked to commit: `progress` follows without its asking."""
        self._is_paying = False
        self._is_broken = False
        self._freed = Signal()
        self.waits: Waits | None = None
        """The patterns that runs wait for, once one does."""
        self._last: int | None = None

    # ------------------------------------------------------------ time

    @property
    def by_input(self) -> bool:
        """Whether log time comes from the events instead of the clock."""
        return self.kernel.state.clock == "input"

    def tick(self) -> int:
        """Return the log time of a record that is stored now; first fire what is due (L3).

        Raises:
            DurabilityLost, LogFull: the log has failed.
            EngineClosed: the engine has stopped.
        """
        if self.failure is not None:
            raise self.failure
        state = self.kernel.state
        if self._has_turn_begun and state.at_ns < state.timers.bound_ns and self.waits is None:
            return state.at_ns  # as nearly always while there is much to do
        now_ns = self.now_ns()
        while (fired := self.kernel.due_timer(now_ns)) is not None:
            self.put(fired)
        if self.waits is not None and self.waits.due_ns <= now_ns:
            self.waits.fire(now_ns)
        if self._time.stepped_ns:
            step_ns, self._time.stepped_ns = self._time.stepped_ns, 0
            if not self.by_input:
                self.put(ClockStepped(now_ns, step_ns))
        return now_ns

    def now_ns(self) -> int:
        """Return the log time, and fire nothing.  It stands still for a turn of the loop."""
        state = self.kernel.state
        if self._has_turn_begun or state.clock == "input":
            return state.at_ns
        return max(self._time.now_ns(), state.at_ns)

    def monotonic_due_ns(self) -> int | None:
        """Return when the next timer is due, as the clock's monotonic time."""
        if self.by_input:
            return None
        first = self.kernel.state.timers.first()
        due_ns = NEVER_NS if first is None else first[0]
        if self.waits is not None:
            due_ns = min(due_ns, self.waits.first_ns())
        return None if due_ns == NEVER_NS else self._time.monotonic_at(due_ns)

    def monotonic_ns(self) -> int:
        """Return the clock's monotonic time; from any thread."""
        return self._clock.monotonic_ns()

    def monotonic_at(self, due_ns: int) -> int | None:
        """Return the monotonic time at which log time is *due_ns*; ``None``: that is not known."""
        return None if self.by_input else self._time.monotonic_at(due_ns)

    def next_timer(self, upto_ns: int) -> TimerFired | None:
        """Return the next timer up to *upto_ns*, stamped with its own due time.

        For log time by input, in which a timer is never late.
        """
        first = self.kernel.state.timers.first()
        if first is None or first[0] > upto_ns:
            return None
        return self.kernel.due_timer(max(first[0], self.kernel.state.at_ns))

    # ------------------------------------------------------------ records

    def put(self, record: Input) -> int:
        """Apply and append *record*, stamped by `tick`; return its sequence.

        It is neither durable nor acknowledged: see `committed`.
        """
        if self.failure is not None:
            raise self.failure
        kernel = self.kernel
        sequence = kernel.sequence + 1
        # What cannot be stored is refused here, before the kernel has seen it.
        encoded = encode(record)
        if len(encoded) > RECORD_BYTES_MAX:
            check_record(encoded)
        if not self._has_turn_begun:
            self._begin_turn()
        try:
            unit = kernel.submit(record)
            if len(unit) == 1:
                self.log.append((encoded,))
            else:
                self.log.append([encoded, *map(encode, unit[1:])])
        except BaseException as error:
            self._break(type(record), error)
            raise
        state = kernel.state
        if state.effects:
            self._effects.append((kernel.sequence, state.effects))
            state.effects = []
        if state.timers.moved:
            state.timers.moved = False
            self.on_change()
        if self.waits is not None and type(record) is EventStored:
            self.waits.feed(sequence, record)
        if state.lifecycle.owed:
            self._pay()
        return sequence

    def put_step(self, asked: StepRequested, result: Raw) -> int:
        """Put the request of a step, and its completion; return the sequence of that.

        As `put` of each.  *asked* has been stamped by `tick`.
        """
        if self.failure is not None:
            raise self.failure
        kernel = self.kernel
        if not self._has_turn_begun:
            self._begin_turn()
        ended = None
        try:
            ended = kernel.submit_step(asked, result)
            if ended is not None:
                completed = (COMPLETED_TAG, ended.at_ns, ended.run, ended.result)
                self.log.append_each((encode_fields(asked), encode_fields(completed)))
        except BaseException as error:
            self._break(StepRequested, error)
            raise
        if ended is None:
            ended = RunCompleted(asked.at_ns, self.put(asked), result)
            return self.put(ended)
        return kernel.sequence

    def put_events(self, at_ns: int, events: Sequence[Checked], sequences: list[int]) -> None:
        """Put events of which only subject and data are known; add theirs to *sequences*.

        As `put` of each, but that most are handed to the log together: those between two that
        lead to something.
        """
        if self.waits is not None or self.kernel.is_tapped:
            for subject, data, _ in events:
                sequences.append(self.put(EventStored(at_ns, subject, data)))
            return
        if self.failure is not None:
            raise self.failure
        if not self._has_turn_begun:
            self._begin_turn()
        kernel, log, place = self.kernel, self.log, 0
        # No longer than a record may be, as their data and subjects were checked.
        encoded = [encode_fields((EVENT_TAG, at_ns, subject, data)) for subject, data, _ in events]
        try:
            while place < len(events):
                first = kernel.sequence + 1
                count, unit = kernel.submit_plain(at_ns, events, place)
                sequences.extend(range(first, first + count))
                begin, place = place, place + count
                if unit is None:
                    log.append_each(encoded[begin:])
                    break
                log.append_each(encoded[begin : place - 1])
                log.append([encoded[place - 1], *map(encode, unit[1:])])
                state = kernel.state
                if state.effects:
                    self._effects.append((kernel.sequence, state.effects))
                    state.effects = []
                if state.lifecycle.owed:
                    self._pay()
        except BaseException as error:
            if self.failure is None:
                self._break(EventStored, error)
            raise
        if kernel.state.timers.moved:
            kernel.state.timers.moved = False
            self.on_change()

    def _begin_turn(self) -> None:
        """Let everybody who stores something in this turn of the loop share its time and group."""
        if not self._commit_is_due:
            # At the end of the turn.  Before the rest, which may fail for want of stack.
            self.backend.call_soon(self._commit)
            self._commit_is_due = True
        self._has_turn_begun = True

    def _break(self, kind: type[Any], error: BaseException) -> None:
        """Store nothing any more: the kernel is ahead of the log, and can only be rebuilt."""
        if isinstance(error, LogError):
            self.fail(error)
            return
        # So it is when it has applied a part.  `_commit` tells all others.
        self._is_broken = True
        self.failure = EngineClosed(
            f"the engine stopped, since it could not apply {kind.__name__}: "
            f"{type(error).__name__}: {error}; the log is intact: open it again"
        )

    def _pay(self) -> None:
        """Store the lifecycle events that are owed, each as an input of its own."""
        lifecycle = self.kernel.state.lifecycle
        if not self._is_paying:
            self._is_paying = True  # what they owe in turn is paid by this loop, not deeper
            try:
                at_ns = self.kernel.state.at_ns
                while (owed := lifecycle.next(at_ns)) is not None:
                    fired = self.kernel.due_timer(at_ns)  # law L3 holds for these events too
                    self.put(owed if fired is None else fired)
            finally:
                self._is_paying = False

    def source(self, name: str, at_ns: int) -> int:
        """Return the number of a source; the first time, record it."""
        number = self._sources.get(name)
        if number is None:
            number = len(self._sources) + 1
            self.put(SourceOpened(at_ns, number, name))
            self._sources[name] = number
        return number

    # ------------------------------------------------------------ durability

    def _commit(self) -> None:
        self._commit_is_due = self._has_turn_begun = False
        if self._is_broken and self.failure is not None:
            self._is_broken = False
            self.fail(self.failure)
        if self._open is not None:
            self._groups.append(self._open)
            self._open = None
        if self.failure is None:
            self.is_committing = True
            self.log.commit()
            self.is_committing = False
            if self.log.failure is not None or (
                self.log.committed_sequence >= self.kernel.sequence
            ):
                self.progress()  # a level that does not wait for a disk

    def progress(self) -> None:
        """See how far the log has come: release effects, wake those who wait."""
        if self._last is not None:
            return
        if self.log.failure is not None and self.failure is None:
            self.fail(self.log.failure)
            return
        committed = self.log.committed_sequence
        try:
            self._release(committed)
        except LogError:
            if self.failure is None:
                raise
            return  # the log has failed just now, and whoever waits knows it
        groups = self._groups
        while groups and groups[0].upto <= committed:
            groups.popleft().done.set()
        self._freed.send()
        self.on_commit()

    def _release(self, committed: int) -> None:
        effects = self._effects
        while effects and effects[0][0] <= committed:
            due = effects.popleft()[1]
            if isinstance(due, list):
                self.on_effects(due)
            else:
                due()

    def unreadable(self, what: str, error: OSError | LogError) -> DurabilityLost:
        """Store nothing from now on, since the log cannot be read any more; return why."""
        lost = DurabilityLost(
            f"expected to read {what} in the log, found {error}; what was acknowledged is safe; "
            "check the disk, then open the log again"
        )
        self.fail(lost)
        return lost

    def fail(self, failure: Exception) -> None:
        """Store nothing from now on; everybody who waits gets *failure*."""
        self._last = self.log.committed_sequence
        self.close(failure)
        self.release()
        self.on_failure()

    def close(self, failure: Exception) -> None:
        """Store nothing from now on, and have nothing more carried out."""
        self.failure = self.failure or failure
        self._effects.clear()
        self._freed.send()

    def release(self) -> None:
        """Wake all who wait: each sees for itself how far the log has come."""
        for group in (*self._groups, self._open):
            if group is not None:
                group.done.set()
        self._groups.clear()
        self._open = None

    def after(self, sequence: int, call: Callable[[], None]) -> None:
        """Call *call* once the record at *sequence*, the last one put, is committed."""
        self._effects.append((max(sequence, self.kernel.sequence), call))

    @property
    def committed_sequence(self) -> int:
        """The last record that has reached the log's level, of those that were put here.

        A log that goes on after it was full gives the sequences after it once more, to other
        records: who waits for one of before must not mistake them for its own.
        """
        return self.log.committed_sequence if self._last is None else self._last

    async def committed(self, sequence: int) -> None:
        """Return once the record at *sequence* has reached the log's level.

        A cancelled wait changes nothing: the record stays in its group.

        Raises:
            LogFull: it is not stored, and nothing more will be.
            DurabilityLost: it may or may not be stored, and nothing more will be.
        """
        if self.committed_sequence >= sequence:
            return
        if self.failure is not None:
            raise self.failure
        for group in self._groups:
            if group.upto >= sequence:
                break
        else:
            if self._open is None:
                self._open = _Group(0, self.backend.event())
            group = self._open
            group.upto = self.kernel.sequence
            if not self._commit_is_due:
                self._commit_is_due = True
                self.backend.call_soon(self._commit)
        await group.done.wait()
        if self.committed_sequence < sequence:
            raise self._why()

    def _why(self) -> Exception:
        """Return why a record that was put is not committed."""
        return self.failure or EngineClosed("the engine stopped before the record was durable")

    async def room(self, *, runs_max: int = 0) -> None:
        """Return once the log's queue has room and at most *runs_max* runs (0: any) are pending.

        If cancelled, nothing was stored.
        """
        while self.failure is None and (
            self.log.pending_bytes > PENDING_BYTES_MAX
            or (runs_max and self.kernel.state.runs.pending > runs_max)
        ):
            await self._freed.wait()

    @property
    def is_settled(self) -> bool:
        """Whether no effect waits for the log."""
        return not self._effects
