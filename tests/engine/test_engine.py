"""What `Engine` promises to whoever emits, waits and closes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    HANG_S,
    Gate,
    GatedLog,
    StepClock,
    borders,
    of_kind,
    opened,
    quiet,
    records_of,
)

import headrace.engine.commit as commit_module
from headrace import (
    App,
    Emission,
    Engine,
    EngineClosed,
    EventRefused,
    Firing,
    HeadraceError,
    LogLocked,
    LogMismatch,
    MemoryLog,
    Retry,
    Run,
    RunNotFound,
    on,
)
from headrace.engine.record import EngineStarted, EngineStopped, EventStored


def subjects(log: MemoryLog) -> list[str]:
    return [event.subject for event in of_kind(log, EventStored)]


async def collect(engine: Engine, subject: str, got: list[Any], **options: Any) -> None:
    """Emit, and put what comes of it into *got*."""
    try:
        got.append(await engine.emit(subject, None, **options))
    except HeadraceError as error:
        got.append(error)


# ---------------------------------------------------------------- emit


async def test_emit_returns_the_sequence_of_the_stored_event() -> None:
    """Whoever emits can find the event again: sequences are those of the log."""
    log = MemoryLog()
    async with opened(App("t"), log) as engine:
        first = await engine.emit("a.b", {"x": 1})
        second, third = await engine.emit_many([("a.c", 1), Emission("a.d", 2)])

        stored = dict(records_of(log))
        assert [stored[s].subject for s in (first, second, third)] == ["a.b", "a.c", "a.d"]  # type: ignore[union-attr]
        assert (second, third) == (first + 1, first + 2)


async def test_emit_returns_only_after_the_commit() -> None:
    """An acknowledged event survives a crash, so none is acknowledged before the disk has it."""
    log, got = GatedLog(), list[Any]()
    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(collect, engine, "a", got)
        await quiet(engine)
        assert got == []
        log.release()
        await quiet(engine)

    assert len(got) == 1
    assert got[0] <= log.committed_sequence


async def test_nothing_runs_before_the_event_is_durable() -> None:
    """Log before act: what a run does to the world is never ahead of the log."""
    app, log, ran = App("t"), GatedLog(), list[int]()

    @app.rule(on("a"))
    async def act() -> None:
        ran.append(1)

    async with opened(app, log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.emit, "a")
        await quiet(engine)
        assert ran == []
        log.release()
        await engine.drain()

    assert ran == [1]


@pytest.mark.parametrize(
    "bad",
    [
        ("a..b", None),
        ("run.completed.x", None),
        ("a", object()),
        ("a", b"x" * 2_000_000),
        ("a" * 2000, None),
        ("\udcff", None),
        Emission("a", id="\udcff"),
        Emission("a", id="x" * 2000),
        Emission("a", id=5),  # type: ignore[arg-type]
        Emission("a", key=5),  # type: ignore[arg-type]
        Emission("a", source=5),  # type: ignore[arg-type]
        Emission("a", source="\udcff"),
        Emission("a", position="7"),  # type: ignore[arg-type]
        Emission("a", position=1.5),  # type: ignore[arg-type]
        Emission("a", position=True),
        Emission("a", position=2**70),
        Emission("a", time=float("nan")),
        Emission("a", time=float("inf")),
        Emission("a", time=1e30),
        Emission("a", time="5"),  # type: ignore[arg-type]
        Emission("a", time_ns=1.5),  # type: ignore[arg-type]
    ],
    ids=lambda bad: repr(bad).partition(" at 0x")[0][:50],
)
async def test_one_bad_event_refuses_the_whole_batch(bad: Any) -> None:
    """All or nothing: a batch is checked before its first event is stored.

    What could be stored but never be read again would take the whole log with it.
    """
    log = MemoryLog()
    async with opened(App("t"), log) as engine:
        before = engine.kernel.sequence
        with pytest.raises((ValueError, TypeError, OverflowError, EventRefused)):
            await engine.emit_many([("a", 1), bad, ("a", 2)])
        assert engine.kernel.sequence == before
        after = await engine.emit("b")
        assert after == log.committed_sequence

    async with opened(App("t"), log) as engine:
        assert subjects(log) == ["b"]


async def test_emit_many_is_one_group() -> None:
    """A thousand events cost one commit."""
    log = GatedLog()
    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.emit_many, [("a", n) for n in range(1000)])
        await quiet(engine)
        assert log.next_sequence == log.committed_sequence + 1001
        log.release()

    assert len(subjects(log)) == 1000


async def test_changing_the_data_after_emit_changes_nothing() -> None:
    """The data is encoded when it is emitted: what is stored is what was said."""
    log, data = GatedLog(), {"x": 1}
    seen = list[Any]()
    app = App("t")

    @app.rule(on("a"))
    async def act(firing: Firing[Any]) -> None:
        seen.append(firing.events[0].data)

    async with opened(app, log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.emit, "a", data)
        await quiet(engine)
        data["x"] = 2
        log.release()
        await engine.drain()

    assert seen == [{"x": 1}]


# ---------------------------------------------------------------- dedupe and cursor


async def test_repeated_id_of_a_source_is_stored_once() -> None:
    """A source that delivers twice does no harm, and learns where the first one is."""
    log = MemoryLog()
    async with opened(App("t"), log) as engine:
        first = await engine.emit("a", 1, source="s", id="7")
        again = await engine.emit("a", 2, source="s", id="7")
        other = await engine.emit("a", 3, source="z", id="7")
        none = await engine.emit("a", 4, source="s")

        assert again == first
        assert len({first, other, none}) == 3

    async with opened(App("t"), log) as engine:
        assert await engine.emit("a", 5, source="s", id="7") == first
    assert subjects(log) == ["a"] * 3


async def test_repeated_id_in_one_batch_is_stored_once() -> None:
    """A redelivery may come in the same batch as the first delivery."""
    log = MemoryLog()
    async with opened(App("t"), log) as engine:
        one, two, three = await engine.emit_many(
            [Emission("a", 1, id="x"), Emission("a", 2, id="x"), Emission("a", 3, id="y")]
        )

    assert one == two != three
    assert len(subjects(log)) == 2


async def test_repeated_emit_is_acknowledged_only_with_the_first() -> None:
    """While the first is in flight, its repetition is not durable either."""
    log, got = GatedLog(), list[Any]()
    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        for _ in range(3):
            group.start_soon(lambda: collect(engine, "a", got, id="x"))
            await quiet(engine)
        assert got == []
        log.release()
        await quiet(engine)

    assert len(got) == 3
    assert len(set(got)) == 1
    assert subjects(log) == ["a"]


async def test_id_is_forgotten_after_the_window() -> None:
    """The window is bounded and half-open: at exactly its end the id is new."""
    clock, log = StepClock(), MemoryLog()
    async with opened(App("t"), log, clock, dedupe_window=10) as engine:
        first = await engine.emit("a", id="x")
        await clock.step(engine, 9.999)
        assert await engine.emit("a", id="x") == first
        await clock.step(engine, 0.001)
        assert await engine.emit("a", id="x") > first


async def test_cursor_commits_with_the_event() -> None:
    """At every place where a crash can cut, cursor and events agree."""
    log = MemoryLog()
    async with opened(App("t"), log) as engine:
        assert engine.cursor("file") is None
        for n in range(3):
            await engine.emit("a", n, source="file", position=100 + n)
            await engine.emit("b", n, source="other", position=n)
        assert engine.cursor("file") == 102

    for upto in borders(log):
        left = log.copy(upto)
        stored = [e for e in of_kind(left, EventStored) if e.subject == "a"]
        async with opened(App("t"), left) as engine:
            assert engine.cursor("file") == (stored[-1].position if stored else None)


# ---------------------------------------------------------------- backpressure


async def test_full_queue_makes_emit_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk slows down whoever emits, instead of filling the memory."""
    monkeypatch.setattr(commit_module, "PENDING_BYTES_MAX", 1000)
    log, got = GatedLog(), list[Any]()
    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.emit, "big", "x" * 2000)
        await quiet(engine)
        for _ in range(3):
            group.start_soon(collect, engine, "more", got)
        await quiet(engine)
        assert log.next_sequence == log.committed_sequence + 2, "more was stored in spite of all"
        log.release()
        await quiet(engine)

    assert len(got) == 3
    assert subjects(log) == ["big", "more", "more", "more"]


