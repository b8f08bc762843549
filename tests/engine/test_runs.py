"""What becomes of firings and runs: modes, dead letters, families over a crash, the table."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.stand import (
    Gate,
    StepClock,
    borders,
    check_live,
    of_kind,
    opened,
    quiet,
    records_of,
    until,
)

import headrace.engine.threads as threads_module
from headrace import App, Firing, MemoryLog, Retry, Run, StepFailed, on
from headrace.engine.kernel import Kernel
from headrace.engine.record import (
    EventStored,
    RuleFired,
    RuleLoop,
    RunCancelled,
    RunFailed,
    RunReleased,
    RunReplaced,
    decode,
)
from headrace.engine.run_state import RunState
from headrace.engine.runs import FEW_MAX, RUNS_ENDED_MAX, RunTable


def keyed(subject: str) -> Any:
    return on(subject).key(lambda e: e.tokens[1])


# ---------------------------------------------------------------- modes


async def test_single_drops_firings_while_a_run_of_the_key_is_active() -> None:
    """And records that it did, so that nobody has to wonder."""
    app, gate, log, ran = App("t"), Gate(), MemoryLog(), list[Any]()

    @app.rule(keyed("a.*"), mode="single")
    async def act(run: Run, firing: Firing[Any]) -> None:
        ran.append((run.key, firing.events[0].data))
        await gate.wait()

    async with opened(app, log) as engine:
        await engine.emit_many([("a.x", 1), ("a.x", 2), ("a.y", 3), ("a.x", 4)])
        await quiet(engine)
        gate.open()
        await engine.drain()
        await engine.emit("a.x", 5)
        await engine.drain()
        assert engine.state().rules[0].dropped == 2

    assert sorted(ran) == [("x", 1), ("x", 5), ("y", 3)]
    assert [fired.outcome for fired in of_kind(log, RuleFired)].count("dropped") == 2


async def test_single_counts_a_run_that_waits_for_its_retry() -> None:
    """A run in back-off is active: two at once is what this mode forbids."""
    app, clock, ran = App("t"), StepClock(), list[int]()

    @app.rule(on("a"), mode="single", retry=Retry(attempts=2, wait_first=10, jitter=0))
    async def act(run: Run) -> None:
        ran.append(run.attempt)
        if run.attempt == 1:
            raise OSError

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 5)
        await engine.emit("a")
        await clock.step(engine, 10)
        await engine.emit("a")
        await clock.step(engine, 100)

    assert ran == [1, 2, 1, 2]


@pytest.mark.parametrize("where", ["active", "asleep", "back-off"])
async def test_restart_ends_the_old_run_before_the_new_one_begins(where: str) -> None:
    """Of n firings at once exactly the last survives."""
    app, clock, gate, log, trail = App("t"), StepClock(), Gate(), MemoryLog(), list[Any]()

    @app.rule(on("a"), mode="restart", retry=Retry(attempts=2, wait_first=30, jitter=0))
    async def act(run: Run, firing: Firing[int]) -> int:
        number = firing.events[0].data
        trail.append(("begins", number))
        try:
            if number == 0:
                if where == "back-off":
                    raise OSError
                await (gate.wait() if where == "active" else run.sleep(1000))
        finally:
            trail.append(("ends", number))
        return number

    async with opened(app, log, clock) as engine:
        await engine.emit("a", 0)
        await quiet(engine)
        await engine.emit_many([("a", n) for n in range(1, 6)])
        await engine.drain()
        await clock.step(engine, 100)
        assert engine.state().runs_active == 0

    assert trail == [("begins", 0), ("ends", 0), ("begins", 5), ("ends", 5)]
    (cancelled,) = of_kind(log, RunCancelled)
    assert cancelled.reason == "a newer firing restarts it"
    assert len(of_kind(log, RunReplaced)) == 4
    assert len(of_kind(log, RunReleased)) == 1


async def test_restart_goes_on_without_a_thread_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the grace period it is disowned, recorded, and the new run starts."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, log, go, began = App("t"), MemoryLog(), threading.Event(), list[int]()

    @app.rule(on("a", int), mode="restart")
    def act(firing: Firing[int]) -> int:
        began.append(firing.events[0].data)
        if began == [0]:
            go.wait()
        return firing.events[0].data

    async with opened(app, log) as engine:
        try:
            await engine.emit("a", 0)
            await until(lambda: began)
            await engine.emit("a", 1)
            await engine.emit("a", 2)
            await engine.drain()
        finally:
            go.set()

    assert began == [0, 2]
    (cancelled,) = of_kind(log, RunCancelled)
    assert "thread" in cancelled.reason


async def test_modes_hold_over_a_crash_at_any_place() -> None:
    """The run that was being cancelled ends, the one that waited begins, and none runs twice."""
    app, gate, log = App("t"), Gate(), MemoryLog()
    now, most, finished = 0, 0, list[int]()

    @app.rule(on("a", int), mode="restart")
    async def act(firing: Firing[int]) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            if not firing.events[0].data:
                await gate.wait()
            finished.append(firing.events[0].data)
        finally:
            now -= 1

    async with opened(app, log) as engine:
        for n in (0, 1):
            await engine.emit("a", n)
            await quiet(engine)
    for upto in borders(log):
        left, finished[:] = log.copy(upto), []
        stored = of_kind(left, EventStored)
        async with opened(app, left) as engine:
            for n in range(len(stored), 2):
                await engine.emit("a", n)
                await quiet(engine)
            await engine.drain()
            assert engine.state().runs_active == 0
        assert len(of_kind(left, RunReleased)) == 1, upto

    assert most == 1


# ---------------------------------------------------------------- dead letters


async def test_dead_letter_has_cause_traceback_and_input() -> None:
    """What has to be known to run it again is in the log."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=0))
    async def act(run: Run) -> None:
        raise ValueError(f"in attempt {run.attempt}")

    async with opened(app, log) as engine:
        event = await engine.emit("a", {"x": 1})
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert (dead.attempt, dead.error, dead.events) == (2, "ValueError: in attempt 2", [event])

    (failed,) = of_kind(log, RunFailed)
    assert failed.traceback.rstrip().endswith("ValueError: in attempt 2")
    assert "engine/runner.py" not in failed.traceback
    fired = dict(records_of(log))[failed.run]
    assert isinstance(fired, RuleFired)
    assert fired.events == [event]


