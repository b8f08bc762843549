"""Sync tasks run in threads that are the engine's own, and few."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
from tests.engine.stand import GatedLog, StepClock, of_kind, opened, quiet, until

import headrace.engine.threads as threads_module
from headrace import App, LogFull, MemoryLog, Retry, Run, WorkerNotStarted, on
from headrace.engine.defaults import PROBE_S
from headrace.engine.record import AttemptFailed, RunCompleted


async def test_a_retry_waits_for_the_thread_that_took_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two attempts of one run are never at work at once; what came too late is discarded."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, clock, go, log = App("t"), StepClock(), threading.Event(), MemoryLog()
    attempts, at_work, most = list[int](), 0, 0

    @app.rule(on("a"), timeout=5, retry=Retry(attempts=2, wait_first=1, jitter=0))
    def act(run: Run) -> str:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        attempts.append(run.attempt)
        if run.attempt == 1:
            go.wait()
        at_work -= 1
        return f"attempt {run.attempt}"

    async with opened(app, log, clock) as engine:
        try:
            await engine.emit("a")
            await until(lambda: attempts)
            await clock.step(engine, 5)
            await until(lambda: engine.runs("retrying"))
            await clock.step(engine, 1)
            await quiet(engine)
            assert attempts == [1]
        finally:
            go.set()
        await until(lambda: engine.runs("completed"))

    assert attempts == [1, 2]
    assert most == 1
    assert [failed.error for failed in of_kind(log, AttemptFailed)] == [
        "TimeoutError: the attempt took over 5 s"
    ]
    assert [bytes(done.result) for done in of_kind(log, RunCompleted)] == [b"\xa9attempt 2"]
    assert "thread_disowned" in caplog.text
    assert "thread_ended_late" in caplog.text


async def test_waiting_for_that_thread_takes_no_time_of_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a thread that is late would use up all attempts of its run."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, clock, go, log = App("t"), StepClock(), threading.Event(), MemoryLog()
    attempts = list[int]()

    @app.rule(on("a"), timeout=5, retry=Retry(attempts=3, wait_first=1, jitter=0))
    def act(run: Run) -> None:
        attempts.append(run.attempt)
        if run.attempt < 3:
            go.wait()

    async with opened(app, log, clock) as engine:
        try:
            await engine.emit("a")
            await until(lambda: attempts)
            await clock.step(engine, 5)
            await until(lambda: engine.runs("retrying"))
            await clock.step(engine, 1)
            await clock.step(engine, 500)
            assert attempts == [1]
            assert len(of_kind(log, AttemptFailed)) == 1
        finally:
            go.set()
        await until(lambda: attempts == [1, 2])
        await engine.drain()

    assert attempts == [1, 2]


async def test_waiting_for_a_thread_of_the_pool_takes_no_time_of_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or what comes last of many would time out without having been executed."""
    monkeypatch.setattr(threads_module, "THREADS_MAX", 1)
    app, clock, go, log = App("t"), StepClock(), threading.Event(), MemoryLog()
    began = list[int]()

    @app.rule(on("first"))
    def first() -> None:
        began.append(1)
        go.wait()

    @app.rule(on("second"), timeout=5)
    def second() -> None:
        began.append(2)

    async with opened(app, log, clock) as engine:
        try:
            await engine.emit("first")
            await until(lambda: began)
            await engine.emit("second")
            await clock.step(engine, 500)
        finally:
            go.set()
        await engine.drain()

    assert began == [1, 2]
    assert len(of_kind(log, RunCompleted)) == 2


async def test_an_attempt_that_waited_for_that_thread_has_its_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From when its own code begins."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, clock, log = App("t"), StepClock(), MemoryLog()
    first, second = threading.Event(), threading.Event()
    attempts = list[int]()

    @app.rule(on("a"), timeout=5, retry=Retry(attempts=2, wait_first=1, jitter=0))
    def act(run: Run) -> None:
        attempts.append(run.attempt)
        (first if run.attempt == 1 else second).wait()

    async with opened(app, log, clock) as engine:
        try:
            await engine.emit("a")
            await until(lambda: attempts)
            await clock.step(engine, 5)
            await until(lambda: engine.runs("retrying"))
            await clock.step(engine, 7)
            first.set()
            await until(lambda: attempts == [1, 2])
            await clock.step(engine, 4.9)
            assert engine.runs("dead") == []
            await clock.step(engine, 0.2)
            await until(lambda: engine.runs("dead"))
        finally:
            first.set()
            second.set()


