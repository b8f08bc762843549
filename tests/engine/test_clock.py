from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.shell import fold

from headrace import App, MemoryLog, Run, silent
from headrace import on as subject
from headrace.engine import record as r
from headrace.engine.clock import NS, STEP_NS_MAX, LogTime, SystemClock, seconds_to_ns
from headrace.testing import VirtualClock

WALL_NS = 1_700_000_000 * NS


class HandClock:
    """Both clocks, set by hand."""

    def __init__(self, wall_ns: int = WALL_NS, monotonic_ns: int = 0) -> None:
        self.wall = wall_ns
        self.monotonic = monotonic_ns

    def wall_ns(self) -> int:
        return self.wall

    def monotonic_ns(self) -> int:
        return self.monotonic

    async def sleep_until(self, monotonic_ns: int) -> None:
        raise NotImplementedError

    def move(self, elapsed_ns: int, step_ns: int = 0) -> None:
        self.monotonic += elapsed_ns
        self.wall += elapsed_ns + step_ns


# ---------------------------------------------------------------- log time (law L1)


def test_log_time_is_the_wall_clock_while_nobody_sets_it() -> None:
    """People read log times, so they are those of the calendar."""
    clock = HandClock()
    time = LogTime(clock, last_ns=0)
    clock.move(5 * NS)

    assert time.now_ns() == WALL_NS + 5 * NS
    assert time.stepped_ns == 0


def test_a_clock_that_is_set_back_does_not_stop_log_time() -> None:
    """Timers go on at 99 % of their pace until the wall clock has caught up."""
    clock = HandClock()
    time = LogTime(clock, last_ns=0)
    time.now_ns()
    clock.move(100 * NS, step_ns=-3600 * NS)

    assert time.now_ns() == WALL_NS + 99 * NS
    clock.move(100 * NS)
    assert time.now_ns() == WALL_NS + 198 * NS
    clock.move(3600 * NS * 100)
    assert time.now_ns() == clock.wall


def test_log_time_goes_on_after_the_last_stored_record() -> None:
    """A machine that starts with its clock in the past writes no record out of order."""
    clock = HandClock(wall_ns=WALL_NS)
    time = LogTime(clock, last_ns=WALL_NS + 50 * NS)

    assert time.now_ns() == WALL_NS + 50 * NS
    clock.move(10 * NS)
    assert time.now_ns() == WALL_NS + 59_900_000_000


@pytest.mark.parametrize("step_ns", [STEP_NS_MAX + 1, -STEP_NS_MAX - 1, 86_400 * NS])
def test_a_step_over_a_second_is_noticed(step_ns: int) -> None:
    """Whoever wonders about a gap in the log finds that the clock was set, and by how much."""
    clock = HandClock()
    time = LogTime(clock, last_ns=0)
    clock.move(7, step_ns=step_ns)
    time.now_ns()

    assert time.stepped_ns == step_ns


@pytest.mark.parametrize("step_ns", [STEP_NS_MAX, -STEP_NS_MAX, 0, 400_000_000])
def test_a_step_of_up_to_a_second_is_not_worth_a_record(step_ns: int) -> None:
    """NTP slews all day; that is not news."""
    clock = HandClock()
    time = LogTime(clock, last_ns=0)
    clock.move(7, step_ns=step_ns)
    time.now_ns()

    assert time.stepped_ns == 0


