"""Launches: from outside and from runs, under keys, and what they come to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    FailingLog,
    FullLog,
    Gate,
    GatedLog,
    StepClock,
    borders,
    check_live,
    fill_disk,
    make_room,
    of_kind,
    opened,
    quiet,
    refolded,
)

from headrace import (
    App,
    DurabilityLost,
    EngineClosed,
    Firing,
    MemoryLog,
    Run,
    RunNotFound,
    TaskCancelled,
    TaskFailed,
    TypeChanged,
    on,
)
from headrace.engine import launches as launches_module
from headrace.engine.launches import DUE_SPARE, Launch, Launches
from headrace.engine.record import RunCompleted, RunLaunched
from headrace.engine.snapshot import Snapshot, load


def billing(gate: Gate | None = None) -> tuple[App, list[int]]:
    """Return an app that bills, and what was billed."""
    app, billed = App("t"), list[int]()

    @app.task
    async def bill(order: int) -> str:
        if gate is not None:
            await gate.wait()
        billed.append(order)
        if order < 0:
            raise ValueError("no such order")
        return f"bill {order}"

    return app, billed


async def test_a_launch_runs_the_task_and_gives_its_result() -> None:
    """No event and no rule is needed to have something done durably."""
    app, billed = billing()
    bill = app.tasks["bill"].function

    async with opened(app) as engine:
        run_id = await engine.launch(bill, 17)

        assert await engine.result(run_id) == "bill 17"
        assert billed == [17]
        (view,) = engine.runs("completed")
        assert (view.id, view.task) == (run_id, "bill")
        await check_live(engine)


async def test_a_result_is_of_the_type_that_the_task_says() -> None:
    """As that of a step is."""
    app = App("t")

    @app.task
    async def pair() -> tuple[int, str]:
        return 1, "one"

    async with opened(app) as engine:
        assert await engine.result(await engine.launch(pair)) == (1, "one")


async def test_a_failure_and_a_cancellation_are_raised() -> None:
    """Whoever waits learns how it ended, and of which run."""
    gate, log = Gate(), MemoryLog()
    app, _ = billing(gate)
    bill = app.tasks["bill"].function

    async with opened(app, log) as engine:
        failing, slow = await engine.launch(bill, -1), await engine.launch(bill, 2)
        await quiet(engine)
        await engine.cancel(slow, "too slow")
        with pytest.raises(TaskCancelled, match="too slow"):
            await engine.result(slow)
        gate.open()
        with pytest.raises(TaskFailed, match=rf"run {failing} of 'bill'.*ValueError") as caught:
            await engine.result(failing)
        assert (caught.value.task, caught.value.run_id) == ("bill", failing)
        with pytest.raises(TaskFailed):  # it is a dead letter, and kept
            await engine.result(failing)
    async with opened(app, log) as engine:
        with pytest.raises(RunNotFound, match="not open"):
            await engine.result(slow)


async def test_a_key_is_held_while_its_run_is_open() -> None:
    """A client that asks twice has one thing done, whatever it says the second time."""
    gate, log = Gate(), MemoryLog()
    app, billed = billing(gate)
    bill = app.tasks["bill"].function

    async with opened(app, log) as engine:
        first = await engine.keyed("order-1").launch(bill, 1)
        second = await engine.keyed("order-1").launch(bill, 9)
        other = await engine.keyed("order-2").launch(bill, 2)
        assert first == second != other
        await quiet(engine)
        gate.open()
        await engine.drain()
        assert sorted(billed) == [1, 2]

        again = await engine.keyed("order-1").launch(bill, 1)
        assert again not in (first, other)
        assert await engine.result(again) == "bill 1"
        await check_live(engine)
    assert len(of_kind(log, RunLaunched)) == 3


async def test_the_same_key_of_two_tasks_is_two_keys() -> None:
    """A key says which of a task's runs is meant."""
    app, _ = billing()

    @app.task
    async def ship(order: int) -> int:
        return order

    async with opened(app) as engine:
        bill = app.tasks["bill"].function
        one = await engine.keyed("k", window=60).launch(bill, 1)
        two = await engine.keyed("k", window=60).launch(ship, 1)
        assert one != two


async def test_a_window_keeps_the_key_and_the_result() -> None:
    """Asking again later gives the answer of before, until the window is over."""
    clock, log = StepClock(), MemoryLog()
    app, billed = billing()
    bill = app.tasks["bill"].function

    async with opened(app, log, clock) as engine:
        first = await engine.keyed("k", window=60).launch(bill, 1)
        assert await engine.result(first) == "bill 1"
    async with opened(app, log, clock) as engine:  # also over a restart
        await clock.step(engine, 59)
        assert await engine.keyed("k", window=60).launch(bill, 1) == first
        assert await engine.result(first) == "bill 1"
        await clock.step(engine, 2)
        with pytest.raises(RunNotFound):
            await engine.result(first)
        second = await engine.keyed("k", window=60).launch(bill, 1)
        assert second != first
        await engine.result(second)
        assert billed == [1, 1]
        await check_live(engine)


