"""When timers fire: `Timekeeper` by the clock, `InputTime` by the events' own times."""

from __future__ import annotations

from contextlib import suppress

import anyio
from anyio import CancelScope

from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.errors import LogError
from headrace.engine.kernel import Kernel
from headrace.engine.run_state import RunState
from headrace.engine.runner import Runner
from headrace.engine.signal import Signal
from headrace.engine.timers import NEVER_NS


class Timekeeper:
    """Sleeps until the next deadline and fires what is due.  One task."""

    def __init__(self, pipeline: Pipeline, runner: Runner, clock: Clock) -> None:
        self._pipeline = pipeline
        self._runner = runner
        self._clock = clock
        self._asleep: CancelScope | None = None
        self._until_ns: int | None = None

    def replan(self) -> None:
        """Note that timers may have moved: wake up if one is due earlier than planned."""
        if self._asleep is not None:
            due_ns = self._next_ns()
            if due_ns is not None and (self._until_ns is None or due_ns < self._until_ns):
                self._asleep.cancel()

    def _next_ns(self) -> int | None:
        timer_ns = self._pipeline.monotonic_due_ns()
        deadline_ns = self._runner.next_deadline_ns()
        if timer_ns is None:
            return deadline_ns
        return timer_ns if deadline_ns is None else min(timer_ns, deadline_ns)

    async def run(self) -> None:
        """Fire timers and time-outs, for ever."""
        while True:
            with CancelScope() as self._asleep:
                self._until_ns = self._next_ns()
                if self._until_ns is None:
                    await anyio.sleep_forever()
                else:
                    await self._clock.sleep_until(self._until_ns)
            self._asleep = None
            if self._pipeline.failure is not None:
                return
            self._runner.expire(self._clock.monotonic_ns())
            with suppress(LogError):  # whoever waits knows it
                self._pipeline.tick()


class InputTime:
    """Log time that comes from the events: recorded data plays as it happened.

    Time stands still while runs have something to do and moves on when all that is left of
    them waits for a timer.  So what happens does not depend on how fast the machine is,
    and is the same again after a crash.
    """

    def __init__(self, pipeline: Pipeline, runner: Runner) -> None:
        self._pipeline = pipeline
        self._runner = runner
        self._lock = anyio.Lock()
        self._changed = Signal()

    @property
    def lock(self) -> anyio.Lock:
        """Held while an event from outside is let in: they keep their order."""
        return self._lock

    def note_settled(self) -> None:
        """Let those look again who wait for the runs to settle."""
        self._changed.send()

    @property
    def is_settled(self) -> bool:
        """Whether nothing will happen until time moves."""
        return self._runner.is_settled and self._pipeline.is_settled

    async def settled(self) -> None:
        """Return once nothing will happen until time moves, or nothing can be stored."""
        while not self.is_settled and self._pipeline.failure is None:
            await self._changed.wait()

    def is_due(self, at_ns: int) -> bool:
        """Say whether an event at *at_ns* has to wait: for runs, or for timers before it.

        For runs also if time does not move: whether it comes before or after what they do
        would depend on the machine, and be another after a crash.
        """
        if not self.is_settled:
            return True
        first = self._pipeline.kernel.state.timers.first()
        return (first is not None and first[0] <= at_ns) or self._first_wait_ns() <= at_ns

    async def advance(self, upto_ns: int) -> None:
        """Fire all timers up to *upto_ns*, each at its own time; then runs have settled.

        Cancelled in between, time has moved a part of the way.
        """
        while True:
            await self.settled()
            if self._pipeline.failure is not None:
                raise self._pipeline.failure
            if self._fire_waits(upto_ns):
                continue
            fired = self._pipeline.next_timer(upto_ns)
            if fired is None:
                return
            self._pipeline.put(fired)

    def _first_wait_ns(self) -> int:
        waits = self._pipeline.waits
        return NEVER_NS if waits is None else waits.first_ns()

    def _timed_waits(self) -> set[int]:
        waits = self._pipeline.waits
        return set() if waits is None else waits.timed_runs()

    def _fire_waits(self, upto_ns: int) -> bool:
        """Fire a timer of a pattern that a run waits for, if one comes before all others."""
        due_ns = self._first_wait_ns()
        first = self._pipeline.kernel.state.timers.first()
        if due_ns > upto_ns or (first is not None and first[0] <= due_ns):
            return False
        assert self._pipeline.waits is not None
        self._pipeline.waits.fire(due_ns)
        return True

    async def finish_runs(self) -> None:
        """Move time on until no run that is open now, or follows from one, waits for it.

        What a clock or a silence starts on the way is not waited for: it could go on for
        ever.  It stays open.
        """
        state = self._pipeline.kernel.state
        runs = state.runs.active
        others: set[int] = set()  # what rules' timers have started on the way, and its like
        while True:
            await self.settled()
            if self._pipeline.failure is not None:
                raise self._pipeline.failure
            timed = self._timed_waits()
            if not self._runner.waits_for_circuit and not any(
                run.waits_for_time or run.id in timed
                for run in state.runs.known
                if run.id not in others
            ):
                return
            if self._fire_waits(NEVER_NS - 1):
                continue
            first = state.timers.first()
            assert first is not None, "a run that waits has a timer"
            fired = self._pipeline.next_timer(first[0])
            assert fired is not None
            sequence = self._pipeline.put(fired)
            is_other = bool(fired.owner) or fired.slot in others
            # Time stands still until all that follows from this timer has happened, so
            # whatever is new by then is its doing, or that of a timer due at the same time.
            await self.settled()
            others = {run_id for run_id in others if run_id in runs}
            for run in _since(self._pipeline.kernel, sequence):
                if is_other or run.due_ns is not None or run.parent in others:
                    others.add(run.id)


def _since(kernel: Kernel, sequence: int) -> list[RunState]:
    """Return the open runs made after *sequence*, oldest first."""
    made = map(kernel.state.runs.active.get, range(sequence + 1, kernel.sequence + 1))
    return [run for run in made if run is not None]
