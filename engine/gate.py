"""`Gate`: where attempts of one task wait until they may begin: for a place, a rate, a circuit.

A run has a place from when it may begin to when its attempt ends, but for the times in which
its code waits for others.  Nothing here is state: after a crash nothing executes, and what has
to be known beyond that, the circuit, is in the kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

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
        self._clock = clock
        self._pipeline = pipeline
        self._breakers = pipeline.kernel.state.breakers
        self._holders: dict[int, Any] = {}
        """The runs that have a place, with their keys."""
        self._by_key: dict[Any, int] = {}
        self._waiting = Lanes()
        self._blocked: dict[Any, deque[int]] = {}
        """Those that wait for a place of their key, by key."""
        self._returning: dict[int, tuple[Any, list[Callable[[], None]]]] = {}
        """Those whose code is to go on once they have a place again: with their keys, and what
        tells them so.  Who is here finds no place now; each that is free goes to them first."""
        self._beginning: set[int] = set()
        """Those that have a place, and whose attempt has not begun."""
        self._trial = 0
        """The run whose attempt is tried while the circuit is half open."""
        rate, now_ns = limits.rate, clock.monotonic_ns()
        self._tat = now_ns * rate.n if rate else 0
        if rate is not None and rested_since_ns is not None:
            # As if a burst had begun then: more cannot have, so the rate holds over crashes.
            self._tat = max(self._tat, rested_since_ns * rate.n + _of(rate) + rate.per_ns)

    def declare(self, limits: Limits) -> None:
        """Let *limits* hold from now on, for those that execute and those that wait, too."""
        before, rate = self.limits.rate, limits.rate
        if rate is not None:
            now_ns, ahead, per_ns = self._clock.monotonic_ns(), 0, 1
            if before is not None:  # as many attempts ahead of the rate as there are now
                ahead, per_ns = max(0, self._tat - now_ns * before.n), before.per_ns
            self._tat = now_ns * rate.n - (-ahead * rate.per_ns // per_ns)
        self.limits = limits
        self._let_return()
        while self._blocked:  # `admit` sets those aside again that it still has to
            self._waiting.put_back(*self._blocked.popitem())

    # ------------------------------------------------------------ those that wait to begin

    @property
    def is_closed(self) -> bool:
        """Whether its circuit is; if not, those that wait do so for log time."""
        return self.limits.breaker is None or self._breakers.circuit(self.task) == "closed"

    @property
    def is_open(self) -> bool:
        """Whether those that wait do so for the timer of its circuit."""
        return self.limits.breaker is not None and self._breakers.circuit(self.task) == "open"

    @property
    def count(self) -> int:
        """How many wait here to begin."""
        return len(self._waiting) + sum(map(len, self._blocked.values()))

    def push(self, state: RunState) -> None:
        """Let *state* wait for its turn."""
        blocked = self._blocked.get(state.key)
        if blocked is not None:
            blocked.append(state.id)
        else:
            self._waiting.push(state.key, state.id)

    def put_back(self, state: RunState) -> None:
        """Let *state* wait again that was to begin, but cannot: as the first of its key."""
        self.give_back(state.id)
        blocked = self._blocked.get(state.key)
        if blocked is not None:
            blocked.appendleft(state.id)
        else:
            self._waiting.push_first(state.key, state.id)

    def admit(self) -> list[int]:
        """Give places to those that may begin now, and return them."""
        admitted: list[int] = []
        while self._waiting and self.has_room():
            key = self._waiting.turn
            if self._is_full(key):
                self._blocked[key] = self._waiting.set_aside()
                continue
            admitted.append(self._waiting.pop())
            self._let_in(admitted[-1], key)
        return admitted

    def take(self, run_id: int, key: Any) -> bool:
        """Give a run that waits elsewhere its place, if its key has one; after `has_room`."""
        if self._is_full(key):
            return False
        self._let_in(run_id, key)
        return True

    def has_room(self) -> bool:
        """Say whether another may begin now, as far as its key does not matter."""
        return self._has_place() and self._lets_any_begin()

    def _has_place(self) -> bool:
        limit = self.limits.concurrency
        return limit is None or len(self._holders) < limit

    def _is_full(self, key: Any) -> bool:
        limit = self.limits.concurrency_per_key
        return limit is not None and key is not None and self._by_key.get(key, 0) >= limit

    def _lets_any_begin(self) -> bool:
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

    def _let_in(self, run_id: int, key: Any) -> None:
        self._take(run_id, key)
        self._beginning.add(run_id)
        self._lets(run_id)  # half open, it is the one that is tried

    def _lets(self, run_id: int) -> bool:
        """Say whether the circuit lets a run begin whose turn it is; half open, the first only."""
        if self.limits.breaker is None:
            return True
        circuit = self._breakers.circuit(self.task)
        if circuit == "half_open" and not self._trial:
            self._trial = run_id
        return circuit == "closed" or self._trial == run_id

    def holds_back(self, run_id: int) -> bool:
        """Say whether a run whose turn it is has to wait: its circuit was opened meanwhile."""
        breaker = self.limits.breaker
        return breaker is not None and breaker.while_open == "wait" and not self._lets(run_id)

    # ------------------------------------------------------------ places

    def _take(self, run_id: int, key: Any) -> None:
        self._holders[run_id] = key
        if key is not None:
            self._by_key[key] = self._by_key.get(key, 0) + 1

    def leave(self, run_id: int) -> bool:
        """Take the place of a run whose code waits for others; say whether it had one."""
        if run_id not in self._holders:
            return False
        key = self._holders.pop(run_id)
        self._beginning.discard(run_id)
        if key is not None:
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]
        self._let_return()
        if key in self._blocked and not self._is_full(key):
            self._waiting.put_back(key, self._blocked.pop(key))
        return True

    def _let_return(self) -> None:
        limit, back = self.limits.concurrency, list[int]()
        for run_id, (key, _) in self._returning.items():
            if limit is not None and len(self._holders) >= limit:
                break
            if not self._is_full(key):
                self._take(run_id, key)
                back.append(run_id)
        for run_id in back:
            for wake in self._returning.pop(run_id)[1]:
                wake()

    def come_back(self, run_id: int, key: Any, wake: Callable[[], None]) -> bool:
        """Say whether a run whose wait is over has a place; else *wake* is called once it has."""
        if run_id in self._holders:
            return True
        if self._has_place() and not self._is_full(key):
            self._take(run_id, key)
            return True
        self._returning.setdefault(run_id, (key, []))[1].append(wake)
        return False

    def release(self, run_id: int) -> None:
        """Note that no code of a run is to go on: it needs no place any more."""
        self.leave(run_id)
        self._returning.pop(run_id, None)

    def give_back(self, run_id: int) -> None:
        """Take all that a run has that was to begin."""
        self.release(run_id)
        if self._trial == run_id:
            self._trial = 0

    def discard(self, state: RunState) -> None:
        """Let *state* wait no more: it is to end."""
        self.give_back(state.id)
        blocked = self._blocked.get(state.key)
        if blocked is not None and state.id in blocked:
            blocked.remove(state.id)
            if not blocked:
                del self._blocked[state.key]
        else:
            self._waiting.discard(state.key, state.id)

    # ------------------------------------------------------------ attempts

    def begin(self, run_id: int) -> CircuitOpen | None:
        """Note that the attempt of a run begins; or say why it fails at once."""
        self._beginning.discard(run_id)
        breaker = self.limits.breaker
        if breaker is not None and breaker.while_open == "fail" and not self._lets(run_id):
            moved = self._breakers.moved[self.task]
            return CircuitOpen(self.task, moved.failures, moved.until_ns)
        rate = self.limits.rate
        if rate is not None:
            self._tat = passed(self._tat, self._clock.monotonic_ns() * rate.n, rate.per_ns)
        return None

    def end(self, run_id: int, *, succeeded: bool | None) -> None:
        """Note what came of the attempt of a run; ``None``: it ended neither well nor badly."""
        self.release(run_id)
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