async def test_emit_cancelled_while_it_waits_for_room_stores_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cancelled wait leaves no trace, so emitting again is no repetition."""
    monkeypatch.setattr(commit_module, "PENDING_BYTES_MAX", 1000)
    log = GatedLog()
    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.emit, "big", "x" * 2000)
        await quiet(engine)
        with anyio.CancelScope() as scope:
            group.start_soon(_cancel_when_quiet, engine, scope)
            await engine.emit("more")
        assert scope.cancelled_caught
        log.release()

    assert subjects(log) == ["big"]


async def _cancel_when_quiet(engine: Engine, scope: anyio.CancelScope) -> None:
    await quiet(engine)
    scope.cancel()


async def test_emit_cancelled_after_it_was_stored_stays_stored() -> None:
    """Cancelling who waits does not take the event out of its group."""
    log = GatedLog()
    async with opened(App("t"), log) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        with anyio.CancelScope() as scope:
            group.start_soon(_cancel_when_quiet, engine, scope)
            await engine.emit("a")
        log.release()
        await quiet(engine)
        assert await engine.emit("b") == log.committed_sequence

    assert subjects(log) == ["a", "b"]


async def test_too_many_pending_runs_make_emit_wait() -> None:
    """Events that only pile up runs are not let in."""
    app, gate, got = App("t"), Gate(), list[Any]()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with (
        opened(app, pending_runs_max=3) as engine,
        anyio.create_task_group() as group,
    ):
        await engine.emit_many([("a", None)] * 4)
        group.start_soon(collect, engine, "a", got)
        await quiet(engine)
        assert got == []
        gate.open()
        await engine.drain()
        await quiet(engine)

        assert len(got) == 1


async def test_runs_that_wait_for_a_time_are_not_pending() -> None:
    """Nobody could get through them earlier, so events are let in beside them; also restored."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=100, wait_max=100, jitter=0))
    async def act(run: Run, firing: Firing[bool]) -> None:
        if firing.events[0].data:
            raise OSError
        await run.sleep(100)

    for _ in range(2):
        async with opened(app, log, clock, pending_runs_max=2) as engine:
            for number in range(10):
                await engine.emit("a", number % 2 == 0)
                await quiet(engine)
            assert engine.kernel.state.runs.pending == 0
    async with opened(app, log, clock, pending_runs_max=2) as engine:
        assert engine.kernel.state.runs.pending == 0
        await clock.step(engine, 300)
        assert engine.kernel.state.runs.dormant == set()
        assert engine.state().runs_ended == {"completed": 10, "dead": 10}


