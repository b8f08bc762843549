"""A crash at any record, then a restart, comes to the same as no crash.

The log of an undisturbed run is cut behind each of its units, which is all that a crash
can leave.  Each piece is opened again and goes on from its cursor.
"""

from __future__ import annotations

from random import Random

import anyio
import pytest
from tests.simulation.shapes import (
    INPUT,
    Input,
    Outcome,
    Trail,
    completed_runs,
    feed,
    make_app,
    outcome_of,
    random_input,
    records_of,
)

from headrace import MemoryLog
from headrace.engine.defaults import CRASH_ATTEMPTS_MAX
from headrace.engine.record import is_decision

HANG_S = 30.0


async def go_on(
    log: MemoryLog, events: Input = INPUT, *, crash_attempts_max: int = CRASH_ATTEMPTS_MAX
) -> Trail:
    """Open *log*, let everything happen that is left, close it; return what was executed."""
    trail = Trail()
    app = make_app(trail)
    with anyio.fail_after(HANG_S):
        async with app.open(
            log, clock="input", grace_s=0, crash_attempts_max=crash_attempts_max
        ) as engine:
            assert engine.kernel.divergences == []
            trail.engine = engine
            await feed(engine, events)
    return trail


async def undisturbed(events: Input = INPUT) -> tuple[MemoryLog, Outcome]:
    """Return the log of a run without a crash, and what came of it."""
    log = MemoryLog()
    await go_on(log, events)
    return log, outcome_of(log)


def borders(log: MemoryLog) -> list[int]:
    """Return the places at which a crash may cut *log*."""
    return [s - 1 for s, record in records_of(log) if not is_decision(record)]


def check(left: MemoryLog, done: set[int], trail: Trail, expected: Outcome, place: object) -> None:
    """Compare what came of a log that was cut with what should have come of it."""
    found = expected.difference(outcome_of(left))
    assert not found, "\n".join([str(place), *found])
    again = done & set(trail.executed)
    assert not again, f"{place}: executed again although their results were recorded: {again}"


async def test_the_shapes_do_what_they_should() -> None:
    """The run that all others are compared with has every kind of thing in it."""
    log, outcome = await undisturbed()
    kinds = {type(record).__name__ for _, record in records_of(log)}
    runs = "\n".join(outcome.runs)

    assert kinds >= {
        "EventStored",
        "TimerFired",
        "RunCompleted",
        "RunFailed",
        "RunCancelled",
        "AttemptFailed",
        "StepRequested",
        "SleepRequested",
        "RunLaunched",
        "RunRedriven",
        "WaitRequested",
        "WaitEnded",
        "SignalSent",
        "CancelRequested",
        "RuleFired",
        "RunReleased",
        "RunReplaced",
        "RunCancelling",
        "RuleMismatch",
        "PatchMarked",
        "RunFailing",
        "TasksListed",
    } - {"RunReplaced"}
    for said in (
        "a newer firing restarts it",
        "a rule asked for it",
        "a sibling failed",
        "its parent ended",
        "as it had to come",
        "result [3, 'OSError: attempt 3']",
        "result 4 ",
        "launch bill{'what': 'coal'} [of the day]: result coal",
        "result [70000, 70000, 1]",
        "result [1, 2]",
        "another one won the race",
        "result [1.0, 'ValueError: two and a half', True]",
        "result [[1, 1.0], [4, 1.5], [2, 3.0], [1, 0.5], [2, 0.75]]",
        "because of ValueError: no visa",
        "failed ValueError: no visa; not undone: release (run N): OSError: train is not released",
        "cancelled: rain at",
        "result judge with {'n': 3}: ValueError: 3",
        "result judge with {'n': 70000}: ValueError: 70000",
        "redriven at",
        "result [1, 2, None, 1400000059.0]",
        "result [1400000049.0, 1400000054.0, [8, 9], [7, 8], False, None, 1400000062.0]",
    ):
        assert said in runs, runs
    assert sum(outcome.events.values()) > len(INPUT) + 20


async def test_undisturbed_runs_agree() -> None:
    """What is compared does not change by itself."""
    _, first = await undisturbed()
    _, second = await undisturbed()

    assert not first.difference(second), "\n".join(first.difference(second))


async def crash_behind_units(step: int) -> None:
    """Compare a crash behind each unit, or each so many, with none."""
    log, expected = await undisturbed()
    for upto in borders(log)[::step]:
        left = log.copy(upto)
        done = completed_runs(left)
        trail = await go_on(left)
        check(left, done, trail, expected, f"cut at {upto}")


async def test_crash_behind_many_units(anyio_backend_name: str) -> None:
    """Wherever the crash comes, nothing is lost, nothing happens twice, nothing hangs."""
    await crash_behind_units(4 if anyio_backend_name == "asyncio" else 27)


@pytest.mark.soak
async def test_crash_behind_every_unit() -> None:
    """The same for each of them."""
    await crash_behind_units(1)


@pytest.mark.parametrize("seed", range(8))
async def test_many_crashes_in_a_row(seed: int) -> None:
    """Restarts that do not get far add up to one that does."""
    rng = Random(seed)
    log, expected = await undisturbed()
    left = log.copy(rng.choice(borders(log)))
    for _ in range(6):
        upto = left.committed_sequence
        done = completed_runs(left)
        # Nobody is to be suspected of what the test does.
        trail = await go_on(left, crash_attempts_max=0)
        check(left, done, trail, expected, f"seed {seed}, cut at {upto}")
        later = [border for border in borders(left) if border >= upto]
        # Not far from where it began, so that the next has something left to do.
        left = left.copy(later[min(len(later) - 1, rng.randrange(60))])


async def crash_on_random_input(seed: int, cuts: int) -> None:
    """Compare *cuts* crashes with none, on an input that *seed* draws."""
    rng = Random(seed)
    events = random_input(rng)
    log, expected = await undisturbed(events)
    for upto in rng.sample(borders(log), cuts):
        left = log.copy(upto)
        done = completed_runs(left)
        trail = await go_on(left, events)
        check(left, done, trail, expected, f"seed {seed}, cut at {upto}")


@pytest.mark.parametrize("seed", range(12))
async def test_crash_on_random_input(seed: int) -> None:
    """The shapes may meet at any time."""
    await crash_on_random_input(seed, cuts=8)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 400))
async def test_crash_on_much_random_input(seed: int) -> None:
    """As above, for many more."""
    await crash_on_random_input(seed, cuts=20)