async def test_huge_error_does_not_fill_the_log() -> None:
    """Text and traceback are cut."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        raise ValueError("x" * 5_000_000)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()

    (failed,) = of_kind(log, RunFailed)
    assert len(failed.error) < 2000
    assert len(failed.traceback) < 10_000


async def test_failure_of_a_step_names_the_way_down() -> None:
    """Through three levels, the reason is in the dead letter at the top."""
    app = App("t")

    @app.task
    async def lowest() -> None:
        raise KeyError("the reason")

    @app.task
    async def middle(run: Run) -> None:
        await run.call(lowest)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(middle)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert [word in str(dead.error) for word in ("middle", "lowest", "the reason")] == [
            True
        ] * 3
        assert engine.state().runs_ended == {"failed": 2, "dead": 1}


async def test_dead_letters_can_be_reacted_to() -> None:
    """By an ordinary rule: no second mechanism."""
    app, seen = App("t"), list[Any]()

    @app.rule(on("a"))
    async def act() -> None:
        raise ValueError("x")

    @app.rule(on("run.failed.act"))
    async def alert(firing: Firing[dict[str, Any]]) -> None:
        seen.append(firing.events[0].data["error"])

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert seen == ["ValueError: x"]


async def test_rules_that_feed_themselves_are_stopped() -> None:
    """A loop through events or lifecycle ends at the bound, recorded, and the engine lives."""
    app, log, ran = App("t"), MemoryLog(), list[int]()

    @app.rule(on("a"))
    async def again(run: Run) -> None:
        ran.append(1)
        await run.emit("a")

    @app.rule(on("run.completed.>"))
    async def echo() -> None:
        ran.append(2)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.state().runs_active == 0

    assert 60 <= ran.count(1) <= 65
    assert of_kind(log, RuleLoop)


# ---------------------------------------------------------------- families over a crash


@pytest.mark.parametrize("how", ["active", "retrying", "asleep"])
@pytest.mark.parametrize("then", ["fails", "completes", "asks again"])
async def test_child_that_its_parent_does_not_ask_for_again_ends(how: str, then: str) -> None:
    """After a crash the parent may go another way: no orphan stays open or runs by itself."""
    app, clock, gate, log = App("t"), StepClock(), Gate(), MemoryLog()
    crashed, ran_after = list[int](), list[str]()

    @app.task(retry=Retry(attempts=3, wait_first=10, jitter=0))
    async def child(run: Run) -> None:
        if crashed:
            ran_after.append("child")
            return
        if how == "retrying":
            raise OSError
        await (run.sleep(10) if how == "asleep" else gate.wait())

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=1, jitter=0))
    async def act(run: Run) -> None:
        if crashed == [1] and then != "asks again":
            crashed.append(2)
            if then == "fails":
                raise LookupError("on the way to the child")
            return
        await run.call(child)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 5)
        left = log.copy()
    crashed.append(1)
    async with opened(app, left, clock) as engine:
        await clock.step(engine, 1000)
        assert engine.state().runs_active == 0
        assert engine.state().timers == 0
        assert engine.runs("dead") == []

    expected = {"fails": 1, "completes": 0, "asks again": 1}
    assert len(ran_after) == expected[then]


@pytest.mark.parametrize("downtime_s", [0, 5, 50])
async def test_retrying_child_is_started_after_a_restart(downtime_s: int) -> None:
    """Whether its back-off ends before its parent has asked again, or after."""
    app, clock, log, tried = App("t"), StepClock(), MemoryLog(), list[int]()

    @app.task(retry=Retry(attempts=3, wait_first=10, jitter=0))
    async def child(run: Run) -> int:
        tried.append(run.attempt)
        if run.attempt == 1:
            raise OSError
        return run.attempt

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        assert await run.call(child) == 2

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
    clock.pass_by(downtime_s)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 10)
        assert engine.state().runs_ended == {"completed": 2}

    assert tried == [1, 2]


async def test_children_end_before_their_parent_completes() -> None:
    """The order of the log is that of the family: no child's end behind its parent's."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def leaf(n: int) -> None:
        for _ in range(n):
            await anyio.lowlevel.checkpoint()
        if n == 3:
            raise ValueError

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        for n in range(8):
            run.spawn(leaf, n)

    @app.rule(on("a"), name="fan")
    async def fan(run: Run) -> None:
        try:
            await run.map(leaf, range(8))
        except StepFailed:
            return

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.state().runs_active == 0
        parents = {view.id: view.parent for view in engine.runs()}

    ended = [getattr(record, "run", 0) for _, record in records_of(log) if "Run" in repr(record)]
    ended = [run for run in ended if run in parents]
    for run, parent in parents.items():
        if parent:
            assert ended.index(run) < ended.index(parent)


