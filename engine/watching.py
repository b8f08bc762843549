"""`Watch`: one wait for a pattern, at work, and what waits need of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from headrace.engine.backend import Backend
from headrace.engine.decider import Matched, Verdict, Watched
from headrace.engine.diagnostics import logger
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import EventStored, Input, Met
from headrace.engine.run_state import Step
from headrace.engine.timers import NEVER_NS, Timers


class Storing(Protocol):
    """What waits need of the pipeline: see `headrace.engine.commit.Pipeline`."""

    kernel: Kernel
    log: EventLog
    backend: Backend
    failure: Exception | None
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

    def __init__(
        self, run_id: int, ordinal: int, step: Step, watched: Watched, *, begins_ns: int
    ) -> None:
        """Begin empty, at log time *begins_ns* at the earliest."""
        assert step.wait is not None
        self.run_id = run_id
        self.ordinal = ordinal
        self.step = step
        self.watched = watched
        self.timers = Timers()
        self.position = step.wait.since
        """It has seen what is stored up to here, until it is live."""
        self.met: Met | None = None
        self.is_live = False
        """Whether it has seen all that was stored before it was opened."""
        self.backlog: list[tuple[int, EventStored]] = []
        """What came while it read that."""
        self.last = 0
        self.planned_ns = NEVER_NS
        self._begins_ns = begins_ns
        self._is_active = False

    @property
    def takes(self) -> bool:
        """Whether it is still open: neither met nor out of time."""
        wait = self.step.wait
        return self.met is None and wait is not None and not wait.until

    def sees(self, sequence: int) -> bool:
        """Say whether a record comes before its end."""
        wait = self.step.wait
        return self.met is None and wait is not None and not 0 < wait.until <= sequence

    def activate(self, at_ns: int) -> None:
        """Begin at log time *at_ns*, if it has not begun."""
        if not self._is_active:
            self._is_active = True
            self.watched.decider.activate(self.watched.rule, max(at_ns, self._begins_ns))

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
