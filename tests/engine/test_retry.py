"""Whether and when a failed attempt is followed by another."""

from __future__ import annotations

import itertools
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.stand import Gate, StepClock, of_kind, opened, quiet

from headrace import App, EventRefused, Firing, MemoryLog, Retry, Run, StepCancelled, StepFailed, on
from headrace.engine.record import AttemptFailed, RunFailed, TimerFired
from headrace.engine.retry import retry_after_ns

NS = 10**9


async def waits_of(policy: Any, *, error: Exception | None = None) -> tuple[list[float], MemoryLog]:
    """Let a run fail until it is given up; return the waits in between, in seconds."""
    app, clock, log, began = App("t"), StepClock(), MemoryLog(), list[float]()

    @app.rule(on("a"), retry=policy)
    async def act(run: Run) -> None:
        began.append(run.now())
        raise error or OSError("as ever")

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 100_000)
        assert engine.runs("active") == []
    return [later - first for first, later in itertools.pairwise(began)], log


# ---------------------------------------------------------------- our own policy


async def test_waits_double_up_to_their_cap() -> None:
    """The formula of the docstring, to the nanosecond, in virtual time."""
    waits, log = await waits_of(Retry(attempts=8, wait_first=0.5, wait_max=10, jitter=0))
    failed = of_kind(log, AttemptFailed)

    assert waits == [0.5, 1, 2, 4, 8, 10, 10]
    assert [f.retry_at_ns - f.at_ns for f in failed] == [round(wait * NS) for wait in waits]
    assert [f.attempt for f in failed] == [1, 2, 3, 4, 5, 6, 7]
    (given_up,) = of_kind(log, RunFailed)
    assert given_up.attempt == 8
    assert given_up.error == "OSError: as ever"


async def test_jitter_is_drawn_from_the_run_and_stays_in_its_bounds() -> None:
    """Runs do not come back all at once, and a crash does not change when."""
    policy = Retry(attempts=6, wait_first=1, wait_max=100, jitter=0.5)
    waits, log = await waits_of(policy)

    for attempt, wait in enumerate(waits, 1):
        ceiling = 2 ** (attempt - 1)
        assert ceiling / 2 <= wait <= ceiling
    (run,) = {failed.run for failed in of_kind(log, AttemptFailed)}
    seed = f"{log.log_id.hex()}/{run}"
    expected = [policy.wait_s(n, Random(f"{seed}/{n}")) for n in range(1, 6)]
    found = [(f.retry_at_ns - f.at_ns) / NS for f in of_kind(log, AttemptFailed)]
    assert found == pytest.approx(expected, abs=1e-9)


@given(
    attempt=st.integers(1, 10_000),
    first=st.floats(0, 1e6),
    more=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    seed=st.integers(),
)
def test_wait_is_always_a_wait(
    attempt: int, first: float, more: float, jitter: float, seed: int
) -> None:
    """No attempt is too late in the row for the arithmetic."""
    policy = Retry(wait_first=first, wait_max=first + more, jitter=jitter)
    wait = policy.wait_s(attempt, Random(seed))

    assert 0 <= wait <= first + more
    assert wait >= min(first, first + more) * (1 - jitter) - 1e-9


@pytest.mark.parametrize(
    ("asked_s", "wait_s"), [(None, 0.5), (0.1, 0.5), (7, 7.0), (1e9, 300.0), ("soon", 0.5)]
)
def test_wait_that_an_exception_asks_for_is_kept(asked_s: Any, wait_s: float) -> None:
    """Longer than that of the policy, but no longer than its longest."""

    class Busy(Exception):
        retry_after_s = asked_s

    policy = Retry(attempts=2, wait_first=0.5, wait_max=300, jitter=0)
    waited_ns = retry_after_ns(policy, Busy(), attempt=1, first_at_ns=0, now_ns=0, seed="r")
    assert waited_ns == round(wait_s * 1e9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"wait_first": -1},
        {"wait_max": float("inf")},
        {"wait_first": float("nan")},
        {"wait_first": 5, "wait_max": 1},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"on": "OSError"},
        {"on": (OSError, 5)},
        {"on": int},
    ],
    ids=str,
)
def test_policy_that_cannot_work_is_refused_where_it_is_written(wrong: dict[str, Any]) -> None:
    """Not when the first failure comes, at night."""
    with pytest.raises((ValueError, TypeError), match="Retry"):
        Retry(**wrong)