async def test_a_run_that_waits_for_its_thread_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has nothing under way itself."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, clock, go = App("t"), StepClock(), threading.Event()
    attempts = list[int]()

    @app.rule(on("a"), timeout=5, retry=Retry(attempts=2, wait_first=1, jitter=0))
    def act(run: Run) -> None:
        attempts.append(run.attempt)
        go.wait()

    async with opened(app, clock=clock) as engine:
        try:
            await engine.emit("a")
            await until(lambda: attempts)
            await clock.step(engine, 5)
            await until(lambda: engine.runs("retrying"))
            await clock.step(engine, 1)
            await engine.cancel(engine.runs("active")[0].id)
            await engine.drain()
        finally:
            go.set()

    assert attempts == [1]


@pytest.mark.parametrize("is_step", [False, True])
async def test_after_a_full_disk_a_run_waits_for_the_thread_of_before(
    is_step: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step too, which has another id by then: its request was not on the disk yet."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, clock, go, log = App("t"), StepClock(), threading.Event(), GatedLog()
    began, at_work, most = list[int](), 0, 0

    @app.task
    def work(run: Run) -> str:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        began.append(run.id)
        if len(began) == 1:
            go.wait()
        at_work -= 1
        return "done"

    @app.task
    async def caller(run: Run) -> str:
        log.hold = not began
        return await run.call(work)

    async with opened(app, log, clock) as engine:
        try:
            run_id = await engine.launch(caller if is_step else work)
            await until(lambda: began)
            before = engine.kernel
            log.failure = LogFull("no room")
            log.release()
            log._check_open()()
            await until(lambda: engine.kernel is not before)
            while not engine.state().ready:
                await clock.step(engine, PROBE_S)
            await quiet(engine)
            assert len(began) == 1
            assert "thread_left_behind" not in caplog.text
        finally:
            go.set()
        assert await engine.result(run_id) == "done"

    assert most == 1
    assert len(began) == 2
    assert (began[0] == began[1]) is not is_step
    assert "thread_ended_late" in caplog.text


async def test_a_thread_that_cannot_be_started_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the pool would be used up by what the system had no room for, and all would stop."""
    monkeypatch.setattr(threads_module, "THREADS_MAX", 1)
    start, refusals = threading.Thread.start, [1, 2]

    def start_late(thread: threading.Thread) -> None:
        if refusals and isinstance(thread, threads_module.Thread):
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    app, clock, log = App("t"), StepClock(), MemoryLog()

    @app.task(retry=Retry(attempts=3, wait_first=0, jitter=0, on=WorkerNotStarted))
    def work() -> str:
        return "done"

    async with opened(app, log, clock) as engine:
        assert await engine.result(await engine.launch(work)) == "done"

    error = (
        "WorkerNotStarted: task 'work': expected a thread to execute it in, found that none can "
        "be started (RuntimeError: can't start new thread); see the system's limits of processes, "
        "threads, files and memory"
    )
    assert [failed.error for failed in of_kind(log, AttemptFailed)] == [error] * 2


async def test_a_thread_that_never_ends_is_named_when_the_engine_closes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a daemon, and all that is left of the engine."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    caplog.set_level(logging.WARNING)
    app, go, began = App("t"), threading.Event(), list[threading.Thread]()
    before = set(threading.enumerate())

    @app.rule(on("a"))
    def stubborn() -> None:
        began.append(threading.current_thread())
        go.wait()

    @app.rule(on("a"))
    def obedient() -> None:
        """End at once."""

    try:
        async with opened(app) as engine:
            await engine.emit("a")
            await until(lambda: began and engine.runs("completed"))
        assert set(threading.enumerate()) - before == {began[0]}
        assert began[0].daemon
        assert "thread_left_behind" in caplog.text
        assert "task='stubborn'" in caplog.text
        assert "obedient" not in caplog.text
    finally:
        go.set()
        began[0].join(10)

    assert not began[0].is_alive()


PROGRAM = """
import anyio, threading
import headrace.engine.threads as threads
from headrace import App, MemoryLog, on

threads.CANCEL_GRACE_S = 0.01
app, began = App("t"), threading.Event()

@app.rule(on("a"))
def stubborn() -> None:
    began.set()
    threading.Event().wait()

async def main() -> None:
    async with app.open(MemoryLog(), grace_s=0) as engine:
        await engine.emit("a")
        while not began.is_set():
            await anyio.sleep(0.001)
    print("closed")

anyio.run(main)
"""


@pytest.mark.slow
def test_a_thread_that_never_ends_does_not_keep_the_program_alive() -> None:
    """Whoever embeds an engine can exit."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr


async def test_threads_are_used_again() -> None:
    """A thread for each call would cost more than most calls."""
    app, used = App("t"), set[int]()

    @app.rule(on("a"))
    def act() -> None:
        used.add(threading.get_ident())

    async with opened(app) as engine:
        for _ in range(20):
            await engine.emit("a")
            await engine.drain()

    assert len(used) == 1