async def test_a_run_launches_under_a_key() -> None:
    """From a run it is the same, and a retry of the run finds what it has launched."""
    app, billed, log = App("t"), list[int](), MemoryLog()

    @app.task
    async def bill(order: int) -> None:
        billed.append(order)

    @app.rule(on("order", int))
    async def take(run: Run, firing: Firing[int]) -> int:
        return await run.keyed("today", window=60).launch(bill, firing.events[0].data)

    async with opened(app, log) as engine:
        await engine.emit_many([("order", 1), ("order", 2)])
        await engine.drain()
        await check_live(engine)

    assert billed == [1]
    takes = [ended.result for ended in of_kind(log, RunCompleted) if bytes(ended.result) != b"\xc0"]
    assert len(takes) == 2
    assert bytes(takes[0]) == bytes(takes[1])


async def test_another_launch_under_a_key_that_was_held_says_what_was_asked() -> None:
    """And not what the run that holds the key was launched with: that is of somebody else."""
    log, clock = MemoryLog(), StepClock()

    def app(number: int) -> App:
        made = App("t")

        @made.task
        async def bill(n: int) -> None:
            await anyio.sleep_forever()

        @made.task
        async def order(run: Run) -> None:
            await run.keyed("k").launch(bill, number)
            await run.sleep(10)

        return made

    first, second = app(2), app(3)
    async with opened(first, log, clock) as engine:
        await engine.keyed("k").launch(first.tasks["bill"].function, 1)
        run_id = await engine.launch(first.tasks["order"].function)
        await quiet(engine)
        await engine.snapshot()
    async with opened(second, log, clock) as engine:
        await clock.step(engine, 10)
        (dead,) = engine.runs("dead")
    assert dead.id == run_id
    error = str(dead.error)
    assert "recorded launch bill(n=2) under the key 'k'" in error
    assert "asked for launch bill(n=3) under the key 'k'" in error


async def test_a_crash_never_makes_two_of_one_key() -> None:
    """Wherever it comes, the same launch afterwards finds the run of before, or starts it."""
    app, _ = billing()
    bill, log = app.tasks["bill"].function, MemoryLog()
    async with opened(app, log) as engine:
        await engine.result(await engine.keyed("k", window=1e6).launch(bill, 1))

    for upto in borders(log):
        app, billed = billing()
        left = log.copy(upto)
        before = len(of_kind(left, RunCompleted))
        async with opened(app, left) as engine:
            run_id = await engine.keyed("k", window=1e6).launch(app.tasks["bill"].function, 1)
            assert await engine.result(run_id) == "bill 1"
        assert len(of_kind(left, RunLaunched)) == 1, upto
        assert len(billed) == 1 - before, upto


async def test_who_waits_is_told_when_the_disk_dies() -> None:
    """Nobody waits for ever."""
    gate, log = Gate(), FailingLog()
    app, _ = billing(gate)
    caught: list[type[Exception]] = []

    with pytest.raises(DurabilityLost):
        async with opened(app, log) as engine:
            run_id = await engine.launch(app.tasks["bill"].function, 1)

            async def wait() -> None:
                with anyio.CancelScope(shield=True):
                    try:
                        await engine.result(run_id)
                    except DurabilityLost as error:
                        caught.append(type(error))

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await quiet(engine)
                log.die()
    assert caught == [DurabilityLost]


async def test_who_waits_goes_on_after_a_full_disk() -> None:
    """The run goes on once there is room, and so does the wait."""
    gate, log, clock = Gate(), FullLog(), StepClock()
    app, _ = billing(gate)
    results: list[Any] = []

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(app.tasks["bill"].function, 1)

        async def wait() -> None:
            results.append(await engine.result(run_id))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await quiet(engine)
            await fill_disk(engine, log)
            await make_room(engine, log, clock)
            gate.open()
    assert results == ["bill 1"]


async def test_an_end_that_is_not_durable_yet_is_told_to_nobody() -> None:
    """Also not of a run that has ended by the time somebody asks, and whose result is kept."""
    gate, log = Gate(), GatedLog()
    app, _ = billing(gate)
    results: list[Any] = []

    @app.rule(on("order", int))
    async def take(run: Run, firing: Firing[int]) -> int:
        bill = app.tasks["bill"].function
        return await run.keyed("k", window=60).launch(bill, firing.events[0].data)

    async with opened(app, log) as engine:
        await engine.emit("order", 1)
        await quiet(engine)
        (run_id,) = (view.id for view in engine.runs("active"))

        async def wait() -> None:
            results.append(await engine.result(run_id))
            assert log.committed_sequence >= ended_at

        log.hold = True
        gate.open()
        await quiet(engine)
        ended_at = engine.kernel.sequence
        assert engine.runs("active") == []
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await quiet(engine)
            assert results == []
            log.release()
    assert results == ["bill 1"]


async def test_two_who_watch_a_run_are_both_told() -> None:
    """Who comes second does not take the first one's place."""
    gate, results = Gate(), list[Any]()
    app, _ = billing(gate)

    async with opened(app) as engine:
        run_id = await engine.launch(app.tasks["bill"].function, 1)

        async def wait() -> None:
            results.append(await engine.result(run_id))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await quiet(engine)
            engine.opened().results.watch(run_id)
            gate.open()
    assert results == ["bill 1"]