@pytest.mark.parametrize("wrong", [3, "often", lambda: None, tenacity.stop_after_attempt(3)])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    """The message names the task and what would be right."""
    app = App("t")
    with pytest.raises(TypeError, match=r"'act'.*expected Retry"):

        @app.task(retry=wrong)
        async def act() -> None: ...


async def test_only_the_named_exceptions_are_tried_again() -> None:
    """A bug is not repaired by repetition."""
    policy = Retry(attempts=5, wait_first=1, on=(OSError, TimeoutError))
    waits, _ = await waits_of(policy, error=ValueError("a bug"))
    assert waits == []
    waits, _ = await waits_of(policy, error=ConnectionError("a subclass of OSError"))
    assert len(waits) == 4


async def test_durations_may_be_timedeltas() -> None:
    """As everywhere in the API."""
    waits, _ = await waits_of(
        Retry(attempts=2, wait_first=timedelta(minutes=1), wait_max=timedelta(hours=1), jitter=0)
    )
    assert waits == [60]


async def test_no_wait_is_a_retry_at_once() -> None:
    """Also when the deadline of the next attempt is that of the last one."""
    app, tried = App("t"), list[int]()

    @app.rule(on("a"), timeout=5, retry=Retry(attempts=4, wait_first=0, jitter=0))
    async def act(run: Run) -> None:
        tried.append(run.attempt)
        raise OSError

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert tried == [1, 2, 3, 4]


# ---------------------------------------------------------------- tenacity's policies


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            tenacity.Retrying(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(7)),
            [7, 7, 7],
        ),
        (
            tenacity.AsyncRetrying(
                stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_incrementing(1, 2)
            ),
            [1, 3],
        ),
        # Stops by log time: attempts at 0, 10, 20 and 30 s, and 30 is not below 25.
        (
            tenacity.Retrying(stop=tenacity.stop_after_delay(25), wait=tenacity.wait_fixed(10)),
            [10, 10, 10],
        ),
        # The next attempt would be too late.
        (
            tenacity.Retrying(stop=tenacity.stop_before_delay(25), wait=tenacity.wait_fixed(10)),
            [10, 10],
        ),
        (
            tenacity.Retrying(
                stop=tenacity.stop_after_delay(1000) | tenacity.stop_after_attempt(2),
                wait=tenacity.wait_fixed(1) + tenacity.wait_fixed(2),
            ),
            [3],
        ),
        (tenacity.Retrying(stop=tenacity.stop_after_attempt(3)), [0, 0]),
        (
            tenacity.Retrying(
                stop=tenacity.stop_after_attempt(5),
                retry=tenacity.retry_if_not_exception_type(OSError),
            ),
            [],
        ),
        (
            tenacity.Retrying(
                stop=tenacity.stop_after_attempt(3),
                retry=tenacity.retry_if_exception_message(match="as"),
            ),
            [0, 0],
        ),
    ],
    ids=range(8),
)
async def test_policies_of_tenacity_are_accepted(policy: Any, expected: list[float]) -> None:
    """Its algebra decides, by log time: no wait is real."""
    waits, _ = await waits_of(policy)

    assert waits == expected


async def test_stop_after_delay_counts_log_time_over_a_restart() -> None:
    """A downtime belongs to the delay."""
    app, clock, tried = App("t"), StepClock(), list[int]()

    @app.rule(
        on("a"),
        retry=tenacity.Retrying(stop=tenacity.stop_after_delay(100), wait=tenacity.wait_fixed(40)),
    )
    async def act(run: Run) -> None:
        tried.append(run.attempt)
        raise OSError

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
    clock.pass_by(500)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 500)
        assert len(engine.runs("dead")) == 1

    assert tried == [1, 2]


