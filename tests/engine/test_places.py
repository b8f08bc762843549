"""Who has a place of a task, by keys and over waits, and when it is free again."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import Gate, GatedLog, StepClock, check_live, opened, quiet

from headrace import App, Engine, Firing, MemoryLog, Rate, Retry, Run, StepFailed, on
from headrace.engine.lanes import Lanes

NS = 10**9


def keyed(**limits: Any) -> tuple[App, StepClock, list[tuple[str, str, float]]]:
    """Return an app whose rule on ``o`` calls a task by key: what it does, and for how long.

    Each event is ``(key, name, seconds of sleep, seconds of work)``.
    """
    app, clock, done = App("t"), StepClock(), list[tuple[str, str, float]]()

    @app.task(**limits)  # type: ignore[untyped-decorator]
    async def work(run: Run, name: str, sleep_s: float, work_s: float) -> None:
        if sleep_s:
            await run.sleep(sleep_s)
        if work_s:
            await clock.sleep_until(clock.monotonic_ns() + round(work_s * NS))
        done.append((run.key, name, clock.monotonic_ns() / NS))

    @app.rule(on("o", tuple[str, str, float, float]).key(lambda event: event.data[0]), name="take")
    async def take(run: Run, firing: Firing[tuple[str, str, float, float]]) -> None:
        _, name, sleep_s, work_s = firing.events[-1].data
        await run.call(work, name, sleep_s, work_s)

    return app, clock, done


# ---------------------------------------------------------------- keys


async def test_a_key_that_is_full_does_not_keep_others_from_going_on() -> None:
    """Who comes back from a wait waits for the place of its own key."""
    app, clock, done = keyed(concurrency_per_key=1)
    async with opened(app, clock=clock) as engine:
        await engine.emit("o", ("a", "sleeper", 1.0, 0.0))
        await quiet(engine)
        await engine.emit("o", ("a", "worker", 0.0, 100.0))
        await engine.emit("o", ("b", "sleeper", 2.0, 0.0))
        await clock.step(engine, 300)
        await engine.drain()
    assert done == [("b", "sleeper", 2), ("a", "worker", 100), ("a", "sleeper", 100)]


async def test_a_key_that_is_full_does_not_keep_others_from_beginning() -> None:
    """One that waits to come back holds up nobody but who needs its place."""
    app, clock, done = keyed(concurrency=3, concurrency_per_key=1)
    async with opened(app, clock=clock) as engine:
        await engine.emit("o", ("a", "sleeper", 1.0, 0.0))
        await quiet(engine)
        await engine.emit("o", ("a", "worker", 0.0, 100.0))
        await clock.step(engine, 2)
        await engine.emit("o", ("b", "new", 0.0, 0.0))
        await clock.step(engine, 300)
        await engine.drain()
    assert done == [("b", "new", 2), ("a", "worker", 100), ("a", "sleeper", 100)]


async def test_who_comes_back_obeys_its_key() -> None:
    """Two of a key that wake together go on one after the other."""
    app, clock, done = keyed(concurrency=5, concurrency_per_key=1)
    async with opened(app, clock=clock) as engine:
        for name in ("one", "two", "three"):
            await engine.emit("o", ("a", name, 10.0, 5.0))
            await quiet(engine)
        await engine.emit("o", ("a", "four", 0.0, 20.0))
        await clock.step(engine, 100)
        await engine.drain()
    assert done[0] == ("a", "four", 20)
    assert [at_s for _, _, at_s in done] == [20, 25, 30, 35]


@pytest.mark.parametrize("limits", [{"concurrency": 1}, {"concurrency_per_key": 1}], ids=str)
async def test_who_returns_goes_before_who_begins(limits: dict[str, Any]) -> None:
    """What was begun comes to its end first."""
    app, clock, done = keyed(**limits)
    async with opened(app, clock=clock) as engine:
        await engine.emit("o", ("a", "sleeper", 1.0, 1.0))
        await quiet(engine)
        await engine.emit("o", ("a", "worker", 0.0, 10.0))
        await engine.emit("o", ("a", "new", 0.0, 1.0))
        await clock.step(engine, 100)
        await engine.drain()
    assert [(name, at_s) for _, name, at_s in done] == [
        ("worker", 10),
        ("sleeper", 11),
        ("new", 12),
    ]


async def test_the_runs_of_a_key_begin_in_their_order() -> None:
    """However often its place is taken by who comes back, or none is left of the task's."""
    app, clock, done = keyed(concurrency=2, concurrency_per_key=1)
    async with opened(app, clock=clock) as engine:
        await engine.emit("o", ("a", "sleeper", 3.0, 5.0))
        await quiet(engine)
        await engine.emit("o", ("b", "filler", 0.0, 9.0))
        for number in range(4):
            await engine.emit("o", ("a", f"new {number}", 0.0, 4.0))
        await clock.step(engine, 100)
        await engine.drain()
    assert [name for key, name, _ in done if key == "a"] == [
        "new 0",
        "sleeper",
        "new 1",
        "new 2",
        "new 3",
    ]