async def test_what_ended_before_a_full_disk_is_told_while_it_is_full_and_after() -> None:
    """It is durable, and whoever launched it may ask as before."""
    log, clock = FullLog(), StepClock()
    app, _ = billing()

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(app.tasks["bill"].function, 1)
        await engine.drain()
        await fill_disk(engine, log)
        assert await engine.result(run_id) == "bill 1"
        await make_room(engine, log, clock)
        assert await engine.result(run_id) == "bill 1"


async def test_what_ends_after_a_full_disk_is_told_to_who_launched_it_before() -> None:
    """Nobody has to wait for it all the time."""
    gate, log, clock = Gate(), FullLog(), StepClock()
    app, _ = billing(gate)

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(app.tasks["bill"].function, 1)
        await quiet(engine)
        await fill_disk(engine, log)
        await make_room(engine, log, clock)
        gate.open()
        await engine.drain()
        assert await engine.result(run_id) == "bill 1"


class _FullBehind(FullLog):
    """A log whose disk is full right after a commit that succeeds."""

    is_due = False

    def commit(self) -> None:
        """See `MemoryLog`."""
        super().commit()
        if self.is_due:
            self.is_due = False
            self.fill()


async def test_what_the_last_commit_before_a_full_disk_says_is_told() -> None:
    """The engine learns of the commit and of the failure at the same time."""
    gate, log, clock = Gate(), _FullBehind(), StepClock()
    app, billed = billing(gate)

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(app.tasks["bill"].function, 1)
        await quiet(engine)
        before, log.is_due = engine.kernel, True
        gate.open()
        while engine.kernel is before:
            await quiet(engine)
        await make_room(engine, log, clock)
        assert await engine.result(run_id) == "bill 1"
    assert billed == [1]


async def test_a_result_that_does_not_fit_its_type_any_more_says_so() -> None:
    """As an error of headrace, which says what was found and what to do."""
    log = MemoryLog()

    async def one() -> int:
        return 1

    async def text() -> str:
        return "one"

    before, after = App("t"), App("t")
    before.task(name="make")(one)
    after.task(name="make")(text)
    async with opened(before, log) as engine:
        run_id = await engine.keyed("k", window=60).launch(one)
        assert await engine.result(run_id) == 1
    async with opened(after, log) as engine:
        with pytest.raises(TypeChanged, match=rf"run {run_id}: .*'make'.*`str`.*`int`"):
            await engine.result(run_id)


async def test_closed_engines_launch_nothing() -> None:
    """As they take no events."""
    app, _ = billing()
    async with opened(app) as engine:
        pass
    with pytest.raises(EngineClosed):
        await engine.launch(app.tasks["bill"].function, 1)


async def test_wrong_calls_are_refused_before_anything_is_stored() -> None:
    """A mistake is the caller's, at the call."""
    app, _ = billing()
    bill, log = app.tasks["bill"].function, MemoryLog()

    async with opened(app, log) as engine:
        with pytest.raises(TypeError, match="no task"):
            await engine.launch(quiet, engine)
        with pytest.raises(TypeError, match="missing"):
            await engine.launch(bill)
        with pytest.raises(ValueError, match="1 to 500"):
            engine.keyed("")
        with pytest.raises(TypeError, match="text"):
            engine.keyed(17)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="window"):
            engine.keyed("k", window=-1)
    assert of_kind(log, RunLaunched) == []


async def test_results_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest make way, and a snapshot has the same."""
    monkeypatch.setattr(launches_module, "KEYED_ENDED_MAX", 3)
    app, _ = billing()
    bill, log = app.tasks["bill"].function, MemoryLog()

    async with opened(app, log) as engine:
        runs = [await engine.keyed(f"k{n}", window=1e6).launch(bill, n) for n in range(5)]
        await engine.drain()
        assert len(engine.kernel.state.launches) == 3
        assert await engine.result(runs[4]) == "bill 4"
        await check_live(engine)

        loaded = refolded(MemoryLog(), app.decider())
        load(loaded, Snapshot(engine.kernel).parts(2))
        assert loaded.dump() == engine.kernel.dump()


def test_results_that_made_way_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long their windows are; those that are kept end when theirs are over."""
    monkeypatch.setattr(launches_module, "KEYED_ENDED_MAX", 3)
    launches, window_ns = Launches(), 10**18
    for number in range(1000):
        launches.hold(Launch(number, "t", str(number), window_ns), number)
        launches.end(
            ("t", str(number)), "completed", at_ns=number, result=None, error=None, blob=None
        )
    assert len(launches) == 3
    assert len(launches._due) <= 2 * 3 + DUE_SPARE

    for number in (997, 998, 999):
        assert launches.find("t", str(number), window_ns + number - 1) is not None
        launches.hold(Launch(1001, "t", "other"), window_ns + number)
        assert len(launches) == 1 + 999 - number
