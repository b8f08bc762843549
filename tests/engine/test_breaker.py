"""A task that goes on failing is left alone for a while, and that outlives the process."""

from __future__ import annotations

from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import Gate, StepClock, check_live, of_kind, opened, quiet, records_of

from headrace import (
    App,
    Breaker,
    CircuitOpen,
    Firing,
    MemoryLog,
    Retry,
    Run,
    StepFailed,
    TaskFailed,
    on,
)
from headrace.engine.breakers import FAILURES_MAX, Breakers, BreakerView
from headrace.engine.record import BreakerMoved

NS = 10**9


def flaky(breaker: Breaker, **options: Any) -> tuple[App, StepClock, list[float], list[bool], Any]:
    """Return an app with a task that fails while the list of one bool says so."""
    app, clock, began, fails = App("t"), StepClock(), list[float](), [True]

    @app.task(breaker=breaker, **options)
    async def work() -> str:
        began.append(clock.monotonic_ns() / NS)
        await checkpoint()
        if fails[0]:
            raise OSError("no")
        return "done"

    return app, clock, began, fails, work


def circuits(engine: Any) -> list[tuple[str, str]]:
    """Return the circuits that are not closed."""
    return [(view.task, view.state) for view in engine.state().breakers]


async def test_after_enough_failures_nothing_begins_until_one_is_tried() -> None:
    """Closed, open, half open, open again, half open, closed: the whole round."""
    app, clock, began, fails, work = flaky(Breaker(failures=3, within=60, open_for=30))
    log = MemoryLog()

    async with opened(app, log, clock) as engine:
        for _ in range(3):
            await engine.launch(work)
            await quiet(engine)
        assert circuits(engine) == [("work", "open")]
        late = [await engine.launch(work) for _ in range(3)]
        await clock.step(engine, 29)
        assert began == [0, 0, 0]
        await clock.step(engine, 1)
        assert began == [0, 0, 0, 30]  # one is tried, and fails
        assert circuits(engine) == [("work", "open")]
        await clock.step(engine, 29)
        fails[0] = False
        assert len(began) == 4
        await clock.step(engine, 1)
        assert began[4:] == [60, 60]
        assert circuits(engine) == []
        await check_live(engine)
        await engine.drain()
        with pytest.raises(TaskFailed):
            await engine.result(late[0])
        assert [await engine.result(run) for run in late[1:]] == ["done", "done"]
    moved = [(m.state, m.failures, m.until_ns - m.at_ns) for m in of_kind(log, BreakerMoved)]
    assert [state for state, _, _ in moved] == ["open", "open", "closed"]
    assert [failures for _, failures, _ in moved] == [3, 4, 0]
    assert [until_ns for _, _, until_ns in moved[:2]] == [30 * NS, 30 * NS]


async def test_only_one_is_tried_at_a_time() -> None:
    """While it is on, the others wait, however many places there are."""
    app, clock, gate, fails = App("t"), StepClock(), Gate(), [True]

    @app.task(breaker=Breaker(failures=1, within=60, open_for=5))
    async def work() -> None:
        if fails[0]:
            raise OSError
        await gate.wait()

    async with opened(app, clock=clock) as engine:
        await engine.launch(work)
        await quiet(engine)
        fails[0] = False
        for _ in range(5):
            await engine.launch(work)
        await clock.step(engine, 100)
        assert gate.arrived == 1
        assert circuits(engine) == [("work", "half_open")]
        gate.open()
        await engine.drain()
        assert gate.arrived == 5


async def test_a_trial_that_is_cancelled_says_nothing() -> None:
    """Another is tried then."""
    app, clock, gate, fails = App("t"), StepClock(), Gate(), [True]

    @app.task(breaker=Breaker(failures=1, within=60, open_for=5))
    async def work() -> None:
        if fails[0]:
            raise OSError
        await gate.wait()

    async with opened(app, clock=clock) as engine:
        await engine.launch(work)
        await quiet(engine)
        fails[0] = False
        first, second = await engine.launch(work), await engine.launch(work)
        await clock.step(engine, 10)
        await engine.cancel(first)
        await quiet(engine)
        assert gate.arrived == 2
        assert circuits(engine) == [("work", "half_open")]
        gate.open()
        await engine.result(second)
        await engine.drain()
        assert circuits(engine) == []


async def test_failures_that_are_far_apart_do_not_open_it() -> None:
    """Only those within the time count."""
    app, clock, began, _, work = flaky(Breaker(failures=2, within=10, open_for=30))

    async with opened(app, clock=clock) as engine:
        for _ in range(5):
            await engine.launch(work)
            await clock.step(engine, 10)
        assert circuits(engine) == []
        await engine.launch(work)
        await clock.step(engine, 9)
        await engine.launch(work)
        await quiet(engine)
        assert circuits(engine) == [("work", "open")]
    assert len(began) == 7