@pytest.mark.parametrize(
    "part", ["stop", "wait", "retry", "infinite wait", "no number", "negative wait"]
)
async def test_policy_that_raises_ends_the_run_and_is_named(part: str) -> None:
    """A broken policy is no reason to lose the first error, or the engine."""

    def broken(state: object) -> Any:
        raise ZeroDivisionError("in the policy")

    parts: dict[str, Any] = {"stop": tenacity.stop_after_attempt(2)}
    if part == "infinite wait":
        parts["wait"] = lambda state: float("inf")
    elif part == "no number":
        parts["wait"] = lambda state: float("nan")
    elif part == "negative wait":
        parts["wait"] = lambda state: -5.0
    else:
        parts[part] = broken
    waits, log = await waits_of(tenacity.Retrying(**parts))
    (failed,) = of_kind(log, RunFailed)

    assert "OSError: as ever" in failed.error
    if part == "negative wait":
        assert waits == [0]
    else:
        assert waits == []
        assert "its retry policy raised" in failed.error


def test_verdict_needs_nothing_but_its_arguments() -> None:
    """The same question has the same answer: no clock, no hidden chance."""
    policy = Retry(attempts=10, wait_first=1, wait_max=60)
    answers = {
        retry_after_ns(policy, OSError(), attempt=3, first_at_ns=0, now_ns=9 * NS, seed="x")
        for _ in range(20)
    }
    assert len(answers) == 1
    other = retry_after_ns(policy, OSError(), attempt=3, first_at_ns=0, now_ns=9 * NS, seed="y")
    assert other not in answers


# ---------------------------------------------------------------- over a crash


async def test_back_off_is_neither_restarted_nor_forgotten_by_a_crash() -> None:
    """The verdict is a record; the policy is not asked again."""
    app, clock, asked, tried = App("t"), StepClock(), list[int](), list[float]()

    def wait(state: tenacity.RetryCallState) -> float:
        asked.append(state.attempt_number)
        return 100.0

    @app.rule(on("a"), retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=wait))
    async def act(run: Run) -> None:
        tried.append(run.now())
        raise OSError

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 60)
        assert engine.runs("retrying")[0].attempt == 1
        left = log.copy()
    async with opened(app, left, clock) as engine:
        await clock.step(engine, 39)
        assert len(tried) == 1
        await clock.step(engine, 2)
        assert len(engine.runs("dead")) == 1

    assert tried[1] - tried[0] == 100
    assert asked == [1, 2]


async def test_retry_keeps_successes_and_runs_only_what_failed() -> None:
    """The steps that worked are not done again because a later one did not."""
    app, clock, done = App("t"), StepClock(), list[str]()

    @app.task
    async def step(name: str) -> str:
        done.append(name)
        if name == "b" and done.count("b") < 3:
            raise OSError(name)
        return name

    @app.rule(on("a"), retry=Retry(attempts=5, wait_first=1, jitter=0))
    async def act(run: Run) -> str:
        first = await run.call(step, "a")
        second, third = run.spawn(step, "c"), await run.call(step, "b")
        return first + await second + third

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 60)
        assert [run.task for run in engine.runs("completed")].count("act") == 1

    assert sorted(done) == ["a", "b", "b", "b", "c"]


async def test_retry_forgets_cancelled_siblings() -> None:
    """A map that failed half-way does its other half in the next attempt."""
    app, clock, done, gate = App("t"), StepClock(), list[int](), Gate()

    @app.task
    async def step(n: int) -> int:
        done.append(n)
        if n == 1 and done.count(1) == 1:
            raise OSError
        if n == 2 and done.count(2) == 1:
            await gate.wait()
        return n

    @app.rule(on("a"), retry=Retry(attempts=5, wait_first=1, jitter=0))
    async def act(run: Run) -> list[int]:
        return await run.map(step, range(5), max_concurrency=3)

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 60)
        assert engine.runs("completed")[0].task in ("act", "step")
        assert engine.runs("dead") == []

    assert sorted(done) == [0, 1, 1, 2, 2, 3, 4]


async def test_retry_keeps_failures_that_the_code_went_past() -> None:
    """Also a cancelled one: the next attempt goes the same way."""
    app, clock, done, gate, trail = App("t"), StepClock(), list[str](), Gate(), list[str]()

    @app.task
    async def bad() -> None:
        done.append("bad")
        raise OSError

    @app.task
    async def slow() -> str:
        done.append("slow")
        await gate.wait()
        return "slow"

    @app.task
    async def good() -> str:
        done.append("good")
        return "good"

    @app.rule(on("a"), retry=Retry(attempts=3, wait_first=1, jitter=0))
    async def act(run: Run) -> None:
        for task in (bad, slow):
            try:
                await run.call(task)
            except StepCancelled:
                trail.append("cancelled")
            except StepFailed:
                trail.append("failed")
        trail.append(await run.call(good))
        if run.attempt == 1:
            raise RuntimeError

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        (child,) = [run for run in engine.runs("active") if run.task == "slow"]
        await engine.cancel(child.id)
        await quiet(engine)
        gate.open()
        await clock.step(engine, 10)
        assert engine.runs("dead") == []

    assert done == ["bad", "slow", "good"]
    assert trail == ["failed", "cancelled", "good"] * 2