async def test_a_run_may_always_emit() -> None:
    """Else runs would wait for each other."""
    app, seen = App("t"), list[int]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        for number in range(20):
            seen.append(await run.emit("b", number))

    @app.rule(on("b"))
    async def consequence(run: Run) -> None:
        await run.sleep(0)

    async with opened(app, pending_runs_max=1) as engine:
        await engine.emit_many([("a", None)] * 3)
        await engine.drain()

    assert len(seen) == 60


# ---------------------------------------------------------------- open and close


async def test_second_engine_on_a_log_is_refused_and_the_first_goes_on() -> None:
    """Two writers would give out the same sequences."""
    log = MemoryLog()
    async with opened(App("t"), log) as engine:
        with pytest.raises(LogLocked):
            async with opened(App("t"), log):
                pass
        assert await engine.emit("a") == log.committed_sequence


async def test_an_engine_opens_once() -> None:
    """A closed engine says so, instead of taking events that go nowhere."""
    log = MemoryLog()
    engine = App("t").open(log, grace_s=0)
    with pytest.raises(EngineClosed, match="not open"):
        await engine.emit("a")
    async with engine:
        await engine.emit("a")
        with pytest.raises(LogLocked):
            async with engine:
                pass
        await engine.emit("b")
    with pytest.raises(EngineClosed):
        await engine.emit("c")
    with pytest.raises(EngineClosed):
        async with engine:
            pass

    assert subjects(log) == ["a", "b"]


@pytest.mark.parametrize(("first", "second"), [("system", "input"), ("input", "system")])
async def test_other_kind_of_clock_is_refused(first: Any, second: Any) -> None:
    """Windows would mix recorded time with today's, and nothing could replay that."""
    log = MemoryLog()
    async with opened(App("t"), log, clock=first) as engine:
        await engine.emit("a", time=1.0)
    before = log.committed_sequence

    with pytest.raises(LogMismatch, match="clock="):
        async with opened(App("t"), log, clock=second):
            pass
    assert log.committed_sequence == before
    async with opened(App("t"), log, clock=first):
        pass


async def test_stop_takes_no_more_events_but_lets_runs_go_on() -> None:
    """A service that shuts down finishes what it has begun."""
    app, gate, log = App("t"), Gate(), MemoryLog()
    ended = list[int]()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()
        ended.append(1)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        engine.stop()
        with pytest.raises(EngineClosed):
            await engine.emit("a")
        gate.open()
        await engine.drain()

    assert ended == [1]
    assert subjects(log) == ["a"]


async def test_emit_in_flight_at_the_end_knows_what_became_of_it() -> None:
    """A web server's last requests are answered rightly: stored or not."""
    log, got = GatedLog(), list[Any]()
    async with anyio.create_task_group() as group, opened(App("t"), log) as engine:
        await quiet(engine)
        log.hold = True
        group.start_soon(collect, engine, "a", got)
        await quiet(engine)

    (answer,) = got
    assert answer == next(s for s, r in records_of(log) if isinstance(r, EventStored))


