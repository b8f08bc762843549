"""`Gate`: where attempts of one task wait until they may begin: for a place, a rate, a circuit.

A run has a place from when it may begin to when its attempt ends, but for the times in which
its code waits for others.  Nothing here is state: after a crash nothing executes, and what has
to be known beyond that, the circuit, is in the kernel.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from headrace.engine.backend import Event
from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.errors import CircuitOpen
from headrace.engine.gcra import passed, tolerance, turn_ns
from headrace.engine.lanes import Lanes
from headrace.engine.limits import Limits, Rate
from headrace.engine.record import BreakerMoved
from headrace.engine.run_state import RunState


class Gate:
    """All methods belong to the event loop's thread; times are monotonic."""

    def __init__(
        self,
        task: str,
        limits: Limits,
        pipeline: Pipeline,
        clock: Clock,
        *,
        rested_since_ns: int | None,
    ) -> None:
        """Let attempts of *task* wait.

        None has begun since *rested_since_ns*; ``None``: none ever has.
        """
        self.task = task
        self.limits = limits
        self.due_ns: int | None = None
        """When to look again, if the rate holds somebody back."""
        self.returning: deque[tuple[int, Any, Event]] = deque()
        """Those whose wait is over, and that have no place any more."""
        self._pipeline = pipeline
        self._clock = clock
        self._runs = pipeline.kernel.state.runs
        self._breakers = pipeline.kernel.state.breakers
        self._holders: dict[int, Any] = {}
        """The runs that have a place, with their keys."""
        self._by_key: dict[Any, int] = {}
        self._waiting = Lanes()
        self._blocked: dict[Any, deque[int]] = {}
        """Those that wait for a place of their key, by key."""
        self._beginning: set[int] = set()
        """Those that have a place, and whose attempt has not begun."""
        self._trial = 0
        """The run whose attempt is tried while the circuit is half open."""
        rate = limits.rate
        self._tat = self._clock.monotonic_ns() * rate.n if rate else 0
        if rate is not None and rested_since_ns is not None:
            # As if a burst had begun then: more cannot have, so the rate holds over crashes.
            self._tat = max(self._tat, rested_since_ns * rate.n + _of(rate) + rate.per_ns)

    # ------------------------------------------------------------ in and out

    @property
    def held_for_time(self) -> int:
        """How many wait for log time: for the timer of their circuit, or who is tried."""
        if self.limits.breaker is None or self._breakers.circuit(self.task) == "closed":
            return 0
        return len(self._waiting) + sum(map(len, self._blocked.values()))

    @property
    def waits_for_circuit(self) -> bool:
        """Whether somebody waits for the timer of its circuit."""
        return self.held_for_time > 0 and self._breakers.circuit(self.task) == "open"

    def push(self, state: RunState) -> None:
        """Let *state* wait for its turn."""
        blocked = self._blocked.get(state.key)
        if blocked is not None:
            blocked.append(state.id)
        else:
            self._waiting.push(state.key, state.id)

    def admit(self) -> list[int]:
        """Give places to those that may begin now, and return them; also those that have ended."""
        admitted: list[int] = []
        self.due_ns = None
        while self._waiting and self._has_place() and self._lets_begin():
            run_id = self._waiting.pop()
            state = self._runs.active.get(run_id)
            if state is None:  # it ended with its parent
                admitted.append(run_id)
                continue
            if self._is_full(state.key):
                self._blocked.setdefault(state.key, deque()).append(run_id)
                continue
            self._take(run_id, state.key)
            self._beginning.add(run_id)
            if not self._trial and self._breakers.circuit(self.task) == "half_open":
                self._trial = run_id
            admitted.append(run_id)
        return admitted

    def _has_place(self) -> bool:
        limit = self.limits.concurrency
        return limit is None or (len(self._holders) < limit and not self.returning)

    def _is_full(self, key: Any) -> bool:
        limit = self.limits.concurrency_per_key
        return limit is not None and key is not None and self._by_key.get(key, 0) >= limit

    def _lets_begin(self) -> bool:
        """Say whether circuit and rate let the next attempt begin."""
        if self.limits.breaker is not None and self.limits.breaker.while_open == "wait":
            circuit = self._breakers.circuit(self.task)
            if circuit == "open" or (circuit == "half_open" and self._trial):
                return False
        rate = self.limits.rate
        if rate is None:
            return True
        if self._beginning:
            return False  # one after the other: the next turn follows from when this begins
        turn = turn_ns(self._tat, _of(rate), rate.n)
        if self._clock.monotonic_ns() >= turn:
            return True
        self.due_ns = turn
        return False

    def _take(self, run_id: int, key: Any) -> None:
        self._holders[run_id] = key
        if self.limits.concurrency_per_key is not None and key is not None:
            self._by_key[key] = self._by_key.get(key, 0) + 1

    def leave(self, run_id: int) -> bool:
        """Take the place of a run that waits for others or has ended; say whether it had one."""
        if run_id not in self._holders:
            return False
        key = self._holders.pop(run_id)
        self._beginning.discard(run_id)
        if key in self._by_key:
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]
        self._let_return()
        blocked = self._blocked.get(key) if self._blocked else None
        if blocked is not None and not self._is_full(key):
            self._waiting.push_first(key, blocked.popleft())
            if not blocked:
                del self._blocked[key]
        return True

    def _let_return(self) -> None:
        limit = self.limits.concurrency
        for entry in list(self.returning):
            if limit is not None and len(self._holders) >= limit:
                return
            run_id, key, event = entry
            if not self._is_full(key):
                self.returning.remove(entry)
                self._take(run_id, key)
                event.set()

    def come_back(self, run_id: int, key: Any) -> Event | None:
        """Give a run whose wait is over its place again; or return what it has to wait for."""
        if run_id in self._holders:
            return None
        limit = self.limits.concurrency
        has_place = limit is None or len(self._holders) < limit
        if has_place and not self.returning and not self._is_full(key):
            self._take(run_id, key)
            return None
        event = self._pipeline.backend.waiter()
        self.returning.append((run_id, key, event))
        return event

    def discard(self, state: RunState) -> None:
        """Let *state* wait no more: it is to end."""
        self.leave(state.id)
        if self._trial == state.id:
            self._trial = 0
        blocked = self._blocked.get(state.key)
        if blocked is not None and state.id in blocked:
            blocked.remove(state.id)
            if not blocked:
                del self._blocked[state.key]
        else:
            self._waiting.discard(state.key, state.id)

    # ------------------------------------------------------------ attempts

    def take_back(self, state: RunState) -> bool:
        """Let one that had its turn wait again, if its circuit was opened meanwhile."""
        breaker = self.limits.breaker
        if breaker is None or breaker.while_open == "fail" or not self._refuses(state.id):
            return False
        self.leave(state.id)
        self._waiting.push_first(state.key, state.id)
        return True

    def _refuses(self, run_id: int) -> bool:
        return self._breakers.circuit(self.task) != "closed" and self._trial != run_id

    def begin(self, run_id: int) -> CircuitOpen | None:
        """Note that the attempt of a run begins; or say why it fails at once."""
        self._beginning.discard(run_id)
        if self.limits.breaker is not None and self._refuses(run_id):
            moved = self._breakers.moved[self.task]
            return CircuitOpen(self.task, moved.failures, moved.until_ns)
        rate = self.limits.rate
        if rate is not None:
            self._tat = passed(self._tat, self._clock.monotonic_ns() * rate.n, rate.per_ns)
        return None

    def end(self, run_id: int, *, succeeded: bool | None) -> None:
        """Note that the attempt of a run has ended; ``None``: neither well nor badly."""
        self.leave(run_id)
        for entry in list(self.returning):
            if entry[0] == run_id:
                self.returning.remove(entry)
        if self.limits.breaker is None or self._pipeline.failure is not None:
            return
        if self._trial == run_id:
            self._trial = 0
            if succeeded is not None:
                self._move(is_open=not succeeded)
        else:
            self.look_at_failures()

    def look_at_failures(self) -> None:
        """Open the circuit, if it is closed and enough attempts have failed."""
        breaker = self.limits.breaker
        if breaker is None or self._breakers.circuit(self.task) != "closed":
            return
        since_ns = self._pipeline.kernel.state.at_ns - breaker.within_ns
        if self._breakers.failures_since(self.task, since_ns) >= breaker.failures:
            self._move(is_open=True)

    def _move(self, *, is_open: bool) -> None:
        breaker = self.limits.breaker
        assert breaker is not None
        at_ns = self._pipeline.tick()
        if not is_open:
            self._pipeline.put(BreakerMoved(at_ns, self.task, "closed"))
            return
        moved = self._breakers.moved.get(self.task)
        since_ns = at_ns - breaker.within_ns
        failures = (
            self._breakers.failures_since(self.task, since_ns)
            if moved is None
            else moved.failures + 1
        )
        until_ns = at_ns + breaker.open_for_ns
        self._pipeline.put(BreakerMoved(at_ns, self.task, "open", failures, until_ns))


def _of(rate: Rate) -> int:
    return tolerance(rate.burst, rate.per_ns)