async def test_retries_count_and_wait_too() -> None:
    """A run that backs off is one more attempt each time; while it is open it does not begin."""
    retry = Retry(attempts=6, wait_first=1, wait_max=1, jitter=0)
    app, clock, began, fails, work = flaky(Breaker(failures=3, within=60, open_for=30), retry=retry)
    async with opened(app, clock=clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 10)
        assert began == [0, 1, 2]
        fails[0] = False
        await clock.step(engine, 30)
        assert began == [0, 1, 2, 32]
        assert await engine.result(run) == "done"


async def test_new_attempts_can_fail_at_once_instead() -> None:
    """``while_open="fail"``: the caller learns at once that it is of no use."""
    app, clock, began, fails, work = flaky(
        Breaker(failures=2, within=60, open_for=30, while_open="fail")
    )
    caught: list[str] = []

    @app.task
    async def caller(run: Run) -> None:
        try:
            await run.call(work)
        except StepFailed as error:
            caught.append(error.error)

    async with opened(app, clock=clock) as engine:
        for _ in range(4):
            await engine.launch(caller)
            await quiet(engine)
        assert began == [0, 0]
        assert [text.partition(":")[0] for text in caught] == [
            *("OSError", "OSError"),
            *("CircuitOpen", "CircuitOpen"),
        ]
        assert "task 'work'" in caught[-1]
        assert "2 failed attempts" in caught[-1]
        fails[0] = False
        await clock.step(engine, 30)
        assert await engine.result(await engine.launch(work)) == "done"
        assert circuits(engine) == []


async def test_an_open_circuit_outlives_a_crash() -> None:
    """Neither the state nor its time is forgotten, and what waits goes on waiting."""
    app, clock, began, fails, work = flaky(Breaker(failures=2, within=60, open_for=30))
    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        for _ in range(3):
            await engine.launch(work)
            await quiet(engine)  # else all may have begun by the second failure
        waiting = [view.id for view in engine.runs("active")]
        assert len(waiting) == 1
        left = log.copy(engine.kernel.sequence)
    tried = len(began)
    clock.pass_by(10)
    async with opened(app, left, clock) as engine:
        assert circuits(engine) == [("work", "open")]
        await clock.step(engine, 19)
        assert len(began) == tried
        fails[0] = False
        await clock.step(engine, 1)
        await engine.drain()
        assert len(began) == tried + len(waiting)
        assert circuits(engine) == []


async def test_what_failed_before_a_crash_counts() -> None:
    """Two failures before and one after are three."""
    app, clock, _, _, work = flaky(Breaker(failures=3, within=60, open_for=30))
    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        for _ in range(2):
            await engine.launch(work)
        await engine.drain()
        left = log.copy(engine.kernel.sequence)
    async with opened(app, left, clock) as engine:
        assert circuits(engine) == []
        await engine.launch(work)
        await quiet(engine)
        assert circuits(engine) == [("work", "open")]


async def test_a_crash_just_before_it_was_opened_opens_it_at_the_start() -> None:
    """The failures are in the log; that it is to be open follows from them."""
    app, clock, began, _, work = flaky(Breaker(failures=2, within=60, open_for=30))
    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        for _ in range(3):
            await engine.launch(work)
        await quiet(engine)
    (moved,) = (n for n, record in records_of(log) if isinstance(record, BreakerMoved))
    began.clear()
    async with opened(app, log.copy(moved - 1), clock) as engine:
        await quiet(engine)
        assert circuits(engine) == [("work", "open")]
        assert began == []


async def test_a_snapshot_knows_the_circuits() -> None:
    """A start from one comes to the same as a fold of the whole log."""
    app, clock, _, _, work = flaky(Breaker(failures=2, within=60, open_for=30))
    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.launch(work)
        await engine.drain()
        await engine.snapshot()
        await engine.launch(work)
        await engine.launch(work)
        await quiet(engine)
        await engine.snapshot()
        left = log.copy(engine.kernel.sequence)
    async with opened(app, left, clock) as engine:
        assert circuits(engine) == [("work", "open")]
        await check_live(engine)


