"""Under virtual time a day of sleeps, retries and threads takes no time, and loses no order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from time import sleep as really_sleep
from typing import Any

import anyio
import msgspec
import pytest
import tenacity
from anyio import from_thread, to_thread
from tests.engine.process_tasks import large
from tests.engine.stand import of_kind

from headrace import App, Engine, FileLog, MemoryLog, Retry, Run, on
from headrace.engine.clock import NS
from headrace.engine.record import EventStored, RunCompleted, decode
from headrace.testing import VirtualTime, virtual_time

DAY_S = 86_400.0
REAL_S_MAX = 20.0
"""What a busy machine may take for milliseconds of work; a day is longer."""


async def result_of(engine: Engine, log: MemoryLog) -> Any:
    """Return what the last of the runs came to, once all have ended."""
    await engine.drain()
    assert {run.status for run in engine.runs()} == {"completed"}
    return msgspec.msgpack.decode(of_kind(log, RunCompleted)[-1].result)


async def test_a_day_of_sleeps_takes_no_time() -> None:
    """A test need not wait for what it says."""
    began = perf_counter()
    async with virtual_time() as clock:
        for _ in range(24):
            await anyio.sleep(3600)

        assert clock.now == DAY_S
    assert perf_counter() - began < REAL_S_MAX


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    """What happens first in real time happens first."""
    woken: list[tuple[str, float]] = []
    async with virtual_time() as clock, anyio.create_task_group() as group:

        async def sleeper(name: str, seconds: float) -> None:
            await anyio.sleep(seconds)
            woken.append((name, clock.now))

        for name, seconds in (("b", 20.0), ("c", 3000.5), ("a", 0.25)):
            group.start_soon(sleeper, name, seconds)

    assert woken == [("a", 0.25), ("b", 20.0), ("c", 3000.5)]


async def test_time_outs_go_by_it() -> None:
    """`fail_after(3600)` around a test that hangs says so at once."""
    async with virtual_time() as clock:
        with pytest.raises(TimeoutError), anyio.fail_after(3600):
            await anyio.sleep_forever()

        assert clock.now == 3600


async def test_retries_timers_and_sleeps_of_an_engine() -> None:
    """A day in the life of an app, with the times that its log would have."""
    app, log = App("t"), MemoryLog()
    ticks: list[float] = []

    @app.every(3600)
    async def tick(run: Run) -> None:
        ticks.append(run.now())

    @app.rule(on("go"), retry=Retry(attempts=4, wait_first=600, wait_max=9999, jitter=0))
    async def work(run: Run) -> None:
        if run.attempt < 4:
            raise OSError
        await run.sleep(1800)

    async with virtual_time() as clock:
        begun_s = clock.wall_ns() / NS
        async with app.open(log, clock=clock) as engine:
            await engine.emit("go")
            await clock.advance(DAY_S)

            assert [run.status for run in engine.runs() if run.task == "work"] == ["completed"]
    ended = [record.at_ns / NS - begun_s for record in of_kind(log, RunCompleted)]
    assert 600 + 1200 + 2400 + 1800 in ended
    assert [at - begun_s for at in ticks] == [3600.0 * hour for hour in range(1, 25)]


@pytest.mark.parametrize("in_thread", [False, True], ids=["on the loop", "in a thread"])
async def test_what_tenacity_waits_for_itself(in_thread: bool) -> None:
    """Retries that a task makes without headrace wait in virtual time, and stop by it."""
    app, tried_at = App("t"), list[float]()
    how: dict[str, Any] = {
        "stop": tenacity.stop_after_delay(7200),
        "wait": tenacity.wait_fixed(1000),
        "reraise": True,
    }

    def fails(clock: VirtualTime) -> Any:
        tried_at.append(clock.now)
        raise OSError("no answer")

    async with virtual_time() as clock:
        if in_thread:

            @app.rule(on("go"), name="ask")
            def ask_in_thread() -> str:
                with pytest.raises(OSError, match="no answer"):
                    tenacity.Retrying(**how)(fails, clock)
                return "gave up"
        else:

            @app.rule(on("go"), name="ask")
            async def ask() -> str:
                with pytest.raises(OSError, match="no answer"):
                    await tenacity.AsyncRetrying(**how)(fails, clock)
                return "gave up"

        log = MemoryLog()
        async with app.open(log, clock=clock) as engine:
            await engine.emit("go")

            assert await result_of(engine, log) == "gave up"
    assert tried_at == [1000.0 * number for number in range(9)]


# ---------------------------------------------------------------- what is done elsewhere


def works(clock: VirtualTime, seen: list[float]) -> str:
    """Work for a while, and note whether time goes on meanwhile."""
    really_sleep(0.02)
    seen.append(clock.now)
    return "done"


async def in_engine(clock: VirtualTime, seen: list[float]) -> str:
    app = App("t")

    @app.rule(on("go"))
    def work() -> str:
        return works(clock, seen)

    log = MemoryLog()
    async with app.open(log, clock=clock) as engine:
        await engine.emit("go")
        return str(await result_of(engine, log))


async def by_anyio(clock: VirtualTime, seen: list[float]) -> str:
    return await to_thread.run_sync(works, clock, seen)


async def by_the_loop(clock: VirtualTime, seen: list[float]) -> str:
    if threading.current_thread() is not threading.main_thread():
        pytest.fail("the loop is that of the test")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return await trio.to_thread.run_sync(works, clock, seen)
    return await asyncio.to_thread(works, clock, seen)


@pytest.mark.parametrize("work", [in_engine, by_anyio, by_the_loop])
async def test_time_stands_still_while_a_thread_works(
    work: Callable[[VirtualTime, list[float]], Any],
) -> None:
    """A thread that takes its time is not overrun by a time-out."""
    seen: list[float] = []
    async with virtual_time() as clock:
        with anyio.fail_after(1):
            assert await work(clock, seen) == "done"

        assert seen == [0.0]
        assert clock.now == 0


async def test_a_thread_may_fail() -> None:
    """What a thread raises arrives, and time goes on."""
    async with virtual_time() as clock:
        with pytest.raises(ZeroDivisionError), ThreadPoolExecutor(1) as pool:
            await asyncio_or_thread(pool, lambda: 1 / 0)
        await anyio.sleep(5)

        assert clock.now == 5


async def asyncio_or_thread(pool: ThreadPoolExecutor, call: Callable[[], Any]) -> Any:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return await to_thread.run_sync(call)
    return await loop.run_in_executor(pool, call)


async def test_threads_sleep_in_virtual_time_in_their_order() -> None:
    """`time.sleep` in worker threads is time that passes, for all of them together."""
    woken: list[tuple[str, float, float]] = []
    async with virtual_time() as clock:

        def sleeper(name: str, seconds: float) -> None:
            begun_s = time.monotonic()
            time.sleep(seconds)
            woken.append((name, clock.now, time.monotonic() - begun_s))

        async with anyio.create_task_group() as group:
            for name, seconds in (("b", 7200.0), ("c", 7200.5), ("a", 60.0)):
                group.start_soon(to_thread.run_sync, sleeper, name, seconds)
            await anyio.sleep(3600)
            woken.append(("loop", clock.now, clock.now))

    assert [(name, now) for name, now, _ in woken] == [
        ("a", 60.0), ("loop", 3600.0), ("b", 7200.0), ("c", 7200.5)
    ]  # fmt: skip
    assert [slept for *_, slept in woken] == [60.0, 3600.0, 7200.0, 7200.5]


async def test_more_threads_than_places_take_turns() -> None:
    """A thread that waits for its turn does not keep the others asleep."""
    limiter = anyio.CapacityLimiter(1)
    async with virtual_time() as clock:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: to_thread.run_sync(time.sleep, 100, limiter=limiter))

        assert clock.now == 300


async def test_jobs_of_an_executor_take_turns() -> None:
    """One that waits for a thread does not keep the one asleep that has it."""
    woken: list[float] = []

    def sleeper() -> None:
        time.sleep(100)
        woken.append(time.monotonic())

    async with virtual_time():
        with ThreadPoolExecutor(1) as pool:
            made = [pool.submit(sleeper) for _ in range(3)]
            made[2].cancel()
            await anyio.sleep(350)

        assert woken == [100, 200]
        assert [future.done() for future in made] == [True, True, True]
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(sleeper)
        await anyio.sleep(1)


async def test_a_thread_may_let_the_loop_sleep_for_it() -> None:
    """Code in threads may come back to the loop."""

    def ask() -> float:
        from_thread.run(anyio.sleep, 50)
        time.sleep(5)
        return time.monotonic()

    async with virtual_time() as clock:
        assert await to_thread.run_sync(ask) == 55
        assert clock.now == 55


async def test_a_thread_that_is_left_sleeps_on_without_harm() -> None:
    """A cancelled wait for a thread leaves nothing that time would wait for."""
    ended = threading.Event()

    def sleeps() -> None:
        time.sleep(1000)
        ended.set()

    async with virtual_time() as clock:
        with anyio.move_on_after(10):
            await to_thread.run_sync(sleeps, abandon_on_cancel=True)
        assert clock.now == 10
        await anyio.sleep(3)
        assert clock.now == 13
    assert ended.wait(REAL_S_MAX)


async def test_time_stands_still_while_a_process_works() -> None:
    """The time that a worker process takes to start is no time."""
    app = App("t")
    app.task(process=True)(large)

    @app.rule(on("go"))
    async def work(run: Run) -> str:
        return await run.call(large, 3)

    log = MemoryLog()
    async with virtual_time() as clock, app.open(log, clock=clock) as engine:
        with anyio.fail_after(1):
            await engine.emit("go")
            assert len(await result_of(engine, log)) == 3

        assert clock.now == 0


async def test_time_stands_still_while_a_log_is_written(tmp_path: Path) -> None:
    """A disk takes real time: no time-out may fall into it."""
    app, log = App("t"), FileLog(tmp_path / "log")
    async with virtual_time() as clock, app.open(log, clock=clock) as engine:
        with anyio.fail_after(1):
            for _ in range(10):
                await engine.emit("go")

        assert clock.now == 0
        times = {
            record.at_ns
            for _, batch in log.read()
            for record in map(decode, batch)
            if isinstance(record, EventStored)
        }
        assert times == {clock.wall_ns()}


# ---------------------------------------------------------------- as a clock


async def test_settled_lets_all_go_on_and_no_time_pass() -> None:
    """A test can look at what follows at once."""
    done: list[str] = []

    async def chain() -> None:
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        done.append("now")
        await anyio.sleep(1)
        done.append("later")

    async with virtual_time() as clock, anyio.create_task_group() as group:
        group.start_soon(chain)
        await clock.settled()
        assert (done, clock.now) == (["now"], 0)
        await clock.advance(1)
        assert (done, clock.now) == (["now", "later"], 1)


async def test_settled_that_is_cancelled_leaves_nothing() -> None:
    """A wait that somebody ends is not woken afterwards."""
    async with virtual_time() as clock:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await clock.settled()
        await clock.settled()

        assert clock.now == 0


async def test_the_wall_clock_can_be_set() -> None:
    """What an operator or NTP does to a machine can be tried."""
    async with virtual_time(wall_ns=100 * NS) as clock:
        clock.step_wall(-60)
        await anyio.sleep(5)

        assert (clock.wall_ns(), clock.monotonic_ns()) == (45 * NS, 5 * NS)
        assert (time.time(), time.time_ns()) == (45.0, 45 * NS)
        assert (time.monotonic(), time.monotonic_ns()) == (5.0, 5 * NS)


async def test_blocking_the_loop_lets_time_pass() -> None:
    """`time.sleep` on the loop takes what it would take, and holds up the others."""
    async with virtual_time() as clock:
        time.sleep(30)  # noqa: ASYNC251 (that is what is tested)

        assert clock.now == 30
        with pytest.raises(ValueError, match="non-negative"):
            time.sleep(-1)  # noqa: ASYNC251


async def test_threads_of_others_live_in_real_time() -> None:
    """What does not work for the loop is left alone."""
    read: list[float] = []
    async with virtual_time():
        thread = threading.Thread(target=lambda: read.append(time.time()))
        thread.start()
        thread.join()

    assert read[0] > 1_750_000_000


async def test_afterwards_everything_is_as_it_was() -> None:
    """Nothing of it stays behind, whether the test passes or fails."""
    from headrace.engine.processes import Processes
    from headrace.engine.threads import Thread

    def parts() -> list[Any]:
        return [
            time.sleep, time.monotonic, time.monotonic_ns, time.time, time.time_ns,
            ThreadPoolExecutor.submit, Thread.do, Processes._answer, FileLog.open, FileLog.close,
        ]  # fmt: skip

    before, real = parts(), anyio.current_time()
    with pytest.raises(LookupError):
        async with virtual_time():
            assert parts() != before
            await anyio.sleep(DAY_S)
            raise LookupError

    assert parts() == before
    assert 0 <= anyio.current_time() - real < REAL_S_MAX
    began = perf_counter()
    await anyio.sleep(0.02)
    assert perf_counter() - began >= 0.01


# ---------------------------------------------------------------- where it cannot be


async def test_it_is_refused_where_time_is_virtual_already() -> None:
    """Two virtual times would each believe that the other one works."""
    async with virtual_time():
        with pytest.raises(RuntimeError, match="only one virtual_time at a time"):
            async with virtual_time():
                pass
        await anyio.sleep(1)


def test_it_is_refused_on_a_loop_that_cannot_be_told() -> None:
    """As uvloop reads the clock in C, it says so instead of waiting a day."""
    import uvloop

    async def enter() -> None:
        async with virtual_time():
            pass

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match=r"expected an event loop of asyncio's own.*uvloop"),
    ):
        runner.run(enter())