MOVES = st.lists(
    st.tuples(
        st.integers(0, 10_000 * NS) | st.integers(0, 300),
        st.sampled_from([0, 0, 0, NS // 2, -NS // 2, 5 * NS, -5 * NS, 10**15, -(10**15)]),
    ),
    max_size=40,
)


@pytest.mark.slow
@given(moves=MOVES, last_ns=st.sampled_from([0, WALL_NS, WALL_NS + 10**15]))
def test_log_time_never_goes_back_and_never_lags(
    moves: list[tuple[int, int]], last_ns: int
) -> None:
    """However the wall clock is set: monotone, at least the wall clock, at least 99 % of pace."""
    clock = HandClock()
    time = LogTime(clock, last_ns=last_ns)
    read = [(clock.monotonic, time.now_ns())]
    steps_ns = 0
    for elapsed_ns, step_ns in moves:
        clock.move(elapsed_ns, step_ns)
        if abs(step_ns) > STEP_NS_MAX:
            steps_ns += step_ns
        read.append((clock.monotonic, time.now_ns()))
        assert read[-1][1] >= clock.wall

    assert read[0][1] >= last_ns
    for (monotonic, before), (later, after) in pairwise(read):
        assert after >= before
        assert after - before >= (later - monotonic) * 99 // 100 - 1
    assert time.stepped_ns == steps_ns


def test_many_readings_do_not_slow_log_time() -> None:
    """A busy log whose clock was set back keeps 99 % of pace, not what rounding leaves of it."""
    clock = HandClock()
    time = LogTime(clock, last_ns=0)
    start_ns = time.now_ns()
    clock.move(0, step_ns=-3600 * NS)
    for _ in range(100_000):
        clock.move(1)
        time.now_ns()

    assert time.now_ns() - start_ns == 99_000


@pytest.mark.slow
@given(moves=MOVES, ahead_ns=st.integers(0, 10_000 * NS))
def test_a_timer_is_awaited_neither_too_long_nor_in_vain(
    moves: list[tuple[int, int]], ahead_ns: int
) -> None:
    """Log time reaches a due time exactly when it was planned, if nobody sets the clock."""
    clock = HandClock()
    time = LogTime(clock, last_ns=0)
    for elapsed_ns, step_ns in moves:
        clock.move(elapsed_ns, step_ns)
        time.now_ns()
    due_ns = time.now_ns() + ahead_ns
    planned_ns = time.monotonic_at(due_ns)

    wait_ns = planned_ns - clock.monotonic
    if wait_ns > 0:
        clock.move(wait_ns - 1)
        assert time.now_ns() < due_ns
        clock.move(1)
    assert time.now_ns() >= due_ns


# ---------------------------------------------------------------- the engine under a set clock


def divergences_of(app: App, log: MemoryLog) -> list[Any]:
    return list(fold(app.decider, [x for _, batch in log.read() for x in batch]).divergences)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
async def test_a_watchdog_outlives_a_clock_that_is_set(step_s: float) -> None:
    """A sensor that falls silent is noticed although somebody set the clock, back or forth."""
    app, log, clock = App("plant"), MemoryLog(), VirtualClock()

    @app.rule(silent(subject("a"), for_=10))
    async def quiet() -> None: ...

    with anyio.fail_after(20):
        async with app.open(log, clock=clock) as engine:
            await engine.emit("a")
            clock.step_wall(step_s)
            await clock.advance(11)
            await engine.drain()
            fired = engine.state().rules[0].fired

    assert fired == 1
    assert divergences_of(app, log) == []


async def test_timers_go_before_the_record_of_a_step() -> None:
    """A clock set forward makes timers due; they come first (law L3), then the step."""
    app, log, clock = App("plant"), MemoryLog(), VirtualClock()

    @app.rule(silent(subject("a"), for_=10))
    async def quiet() -> None: ...

    async with app.open(log, clock=clock) as engine:
        await engine.emit("a")
        await clock.advance(1)
        clock.step_wall(3600)
        await engine.emit("a")
        await engine.drain()

    records = [r.decode(x) for _, batch in log.read() for x in batch]
    kinds = [type(x) for x in records if not isinstance(x, r.RunCompleted)]
    assert kinds == [
        r.EngineStarted,
        r.EventStored,
        r.TimerFired,
        r.RuleFired,
        r.ClockStepped,
        r.EventStored,
        r.EngineStopped,
    ]
    assert [x.step_ns for x in records if isinstance(x, r.ClockStepped)] == [3600 * NS]
    assert divergences_of(app, log) == []


OUTSIDE = {"open": True}


async def test_a_divergence_is_recorded_after_the_timers_that_are_overdue() -> None:
    """What a start has to say about one rule does not look like silence of another (L3)."""
    app, log, clock = App("plant"), MemoryLog(), VirtualClock()

    @app.rule(subject("a").where(lambda e: OUTSIDE["open"]))
    async def impure() -> None: ...

    @app.rule(silent(subject("a"), for_=10))
    async def quiet() -> None: ...

    OUTSIDE["open"] = True
    async with app.open(log, clock=clock) as engine:
        await engine.emit("a")
    OUTSIDE["open"] = False
    await clock.advance(60)
    async with app.open(log, clock=clock) as engine:
        await engine.drain()

    records = [r.decode(x) for _, batch in log.read() for x in batch]
    kinds = [type(x) for x in records if isinstance(x, (r.TimerFired, r.RuleDiverged))]
    assert kinds == [r.TimerFired, r.RuleDiverged]
    assert [found.rule for found in divergences_of(app, log)] == ["impure"]


# ---------------------------------------------------------------- virtual time


@pytest.mark.slow
async def test_virtual_time_wakes_in_the_order_of_the_deadlines() -> None:
    """A test sees what happens in the order of time, and ties in the order of asking."""
    clock, woken = VirtualClock(), list[tuple[str, int]]()

    async def sleeper(name: str, until_ns: int) -> None:
        await clock.sleep_until(until_ns)
        woken.append((name, clock.monotonic_ns()))

    async with anyio.create_task_group() as group:
        for name, until_ns in [("c", 3), ("a", 1), ("b", 1), ("z", 9 * NS)]:
            group.start_soon(sleeper, name, until_ns)
            await anyio.wait_all_tasks_blocked()
        await clock.advance(5)
        assert woken == [("a", 1), ("b", 1), ("c", 3)]
        await clock.advance(4)

    assert woken[-1] == ("z", 9 * NS)
    assert clock.wall_ns() == WALL_NS + 9 * NS


async def test_virtual_time_stops_at_deadlines_that_come_up_on_the_way() -> None:
    """A task that sleeps again and again is woken at each of its deadlines."""
    clock, woken = VirtualClock(), list[int]()

    async def beat() -> None:
        while len(woken) < 4:
            await clock.sleep_until(clock.monotonic_ns() + NS)
            woken.append(clock.monotonic_ns() // NS)

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        await clock.advance(10)

    assert woken == [1, 2, 3, 4]
    assert clock.monotonic_ns() == 10 * NS


@pytest.mark.slow
async def test_a_day_of_deadlines_takes_no_real_time() -> None:
    """A thousand runs that sleep are waited for in their turns, not in tenths of seconds."""
    app, clock = App("plant"), VirtualClock()

    @app.every(60)
    async def beat(run: Run) -> None:
        await run.sleep(30)

    with anyio.fail_after(60):  # without the turns it takes minutes
        async with app.open(MemoryLog(), clock=clock) as engine:
            await clock.advance(60 * 500)
            fired = engine.state().rules[0].fired

    assert fired == 500


async def test_a_deadline_in_the_past_does_not_wait() -> None:
    """Sleeping until now or earlier returns at once."""
    clock = VirtualClock()
    await clock.advance(5)

    with anyio.fail_after(5):
        await clock.sleep_until(5 * NS)
        await clock.sleep_until(0)


async def test_the_system_clock_sleeps_until_its_deadline() -> None:
    """`sleep_until` never returns before the deadline."""
    clock = SystemClock()
    until_ns = clock.monotonic_ns() + 2_000_000

    await clock.sleep_until(until_ns)

    assert clock.monotonic_ns() >= until_ns
    assert clock.wall_ns() > WALL_NS


@pytest.mark.parametrize(
    ("seconds", "expected_ns"),
    [
        (0, 0),
        (1, NS),
        (0.1, 100_000_000),
        (1e-9, 1),
        (-1.5, -1_500_000_000),
        (1_700_000_000.25, 1_700_000_000_250_000_000),
        (1_700_000_000, WALL_NS),
        (999_999_999.5, 999_999_999_500_000_000),
        (60.000000001, 60_000_000_001),
    ],
)
def test_seconds_become_exact_nanoseconds(seconds: float, expected_ns: int) -> None:
    """A window of 60.000000001 s is that, also beyond 2**53 nanoseconds."""
    assert seconds_to_ns(seconds) == expected_ns


@given(st.integers(0, 2**62))
def test_whole_seconds_have_no_error(seconds: int) -> None:
    """Whole seconds of any size are exact."""
    assert seconds_to_ns(seconds) == seconds * NS


async def test_a_time_that_has_passed_lets_others_have_their_turn() -> None:
    """Whoever waits for it in a loop would keep all else from moving on, log time too."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    clock = SystemClock()
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        for _ in range(5):
            await clock.sleep_until(clock.monotonic_ns() - 1)
        group.cancel_scope.cancel()
    assert turns >= 3