def test_a_lane_can_be_set_aside_as_a_whole() -> None:
    """And put back as it was, with its turn next."""
    lanes = Lanes()
    for lane, item in (("a", 1), ("a", 2), ("b", 3), ("a", 4)):
        lanes.push(lane, item)
    assert lanes.turn == "a"
    items = lanes.set_aside()
    assert (list(items), len(lanes), lanes.turn) == ([1, 2, 4], 1, "b")
    lanes.put_back("a", items)
    assert list(lanes.turns()) == [("a", 1), ("b", 3)]
    assert lanes.pop_of("b") == 3
    assert [lanes.pop() for _ in range(len(lanes))] == [1, 2, 4]


# ---------------------------------------------------------------- places that are free again


async def test_the_place_of_one_that_is_cancelled_on_its_way_back_goes_to_another() -> None:
    """It waits for a place, and is given none any more."""
    app, clock, done = keyed(concurrency=1)
    async with opened(app, clock=clock) as engine:
        for name in ("one", "two"):
            await engine.emit("o", ("a", name, 1.0, 0.0))
            await quiet(engine)
        sleeper = min(run.id for run in engine.runs("active") if run.task.endswith("work"))
        await engine.emit("o", ("a", "worker", 0.0, 10.0))
        await clock.step(engine, 5)
        await engine.cancel(sleeper)
        await clock.step(engine, 100)
        await engine.drain()
    assert [name for _, name, _ in done] == ["worker", "two"]


@pytest.mark.parametrize("limits", [{}, {"priority": 3}, {"concurrency": 5}], ids=str)
async def test_a_run_that_is_cancelled_leaves_nothing_in_the_queue(limits: dict[str, Any]) -> None:
    """Not even a number: a million cancelled runs take no memory."""
    app, gate = App("t"), Gate()

    @app.task
    async def blocker() -> None:
        await gate.wait()

    @app.task(**limits)  # type: ignore[untyped-decorator]
    async def work() -> None: ...

    async with opened(app, concurrency=1) as engine:
        await engine.launch(blocker)
        await quiet(engine)
        runs = [await engine.launch(work) for _ in range(3)]
        await quiet(engine)
        queue = engine._core.runner._queue
        assert len(queue) == 3
        for run in runs:
            await engine.cancel(run)
        await quiet(engine)
        assert len(queue) == 0
        assert queue._since_ns == {}
        gate.open()
        await engine.drain()


async def test_a_queued_run_that_ends_with_its_sleeping_parent_frees_its_place() -> None:
    """After a start its parent has not been invoked when it is cancelled."""
    app, log, gate, forever, done = App("t"), MemoryLog(), Gate(), Gate(), list[int]()
    lives = [1]

    @app.task(priority=9)
    async def blocker() -> None:
        await gate.wait()

    @app.task(concurrency=1)
    async def narrow(n: int) -> None:
        if lives[0] == 1:
            await forever.wait()
        done.append(n)

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(narrow, 1)
        await run.sleep(1000)

    async with opened(app, log) as engine:
        top = await engine.launch(parent)
        await engine.launch(blocker)
        await quiet(engine)
    lives[0] = 2
    async with opened(app, log, concurrency=1) as engine:
        await quiet(engine)
        holders = engine._core.runner._queue._gates["narrow"]._holders
        assert (len(holders), done) == (1, [])
        await engine.cancel(top)
        await quiet(engine)
        assert holders == {}
        gate.open()
        await engine.launch(narrow, 2)
        await engine.drain()
    assert done == [2]


