"""Many runs that fail: their waits are the policy's to the nanosecond, whatever else is on."""

from __future__ import annotations

from random import Random

import pytest
from tests.engine.stand import HANG_S, Gate, StepClock, of_kind, opened, quiet

from headrace import App, Breaker, MemoryLog, Retry, Run
from headrace.engine.record import AttemptFailed, RunFailed

NS = 10**9


class LeapClock(StepClock):
    """A clock that can pass over many deadlines at once."""

    def leap(self, seconds: float) -> None:
        """Move on by *seconds* and wake all whose time has passed."""
        self.pass_by(seconds)
        for _, _, woken in self._sleepers:
            woken.set()
        self._sleepers.clear()


@pytest.mark.slow
async def test_the_waits_of_ten_thousand_failing_runs_are_those_of_the_formula(
    anyio_backend_name: str,
) -> None:
    """Drawn from run and attempt, so no two of them need be the same and each is known."""
    app, clock, log = App("t"), LeapClock(), MemoryLog()
    policy = Retry(attempts=3, wait_first=5, wait_max=20, jitter=0.5)
    count = 10_000 if anyio_backend_name == "asyncio" else 500
    executing = most = 0

    @app.task(retry=policy, concurrency=100)
    async def work() -> None:
        nonlocal executing, most
        executing += 1
        most = max(most, executing)
        executing -= 1
        raise OSError

    async with app.open(log, clock=clock, grace_s=0) as engine:
        for _ in range(count):
            await engine.launch(work)
        while engine.state().runs_active:
            clock.leap(30)
            await quiet(engine)
    failed = of_kind(log, AttemptFailed)
    assert len(failed) == 2 * count
    assert len(of_kind(log, RunFailed)) == count
    for one in failed:
        seed = f"{log.log_id.hex()}/{one.run}/{one.attempt}"
        wait_s = min(5 * 2 ** (one.attempt - 1), 20) * (1 - 0.5 * Random(seed).random())
        assert one.retry_at_ns - one.at_ns == round(wait_s * NS)
    assert most <= 100


async def test_a_breaker_a_deadline_and_a_stop_in_mid_flight_lose_nothing() -> None:
    """Never more in flight than the limit; the stop is at once; the next start ends them all."""
    app, clock, log, gate = App("t"), StepClock(), MemoryLog(), Gate()
    executing = most = 0
    is_failing = True

    @app.task(
        retry=Retry(attempts=4, wait_first=1, wait_max=8, jitter=0.5),
        concurrency=7,
        deadline=500,
        breaker=Breaker(failures=20, within=10, open_for=15),
    )
    async def work(run: Run, n: int) -> int:
        nonlocal executing, most
        executing += 1
        most = max(most, executing)
        try:
            if n % 5 == 0:
                await gate.wait()
            if is_failing:
                raise OSError(str(n))
        finally:
            executing -= 1
        return n

    async with opened(app, log, clock) as engine:
        runs = [await engine.launch(work, n) for n in range(300)]
        await clock.step(engine, 3)
        assert 0 < executing <= 7
        assert [view.state for view in engine.state().breakers] == ["open"]
    assert executing == 0  # stopped at once, since no grace was given
    is_failing = False
    gate.open()
    async with opened(app, log, clock) as engine:
        await clock.step(engine, HANG_S)
        await quiet(engine)
        await clock.step(engine, 400)
        await engine.drain()
        ended = engine.state().runs_ended
    assert 0 < most <= 7
    assert ended == {"completed": len(runs)}
