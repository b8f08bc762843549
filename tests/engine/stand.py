"""What the tests of the engine stand on: quiet loops, a clock to step, logs that misbehave."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from headrace import App, Engine, Firing, MemoryLog, SegmentGone
from headrace.engine.clock import VirtualClock, seconds_to_ns
from headrace.engine.decider import Decider
from headrace.engine.defaults import PROBE_S
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import Record, RuleFired, decode, is_decision
from headrace.engine.restore import new_kernel
from headrace.testing import logs
from headrace.triggers.ruleset import RuleSet

R = TypeVar("R", bound=Record)

QUIET_TURNS = 40
"""Turns of the loop without a new record after which nothing is about to happen."""
HANG_S = 20.0
"""Real seconds after which a test counts as hung."""


async def quiet(engine: Engine) -> None:
    """Return once everything waits: for time, for a thread, or for the test.

    Counts turns of the loop instead of asking the engine whether it is idle: that answer
    is what is being tested.
    """
    still, last = 0, -1
    while still < QUIET_TURNS:
        await checkpoint()
        sequence = engine.kernel.sequence
        still = still + 1 if sequence == last else 0
        last = sequence


class StepClock(VirtualClock):
    """A virtual clock that takes no real time at all between two deadlines."""

    async def step(self, engine: Engine, seconds: float) -> None:
        """Move on by *seconds*, stopping at each deadline until *engine* is quiet."""
        end_ns = self._now_ns + seconds_to_ns(seconds)
        await quiet(engine)
        while self._sleepers and self._sleepers[0][0] <= end_ns:
            due_ns, _, woken = heapq.heappop(self._sleepers)
            self._now_ns = max(self._now_ns, due_ns)
            woken.set()
            await quiet(engine)
        self._now_ns = end_ns

    def pass_by(self, seconds: float) -> None:
        """Move on by *seconds* while nothing runs: a downtime."""
        self._now_ns += seconds_to_ns(seconds)


# Logs that misbehave are what users have, too.
GatedLog = logs.SlowLog
FailingLog = logs.FailingLog
FullLog = logs.FullLog


class ShortLog(MemoryLog):
    """A log of which retention has left only the records from `first` on."""

    first = 1

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `MemoryLog`."""
        if 0 < after < self.first - 1:
            raise SegmentGone("log", wanted=after + 1, first_sequence=self.first)
        yield from super().read(after=max(after, self.first - 1))


async def fill_disk(engine: Engine, log: FullLog) -> None:
    """Let the disk be full, everybody know it, and the engine wait for room."""
    before = engine.kernel
    log.fill()
    await until(lambda: engine.kernel is not before)
    await quiet(engine)


async def make_room(engine: Engine, log: FullLog, clock: StepClock) -> None:
    """Make room, and let the engine find it and go on."""
    log.room = True
    while not engine.state().ready:
        await clock.step(engine, PROBE_S)
    await engine.ready()
    log.room = False


def records_of(log: MemoryLog) -> list[tuple[int, Record]]:
    """Return all that is committed, decoded, with sequences."""
    return [
        (sequence, decode(raw))
        for first, batch in log.read()
        for sequence, raw in enumerate(batch, first)
    ]


def of_kind(log: MemoryLog, kind: type[R]) -> list[R]:
    """Return the records of one kind, oldest first."""
    return [record for _, record in records_of(log) if isinstance(record, kind)]


def borders(log: MemoryLog) -> list[int]:
    """Return the last sequence of each unit, and 0: all that a crash may leave."""
    ends = [sequence - 1 for sequence, record in records_of(log) if not is_decision(record)]
    return [*ends, log.committed_sequence]


@asynccontextmanager
async def opened(
    app: App,
    log: EventLog | None = None,
    clock: VirtualClock | Literal["input", "system"] | None = None,
    **options: Any,
) -> AsyncGenerator[Engine]:
    """Open *app* in virtual time, with no grace, and never hang."""
    options.setdefault("grace_s", 0)
    with anyio.fail_after(HANG_S):
        async with app.open(
            log if log is not None else MemoryLog(), clock=clock or StepClock(), **options
        ) as engine:
            yield engine


async def until(condition: Callable[[], object]) -> None:
    """Return once *condition* holds; for what a thread does."""
    while not condition():
        await anyio.sleep(0.001)


class Gate:
    """Where task code stops until the test lets it go on."""

    def __init__(self) -> None:
        """Begin closed."""
        self.arrived = 0
        self.event: anyio.Event | None = None
        self._is_open = False

    async def wait(self) -> None:
        """Stop here."""
        self.arrived += 1
        if not self._is_open:
            if self.event is None:
                self.event = anyio.Event()
            await self.event.wait()

    def open(self) -> None:
        """Let all go on, also those that come later."""
        self._is_open = True
        if self.event is not None:
            self.event.set()
            self.event = None


def refolded(log: EventLog, decider: Decider) -> Kernel:
    """Return what a fold of the whole log comes to, with the rules of *decider*."""
    kernel = new_kernel(log, decider)
    for first, batch in log.read():
        for sequence, raw in enumerate(batch, first):
            kernel.fold(sequence, decode(raw))
    kernel.finish_fold()
    return kernel


async def check_live(engine: Engine) -> None:
    """Check that a fold of the log, with the rules as they are by now, comes to the same state.

    But for the numbers of timers: rules of before have armed some, too.
    """
    await quiet(engine)
    rules = engine.kernel.state.decider
    assert isinstance(rules, RuleSet)
    folded = refolded(engine.log, RuleSet(list(rules._rules.values())))
    assert folded.divergences == []
    assert comparable(folded) == comparable(engine.kernel)


def comparable(kernel: Kernel) -> dict[str, Any]:
    """Return the state as plain data, with timers in their order but without its numbers."""
    state: dict[str, Any] = msgspec.msgpack.decode(kernel.dump())
    _, armed = state["timers"]
    state["timers"] = [timer[:-1] for timer in armed]
    return state


# ---------------------------------------------------------------- actions and firings


def noted(into: list[Any]) -> Callable[..., Any]:
    """Return an action that notes the data of the last event of each firing."""

    async def act(firing: Firing[Any]) -> None:
        into.append(firing.events[-1].data)

    return act


async def nothing() -> None:
    """Do nothing."""


def outcomes(log: MemoryLog, rule: str) -> list[str]:
    """Return what became of each firing of *rule*."""
    return [fired.outcome for fired in of_kind(log, RuleFired) if fired.rule == rule]


def check_replay(app: App, log: MemoryLog) -> None:
    """A replay with the app's rules finds nothing else in the log."""
    assert refolded(log, app.decider()).divergences == []