async def test_several_coroutines_of_a_run_come_back_to_one_place() -> None:
    """What awaits children side by side counts once, for its key as well."""
    app, clock, most = App("t"), StepClock(), [0, 0]

    @app.task
    async def nap(run: Run, seconds: float) -> None:
        await run.sleep(seconds)

    @app.task(concurrency_per_key=1)
    async def wide(run: Run) -> None:
        handles = [run.spawn(nap, 1.0) for _ in range(3)]

        async def one(number: int) -> None:
            await handles[number]

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
        most[0] += 1
        most[1] = max(most)
        await clock.sleep_until(clock.monotonic_ns() + 5 * NS)
        most[0] -= 1

    @app.rule(on("o").key(lambda event: event.data), name="take")
    async def take(run: Run) -> None:
        await run.call(wide)

    async with opened(app, clock=clock) as engine:
        for _ in range(3):
            await engine.emit("o", "a")
        await clock.step(engine, 100)
        await engine.drain()
        assert engine._core.runner._queue._gates["wide"]._by_key == {}
    assert most == [0, 1]


async def test_a_task_can_undo_what_it_did_itself_under_a_limit_of_one() -> None:
    """A run whose code has ended needs no place, though it still undoes."""
    app, did = App("t"), list[str]()

    @app.task(concurrency=1)
    async def bank(run: Run, what: str) -> None:
        did.append(what)
        if what == "book":
            await run.compensate(bank, "refund")
            raise ValueError

    async with opened(app) as engine:
        await engine.launch(bank, "book")
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 1, "dead": 1}
    assert did == ["book", "refund"]


async def test_a_run_that_ends_its_children_needs_no_place_of_its_task() -> None:
    """A child of it has done what is undone by the same task."""
    app, clock, did = App("t"), StepClock(), list[str]()

    @app.task
    async def child(run: Run) -> None:
        await run.compensate(bank, "refund")
        await run.sleep(1000)

    @app.task(concurrency=1)
    async def bank(run: Run, what: str) -> None:
        did.append(what)
        if what == "book":
            run.spawn(child)
            await run.sleep(1)
            raise ValueError

    async with opened(app, clock=clock) as engine:
        await engine.launch(bank, "book")
        await clock.step(engine, 10)
        assert engine.state().runs_ended == {"completed": 1, "cancelled": 1, "dead": 1}
    assert did == ["book", "refund"]


async def test_a_run_that_is_to_end_when_it_has_its_turn_gives_its_place_back() -> None:
    """That it is cancelled is in the log, and not durable yet."""
    app, gate, log, done = App("t"), Gate(), GatedLog(), list[int]()

    @app.task
    async def blocker() -> None:
        await gate.wait()

    @app.task(concurrency=1)
    async def narrow(n: int) -> None:
        done.append(n)

    async with opened(app, log, concurrency=1) as engine, anyio.create_task_group() as group:
        await engine.launch(blocker)
        await quiet(engine)
        run = await engine.launch(narrow, 1)
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.cancel, run)
        await quiet(engine)
        gate.open()
        await quiet(engine)
        log.release()
        await engine.launch(narrow, 2)
        await engine.drain()
        assert [view.id for view in engine.runs("cancelled")] == [run]
    assert done == [2]


@pytest.mark.parametrize("end", ["failure", "cancel"])
async def test_a_run_that_ends_its_children_needs_no_place_of_the_engine(end: str) -> None:
    """The child undoes something, and that has to be executed somewhere."""
    app, clock, did = App("t"), StepClock(), list[str]()

    @app.task
    async def undo() -> None:
        did.append("undone")

    @app.task(retry=Retry(attempts=5, wait_first=20, jitter=0))
    async def child(run: Run) -> None:
        await run.compensate(undo)
        raise OSError

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1)
        if end == "cancel":
            await run.sleep(1000)
        raise ValueError

    async with opened(app, clock=clock, concurrency=1) as engine:
        run = await engine.launch(parent)
        await clock.step(engine, 2)
        if end == "cancel":
            await engine.cancel(run)
            await engine.cancel(run)
        await quiet(engine)
        assert engine.runs("active") == engine.runs("retrying") == []
        await check_live(engine)
    assert did == ["undone"]