async def test_emit_that_waits_for_room_at_the_end_is_not_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`EngineClosed` means that nothing was stored."""
    monkeypatch.setattr(commit_module, "PENDING_BYTES_MAX", 1000)
    log, got = GatedLog(), list[Any]()
    async with anyio.create_task_group() as group, opened(App("t"), log) as engine:
        await quiet(engine)
        log.hold = True
        group.start_soon(collect, engine, "x" * 500, got)
        group.start_soon(lambda: collect(engine, "y" * 500, got))
        await quiet(engine)
        group.start_soon(collect, engine, "late", got)
        await quiet(engine)

    stored = subjects(log)
    refused = [answer for answer in got if isinstance(answer, EngineClosed)]
    assert len(got) == 3
    assert len(stored) == 3 - len(refused)


async def test_clean_end_is_recorded() -> None:
    """A log tells a stop in good order from a crash."""
    log = MemoryLog()
    for _ in range(2):
        async with opened(App("t"), log):
            pass
    kinds = [type(record) for _, record in records_of(log)]

    assert kinds == [EngineStarted, EngineStopped] * 2


async def test_cancel_of_an_unknown_run_is_refused() -> None:
    """A typo in an id is not silently nothing."""
    async with opened(App("t")) as engine:
        with pytest.raises(RunNotFound, match="99"):
            await engine.cancel(99)


async def test_drain_of_an_idle_engine_returns() -> None:
    """There may be nothing to wait for."""
    async with opened(App("t")) as engine:
        await engine.drain()
    async with opened(App("t"), clock="input") as engine:
        await engine.drain()


async def test_state_counts_what_there_is() -> None:
    """The view says the same as the log."""
    app, gate = App("t"), Gate()

    @app.rule(on("a"), mode="restart")
    async def act() -> None:
        await gate.wait()

    async with opened(app) as engine:
        await engine.emit("a", source="s", position=4)
        await quiet(engine)
        state = engine.state()

        assert (state.events, state.runs_active, state.runs_waiting) == (1, 1, 0)
        assert state.sources == {"s": 4}
        assert state.rules[0].fired == 1
        assert engine.runs("active")[0].task == "act"
        assert engine.runs("dead") == []


# ---------------------------------------------------------------- interruption


@pytest.mark.parametrize("wait", ["emit", "emit_many", "drain", "cancel"])
async def test_cancellation_at_any_turn_of_a_call_leaves_the_engine_whole(wait: str) -> None:
    """Whoever waits may be cancelled at any moment; others do not notice, nothing is torn."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def step(n: int) -> int:
        await anyio.lowlevel.checkpoint()
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.map(step, range(3))

    @app.rule(on("long"))
    async def long() -> None:
        await anyio.sleep_forever()

    async with opened(app, log) as engine:
        for turns in range(25):
            await engine.emit("long")
            await quiet(engine)
            calls: dict[str, Callable[[], Any]] = {
                "emit": lambda: engine.emit("a"),
                "emit_many": lambda: engine.emit_many([("a", 1), ("a", 2)]),
                "drain": engine.drain,
                "cancel": lambda: engine.cancel(engine.runs("active")[0].id),
            }
            async with anyio.create_task_group() as group:
                group.start_soon(calls[wait])
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            await quiet(engine)
            for run in engine.runs("active"):
                await engine.cancel(run.id)
            await engine.drain()
            assert engine.state().runs_active == 0
            assert await engine.emit("c") == log.committed_sequence

    async with opened(app, log) as engine:
        assert engine.kernel.divergences == []


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["opening", "open", "closing"])
async def test_cancellation_at_any_turn_of_a_life_leaves_the_log_whole(phase: str) -> None:
    """Also while the engine opens or closes: the log is given back, and no task stays."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def step(n: int) -> int:
        await anyio.lowlevel.checkpoint()
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.map(step, range(3))
        await run.emit("done")

    before = len(anyio.get_running_tasks())
    acknowledged = 0
    reached = ""

    async def live() -> None:
        nonlocal acknowledged, reached
        reached = "opening"
        async with opened(app, log, grace_s=HANG_S) as engine:
            reached = "open"
            await engine.emit("a")
            acknowledged += 1
            await engine.drain()
            await engine.emit("a")
            reached = "closing"

    for turns in range(40):
        reached = ""
        async with anyio.create_task_group() as group:
            group.start_soon(live)
            while reached != phase:
                await anyio.lowlevel.checkpoint()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert log._notify is None
        assert len(anyio.get_running_tasks()) == before
    assert phase == "opening" or acknowledged
    async with opened(app, log) as engine:
        assert engine.kernel.divergences == []
        await engine.drain()
        assert subjects(log).count("a") == subjects(log).count("done") >= acknowledged