# ---------------------------------------------------------------- the table


async def test_table_keeps_a_bounded_number_of_ended_runs() -> None:
    """The log has them all; the memory has the last."""
    app = App("t")

    @app.rule(on("a"))
    async def act() -> None: ...

    async with opened(app) as engine:
        await engine.emit_many([("a", None)] * (RUNS_ENDED_MAX + 50))
        await engine.drain()
        ids = [run.id for run in engine.runs()]
        assert len(ids) == RUNS_ENDED_MAX
        assert ids == sorted(ids, reverse=True)
        assert engine.state().runs_ended == {"completed": RUNS_ENDED_MAX + 50}


async def test_state_folded_from_the_log_is_the_live_state() -> None:
    """Byte for byte, in the middle of everything: steps, timers, cursors, children."""
    app, clock, gate, log = App("t"), StepClock(), Gate(), MemoryLog()

    @app.task(retry=Retry(attempts=5, wait_first=100, wait_max=100))
    async def bad() -> None:
        raise OSError

    @app.task
    async def good(n: int) -> int:
        return n

    @app.rule(keyed("a.*"), mode="restart")
    async def act(run: Run) -> None:
        await run.call(good, 3)
        run.spawn(bad)
        await run.emit("b", 1)
        await run.sleep(50)
        await gate.wait()

    @app.rule(on("a.*"), retry=Retry(attempts=3, wait_first=5))
    async def fails() -> None:
        raise ValueError

    async with opened(app, log, clock) as engine:
        for n in range(6):
            await engine.emit(f"a.{n % 2}", n, source="s", position=n, id=str(n))
            await clock.step(engine, 17)
            folded = Kernel(app.decider())
            for first, batch in log.read():
                for sequence, raw in enumerate(batch, first):
                    folded.fold(sequence, decode(raw))
            folded.finish_fold()
            assert folded.divergences == []
            assert folded.dump() == engine.kernel.dump()


async def test_all_that_follows_from_a_launch_has_its_trace() -> None:
    """Children and children of children, what they emit, and what they launch."""
    app, log, clock, traces = App("t"), MemoryLog(), StepClock(), dict[str, int]()

    @app.task
    async def leaf(run: Run, name: str) -> None:
        traces[name] = run.trace
        await run.emit(name)

    @app.task
    async def child(run: Run) -> None:
        traces["child"] = run.trace
        await run.call(leaf, "called")
        await run.spawn(leaf, "spawned")
        await run.launch(leaf, "launched")
        await run.keyed("k").launch(leaf, "keyed")

    @app.task
    async def top(run: Run) -> None:
        await run.call(child)

    @app.rule(on("called"))
    async def act(run: Run) -> None:
        traces["act"] = run.trace

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(top)
        await engine.drain()
        await check_live(engine)

    names = ["called", "spawned", "launched", "keyed"]
    assert traces == dict.fromkeys(["child", "act", *names], run_id)
    events = {event.subject: event.trace for event in of_kind(log, EventStored)}
    assert events == dict.fromkeys(names, run_id)


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=300))
def test_the_runs_of_a_rule_are_had_oldest_first(moves: list[tuple[bool, int]]) -> None:
    """Whatever ends, comes back or is new, be they few or many."""
    table, open_ids, given_up = RunTable(), list[int](), list[RunState]()
    fired = RuleFired("rule", "key", [1], "run")
    for number in range(1, 2 * FEW_MAX):
        table.make_from_firing(number, fired, at_ns=0)
        open_ids.append(number)
    for number, (is_end, place) in enumerate(moves, 1000):
        if is_end and open_ids:
            run = table.active[open_ids.pop(place % len(open_ids))]
            table.end(run, "dead", at_ns=0)
            given_up.append(run)
        elif given_up and place % 2:
            run = given_up.pop(place % len(given_up))
            table.redrive(run, at_ns=0)
            open_ids = sorted([*open_ids, run.id])
        else:
            table.make_from_firing(number, fired, at_ns=0)
            open_ids.append(number)
        assert list(table.of_rule("rule", "key")) == open_ids