async def test_its_moves_are_events() -> None:
    """So an alert is a rule."""
    app, clock, _, fails, work = flaky(Breaker(failures=1, within=60, open_for=30))
    told: list[dict[str, Any]] = []

    @app.rule(on("engine.breaker.*"), name="alert")
    async def alert(firing: Firing[Any]) -> None:
        told.append(firing.events[-1].data)

    async with opened(app, clock=clock) as engine:
        await engine.launch(work)
        await quiet(engine)
        fails[0] = False
        await engine.launch(work)
        await clock.step(engine, 31)
        await engine.drain()
    assert [(event["task"], event["state"], event["failures"]) for event in told] == [
        ("work", "open", 1),
        ("work", "half_open", 1),
        ("work", "closed", 0),
    ]


async def test_a_task_without_its_breaker_any_more_is_not_held() -> None:
    """The log's circuit is of no effect once the code declares none."""
    app, clock, _, _, work = flaky(Breaker(failures=1, within=60, open_for=3000))
    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.launch(work)
        await engine.launch(work)
        await quiet(engine)
    plain = App("t")

    @plain.task(name="work")
    async def other() -> None: ...

    async with opened(plain, log, clock) as engine:
        await engine.drain()
        assert engine.runs("active") == []


async def test_by_input_runs_wait_for_the_circuit_in_log_time() -> None:
    """Recorded data plays the same again: a drain lets the time come."""
    app, began = App("t"), list[float]()

    @app.task(breaker=Breaker(failures=1, within=60, open_for=30))
    async def work(run: Run) -> None:
        began.append(run.now())
        if len(began) == 1:
            raise OSError

    @app.rule(on("go"))
    async def go(run: Run) -> None:
        await run.launch(work)

    async with opened(app, clock="input") as engine:
        await engine.emit("go", time=1000.0)
        await engine.emit("go", time=1001.0)
        await engine.emit("tick", time=1020.0)
        assert len(began) == 1
        await engine.drain()
    assert len(began) == 2


@pytest.mark.parametrize("while_open", ["wait", "fail"])
async def test_whoever_is_ready_when_one_may_be_tried_is_that_one(while_open: Any) -> None:
    """It had its turn while the circuit was closed, and no worker took it until now."""
    app, clock, to_fail, to_end, began = App("t"), StepClock(), Gate(), Gate(), list[int]()

    @app.task(breaker=Breaker(failures=1, within=60, open_for=30, while_open=while_open))
    async def work(n: int) -> None:
        began.append(n)
        if n == 0:
            await to_fail.wait()
            raise OSError

    @app.task
    async def other() -> None:
        await to_end.wait()

    async with opened(app, clock=clock, concurrency=1) as engine:
        await engine.launch(work, 0)
        await quiet(engine)
        await engine.launch(other)
        run = await engine.launch(work, 1)
        await quiet(engine)
        to_fail.open()
        await clock.step(engine, 31)
        assert circuits(engine) == [("work", "half_open")]
        to_end.open()
        await quiet(engine)
        assert began == [0, 1]
        assert circuits(engine) == []
        await engine.result(run)


async def test_whoever_gives_its_turn_back_keeps_its_place_by_priority() -> None:
    """It has waited as long as it has, and is no higher than others for that."""
    app, clock, to_fail, order = App("t"), StepClock(), Gate(), list[str]()
    gates = {"first": Gate(), "second": Gate()}
    clock.pass_by(86400)

    @app.task(priority=-1000, breaker=Breaker(failures=1, within=60, open_for=30))
    async def low(n: int) -> None:
        if n == 0:
            await to_fail.wait()
            raise OSError
        order.append("low")

    @app.task(priority=1000)
    async def high(name: str) -> None:
        order.append(name)
        await gates[name].wait()

    async with opened(app, clock=clock, concurrency=1) as engine:
        await engine.launch(low, 0)
        await quiet(engine)
        await engine.launch(low, 1)
        await quiet(engine)
        to_fail.open()
        await quiet(engine)
        for name in gates:
            await engine.launch(high, name)
            await quiet(engine)
        await clock.step(engine, 31)
        for gate in gates.values():
            gate.open()
            await quiet(engine)
        await engine.drain()
    assert order == ["first", "second", "low"]


@pytest.mark.parametrize("how", ["itself", "its parent"])
async def test_a_trial_that_ends_before_it_begins_is_no_trial(how: str) -> None:
    """Another is tried then; here its turn had come, and no worker had taken it."""
    app, clock, log, gate, fails = App("t"), StepClock(), MemoryLog(), Gate(), [True]

    @app.task(breaker=Breaker(failures=1, within=60, open_for=30))
    async def work() -> None:
        if fails[0]:
            raise OSError

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(work)
        await run.sleep(100_000)

    @app.task
    async def other() -> None:
        await gate.wait()

    async with opened(app, log, clock, concurrency=1) as engine:
        await engine.launch(work)
        await quiet(engine)
        top = await engine.launch(parent)
        await quiet(engine)
        await engine.launch(other)
        await quiet(engine)
        (tried,) = [run.id for run in engine.runs("active") if run.task == "work"]
        log = log.copy(engine.kernel.sequence)
    async with opened(app, log, clock, concurrency=1) as engine:
        await clock.step(engine, 31)
        assert circuits(engine) == [("work", "half_open")]
        await engine.cancel(tried if how == "itself" else top)
        await quiet(engine)
        fails[0] = False
        gate.open()
        await quiet(engine)
        run = await engine.launch(work)
        await clock.step(engine, 1)
        await engine.result(run)
        assert circuits(engine) == []