async def test_a_deadline_that_comes_while_it_waits_for_that_changes_nothing() -> None:
    """Its code has ended; it still only waits."""
    app, clock, did = App("t"), StepClock(), list[str]()

    @app.task
    async def undo(run: Run, name: str) -> None:
        await run.sleep(10)
        did.append(name)

    @app.task
    async def child(run: Run) -> None:
        for name in ("first", "second"):
            await run.compensate(undo, name)
        await run.sleep(1000)

    @app.task(deadline=5)
    async def parent(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1)
        raise ValueError

    async with opened(app, clock=clock, concurrency=1) as engine:
        await engine.launch(parent)
        await clock.step(engine, 60)
        assert engine.state().runs_active == 0
    assert did == ["second", "first"]


# ---------------------------------------------------------------- what holds by now


def versions(began: list[str], **newest: Any) -> App:
    """Return an app with two versions of a task; the older has a rate and a priority."""
    app = App("t")

    @app.task(name="work", version="1", rate="100/s", priority=9, concurrency=1)
    async def old() -> None:
        began.append("old")

    @app.task(name="work", version="2", **newest)
    async def new() -> None:
        began.append("new")

    return app


async def test_the_limits_of_the_newest_version_hold_for_all() -> None:
    """A rate in its own unit, and the priority that it has."""
    began, clock = list[str](), StepClock()
    clock.pass_by(10 * 86400)
    app = versions(began, rate="1/s")
    async with opened(app, clock=clock) as engine:
        for _ in range(5):
            await engine.launch(app.tasks["work"].function)
        await clock.step(engine, 2.5)
        assert began == ["new"] * 3
        assert engine._core.runner._queue._levels == {}
        await clock.step(engine, 10)
        await engine.drain()
    assert began == ["new"] * 5


async def test_the_rate_of_the_newest_version_holds_over_a_crash() -> None:
    """As many as its burst are taken to have begun, however few the older one lets begin."""
    began, clock, log = list[str](), StepClock(), MemoryLog()
    app = versions(began, rate=Rate(1, per=10.0, burst=3))
    function = app.tasks["work"].function
    async with opened(app, log, clock) as engine:
        for _ in range(5):
            await engine.launch(function)
        await quiet(engine)
        assert len(began) == 3
        log = log.copy(engine.kernel.sequence)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 9)
        assert len(began) == 3
        await clock.step(engine, 60)
        await engine.drain()
    assert len(began) == 5


async def test_a_run_of_an_older_version_keeps_to_the_limits_too() -> None:
    """Also if its own declaration has none."""
    app, gate, log, clock, inside = App("t"), Gate(), MemoryLog(), StepClock(), list[str]()

    async def body() -> None:
        inside.append("in")
        await gate.wait()
        inside.append("out")

    app.task(name="work", version="1")(body)
    async with opened(app, log, clock) as engine:
        for _ in range(3):
            await engine.launch(app.tasks["work"].function)
        await quiet(engine)
    inside.clear()

    @app.task(name="work", version="2", concurrency=1)
    async def new() -> None: ...

    async with opened(app, log, clock) as engine:
        await quiet(engine)
        assert inside == ["in"]
        gate.open()
        await engine.drain()
    assert inside == ["in", "out"] * 3


async def redeclare(engine: Engine, **limits: Any) -> None:
    """Let *limits* hold for the task ``work`` from now on."""
    app = App("t")

    @app.task(name="work", **limits)
    async def work() -> None: ...

    engine._core.runner._queue.declare(app.tasks["work"])
    await quiet(engine)