async def test_steps_of_an_except_block_do_not_stand_in_the_way_of_a_retry() -> None:
    """What was asked for because of the failure is forgotten with it."""
    app, clock, done = App("t"), StepClock(), list[str]()

    @app.task
    async def charge() -> None:
        done.append("charge")
        if done.count("charge") == 1:
            raise OSError

    @app.task
    async def note(what: str) -> None:
        done.append(what)

    @app.rule(on("a"), retry=Retry(attempts=3, wait_first=1, jitter=0))
    async def act(run: Run) -> None:
        kept = run.spawn(note, "kept")
        await kept
        try:
            await run.call(charge)
        except StepFailed:
            await run.call(note, "failed")
            raise
        await run.call(note, "shipped")

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 10)
        assert engine.runs("dead") == []

    assert done == ["kept", "charge", "failed", "charge", "shipped"]


@pytest.mark.parametrize("error", [EventRefused("x"), "result"])
async def test_what_cannot_be_stored_is_not_tried_again(error: Any) -> None:
    """It would not be smaller the next time."""
    app, tried = App("t"), list[int]()

    @app.rule(on("a"), retry=Retry(attempts=5, wait_first=0))
    async def act(run: Run) -> Any:
        tried.append(1)
        if error == "result":
            return object()
        raise error

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        assert len(engine.runs("dead")) == 1

    assert tried == [1]


async def test_retries_are_timers_of_the_log() -> None:
    """Each is a record, with the time that it was scheduled for."""
    _, log = await waits_of(Retry(attempts=3, wait_first=2, jitter=0))
    due = [failed.retry_at_ns for failed in of_kind(log, AttemptFailed)]

    assert [fired.due_ns for fired in of_kind(log, TimerFired)] == due


async def test_firing_is_the_same_in_each_attempt() -> None:
    """The second attempt sees what the first saw."""
    app, seen = App("t"), list[Any]()

    @app.rule(on("a"), retry=Retry(attempts=3, wait_first=0))
    async def act(run: Run, firing: Firing[Any]) -> None:
        seen.append((firing, run.id, run.key, run.cause, run.random(), run.idempotency_key))
        raise OSError

    async with opened(app) as engine:
        await engine.emit("a", [1, 2])
        await engine.drain()

    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]


# ---------------------------------------------------------------- several policies


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(OSError("a"), 4), (ValueError("b"), 1), (KeyError("c"), 2), (EOFError(), 1)],
)
async def test_of_several_policies_the_first_decides_that_is_for_the_exception(
    error: Exception, attempts: int
) -> None:
    """What goes away is tried often, what does not is not; an exception of none ends the run."""
    policies = [
        Retry(on=OSError, attempts=4, wait_first=0),
        Retry(on=ValueError, attempts=1),
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(KeyError), stop=tenacity.stop_after_attempt(2)
        ),
        Retry(on=(OSError, ValueError), attempts=9, wait_first=0),
    ]
    waits, _ = await waits_of(policies, error=error)
    assert len(waits) + 1 == attempts


async def test_each_of_several_policies_counts_all_attempts() -> None:
    """Three attempts of one and then one that allows two: it was the fourth, and the last."""
    app, clock, log, attempts = App("t"), StepClock(), MemoryLog(), list[int]()

    @app.task(retry=[Retry(on=OSError, attempts=9, wait_first=0), Retry(on=EOFError, attempts=2)])
    async def act(run: Run) -> None:
        attempts.append(run.attempt)
        raise OSError if run.attempt < 4 else EOFError

    async with opened(app, log, clock) as engine:
        await engine.launch(act)
        await clock.step(engine, 10)
    assert attempts == [1, 2, 3, 4]
    assert len(of_kind(log, RunFailed)) == 1