def undoing(breaker: Breaker) -> tuple[App, StepClock, Gate, list[str], Any]:
    """Return an app with a task that books, fails, and undoes that while the gate is closed."""
    app, clock, gate, did = App("t"), StepClock(), Gate(), list[str]()

    @app.task
    async def free() -> None:
        did.append("free")
        await gate.wait()
        did.append("freed")

    @app.task(name="work", breaker=breaker)
    async def book(run: Run, books: bool) -> None:
        did.append("work")
        if books:
            await run.compensate(free)
        raise OSError

    return app, clock, gate, did, book


async def test_a_failure_counts_before_it_is_undone() -> None:
    """The circuit opens when the attempt fails, not when the cleaning up has ended."""
    app, clock, gate, did, book = undoing(Breaker(failures=1, within=60, open_for=300))
    async with opened(app, clock=clock) as engine:
        await engine.launch(book, books=True)
        await quiet(engine)
        assert circuits(engine) == [("work", "open")]
        await engine.launch(book, books=False)
        await clock.step(engine, 100)
        assert did == ["work", "free"]
        gate.open()
        await quiet(engine)
        assert did == ["work", "free", "freed"]
        await check_live(engine)


async def test_a_failure_that_is_undone_counts_once() -> None:
    """Not again when the run is at its end."""
    app, clock, gate, _, book = undoing(Breaker(failures=2, within=60, open_for=300))
    gate.open()
    async with opened(app, clock=clock) as engine:
        await engine.launch(book, books=True)
        await engine.drain()
        assert circuits(engine) == []
        await engine.launch(book, books=True)
        await engine.drain()
        assert circuits(engine) == [("work", "open")]
        await check_live(engine)


async def test_what_is_only_undone_does_not_wait_for_the_circuit() -> None:
    """After a start the run goes on with that at once: no attempt of it begins."""
    app, clock, gate, did, book = undoing(Breaker(failures=1, within=60, open_for=3000))
    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.launch(book, books=True)
        await quiet(engine)
        assert circuits(engine) == [("work", "open")]
        log = log.copy(engine.kernel.sequence)
    did.clear()
    gate.open()
    async with opened(app, log, clock) as engine:
        await engine.drain()
        assert did == ["free", "freed"]
        assert circuits(engine) == [("work", "open")]


async def test_what_is_only_ended_takes_no_turn_of_a_rate() -> None:
    """A run in its back-off that is cancelled has something to undo, and begins no attempt."""
    app, clock, began = App("t"), StepClock(), list[float]()

    @app.task
    async def undo() -> None: ...

    @app.task(rate="1/min", retry=Retry(attempts=9, wait_first=100, wait_max=100, jitter=0))
    async def work(run: Run, books: bool) -> None:
        began.append(clock.monotonic_ns() / NS)
        if books:
            await run.compensate(undo)
            raise OSError

    async with opened(app, clock=clock) as engine:
        run = await engine.launch(work, books=True)
        await clock.step(engine, 59)
        await engine.cancel(run)
        await quiet(engine)
        assert [view.id for view in engine.runs("cancelled")] == [run]
        await engine.launch(work, books=False)
        await clock.step(engine, 100)
        await engine.drain()
    assert began == [0, 60]


def test_what_is_kept_of_failures_is_bounded() -> None:
    """A task that fails for years takes no more memory for it."""
    breakers = Breakers()
    for n in range(FAILURES_MAX + 50):
        breakers.note_failed("t", n)
    assert breakers.failures_since("t", -1) == FAILURES_MAX
    assert breakers.failures_since("t", FAILURES_MAX) == 49
    breakers.move(BreakerView("t", "open", 5, 100))
    breakers.note_failed("t", 1000)
    assert breakers.failures_since("t", -1) == 0


def test_the_error_says_what_and_until_when() -> None:
    """Its parts are attributes."""
    error = CircuitOpen("work", 5, 90 * NS)
    assert (error.task, error.failures, error.until_ns) == ("work", 5, 90 * NS)
    assert "task 'work'" in str(error)