async def test_a_rate_that_is_declared_anew_counts_what_has_begun() -> None:
    """As so many attempts, each as long as the new rate says."""
    app, clock, began = App("t"), StepClock(), list[float]()
    clock.pass_by(10 * 86400)

    @app.task(name="work", rate=Rate(1, per=3600.0))
    async def work() -> None:
        began.append(clock.monotonic_ns() / NS - 10 * 86400)

    async with opened(app, clock=clock) as engine:
        for _ in range(6):
            await engine.launch(work)
        await clock.step(engine, 1)
        assert began == [0]
        await redeclare(engine, rate=Rate(10, per=20.0))
        await clock.step(engine, 5)
        assert began == pytest.approx([0, 3, 5], abs=0.01)
        await redeclare(engine, rate=Rate(1, per=60.0, burst=2))
        await clock.step(engine, 29)
        assert len(began) == 4  # half an attempt ahead: one of the burst is left
        await redeclare(engine, priority=5)
        await engine.drain()
        assert len(began) == 6
        queue = engine._core.runner._queue
        assert queue._levels == {"work": 5}
        await redeclare(engine)
        assert queue._levels == {}


async def test_places_that_are_declared_anew_are_there_at_once() -> None:
    """For those that wait to begin, those of a key, and those that come back."""
    app, clock, done = keyed(concurrency=9, concurrency_per_key=1)

    async with opened(app, clock=clock) as engine:
        await engine.emit("o", ("a", "sleeper", 1.0, 100.0))
        await quiet(engine)
        for name in ("worker", "new"):
            await engine.emit("o", ("a", name, 0.0, 100.0))
        await clock.step(engine, 5)
        (name,) = engine._core.runner._queue._gates
        assert len(engine._core.runner._queue._gates[name]._holders) == 1
        other = App("t")
        other.task(name=name, concurrency=3)(app.tasks[name].function)
        engine._core.runner._queue.declare(other.tasks[name])
        await clock.step(engine, 101)
        await engine.drain()
    assert sorted(done) == [("a", "new", 105), ("a", "sleeper", 105), ("a", "worker", 100)]


async def test_a_key_is_counted_from_before_it_had_a_limit() -> None:
    """One that executes when the limit is declared has a place of its key."""
    app, clock, done = keyed(concurrency=9)
    async with opened(app, clock=clock) as engine:
        for number in range(2):
            await engine.emit("o", ("a", f"old {number}", 0.0, 10.0 + number))
        await quiet(engine)
        (name,) = engine._core.runner._queue._gates
        other = App("t")
        other.task(name=name, concurrency_per_key=1)(app.tasks[name].function)
        engine._core.runner._queue.declare(other.tasks[name])
        await engine.emit("o", ("a", "new", 0.0, 0.0))
        await clock.step(engine, 100)
        await engine.drain()
        assert engine._core.runner._queue._gates[name]._by_key == {}
    assert [(name, at_s) for _, name, at_s in done] == [("old 0", 10), ("old 1", 11), ("new", 11)]


@pytest.mark.parametrize("limit", [2, 50])
async def test_sleepers_that_wake_together_keep_to_the_limit_of_their_task(limit: int) -> None:
    """To that of the engine as a whole they do not: they have begun before."""
    app, clock, now, most = App("t"), StepClock(), [0], [0]

    @app.task(concurrency=limit)
    async def nap(run: Run) -> None:
        await run.sleep(1)
        now[0] += 1
        most[0] = max(most[0], now[0])
        await checkpoint()
        now[0] -= 1

    async with opened(app, clock=clock, concurrency=20) as engine:
        for _ in range(100):
            await engine.launch(nap)
        await clock.step(engine, 10)
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 100}
    assert most[0] == limit


async def test_a_step_of_a_limited_task_that_fails_frees_its_place_before_its_parent_goes_on() -> (
    None
):
    """The parent calls it again at once, under a limit of one."""
    app, tries = App("t"), list[int]()

    @app.task(concurrency=1)
    async def step(n: int) -> None:
        tries.append(n)
        raise OSError

    @app.task
    async def parent(run: Run) -> None:
        for n in range(3):
            try:
                await run.call(step, n)
            except StepFailed:
                continue

    async with opened(app) as engine:
        await engine.result(await engine.launch(parent))
    assert tries == [0, 1, 2]
