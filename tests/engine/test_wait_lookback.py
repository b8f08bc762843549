"""How far patterns that a run waits for look back: nothing is missed, and nothing comes twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from tests.engine.stand import (
    StepClock,
    borders,
    check_live,
    of_kind,
    opened,
    quiet,
    until,
)

from headrace import (
    App,
    Emission,
    Firing,
    MemoryLog,
    Retry,
    Run,
    SegmentGone,
    on,
    silent,
)
from headrace.engine.log.memory import READ_COUNT
from headrace.engine.lookback import CHUNK
from headrace.engine.record import RunCancelled, RunCompleted, RunFailed, WaitRequested


def results(log: MemoryLog) -> list[Any]:
    """Return the results of all runs, in the order of their ends."""
    return [msgspec.msgpack.decode(record.result) for record in of_kind(log, RunCompleted)]


class CountingLog(MemoryLog):
    """A log that counts how often it is read."""

    reads = 0

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `MemoryLog`."""
        self.reads += 1
        return super().read(after=after)


class SlowLog(MemoryLog):
    """A log whose reading in a thread stops before the second batch, until it may go on."""

    def __init__(self) -> None:
        """Begin without a stop."""
        super().__init__()
        self.stops = False
        self.batches = 0
        self.is_at_stop = threading.Event()
        self.may_go_on = threading.Event()

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `MemoryLog`."""
        for number, batch in enumerate(super().read(after=after)):
            if number and self.stops:
                self.stops = False
                self.is_at_stop.set()
                assert self.may_go_on.wait(20)
            self.batches += 1
            yield batch


class CutLog(MemoryLog):
    """A log of which retention has removed the first records."""

    gone = 0

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """See `MemoryLog`."""
        return super().fetch([sequence for sequence in sequences if sequence > self.gone])

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `MemoryLog`."""
        if 0 < after < self.gone:
            raise SegmentGone("the log", wanted=after + 1, first_sequence=self.gone + 1)
        return super().read(after=max(after, self.gone))


# ---------------------------------------------------------------- what is seen


async def test_an_answer_that_is_faster_than_the_wait_is_not_missed() -> None:
    """It came after the run asked for it, and before the run waited."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.rule(on("fans.a.start"))
    async def fan(run: Run) -> None:
        await run.emit("fans.a.running", 900)

    @app.rule(on("hot"))
    async def cool(run: Run) -> int | None:
        await run.emit("fans.a.start")
        await run.sleep(5)
        answer = await run.wait(on("fans.a.running", int), timeout=30)
        return None if answer is None else answer.events[0].data

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("hot")
        await clock.step(engine, 5)
        await check_live(engine)

    assert results(log) == [None, 900]
    assert of_kind(log, RunFailed) == []


async def test_what_began_the_run_is_not_seen_again() -> None:
    """Only what came after it: a rule's action may wait for the next of the same."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.rule(on("n", int).count(2, within=60))
    async def act(run: Run, firing: Firing[int]) -> list[int]:
        after = await run.wait(on("n", int))
        return [event.data for event in (*firing.events, *after.events)]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit_many([("n", 1), ("n", 2), ("n", 3)])
        await quiet(engine)

    assert results(log) == [[1, 2, 3]]


async def test_each_wait_for_a_pattern_goes_on_behind_the_one_before() -> None:
    """So a loop gets all of them, each once; another pattern looks back to the run's beginning."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def collect(run: Run) -> list[list[int]]:
        await run.sleep(5)
        found = [await run.wait(on("n", int)) for _ in range(4)]
        pairs = [await run.wait(on("n", int).count(2, within=60)) for _ in range(2)]
        return [[event.data for event in firing.events] for firing in (*found, *pairs)]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("n", 0)
        await engine.launch(collect)
        await quiet(engine)
        await engine.emit_many([("n", 1), ("n", 2), ("n", 3)])
        await clock.step(engine, 5)
        assert engine.runs("active")
        await engine.emit("n", 4)
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [[[1], [2], [3], [4], [1, 2], [3, 4]]]


async def test_what_came_after_a_timeout_meets_the_next_wait() -> None:
    """It was too late for the one before, which returned nothing."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> list[Any]:
        first = await run.wait(on("up", int), timeout=10)
        await run.sleep(10)
        second = await run.wait(on("up", int), timeout=10)
        return [first, second and second.events[0].data]

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await clock.step(engine, 15)
        await engine.emit("up", 7)
        await clock.step(engine, 20)

    assert results(log) == [[None, 7]]


async def test_looking_back_can_be_left() -> None:
    """Then only what comes from the wait on meets it."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> int:
        await run.sleep(5)
        return (await run.wait(on("n", int), lookback=False)).events[0].data

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await quiet(engine)
        await engine.emit("n", 1)
        await clock.step(engine, 5)
        await engine.emit("n", 2)
        await quiet(engine)

    assert results(log) == [2]
    assert [asked.since for asked in of_kind(log, WaitRequested)] == [None]


async def test_a_retry_goes_on_behind_what_the_last_attempt_was_given() -> None:
    """What met a wait is on record, and the next one looks back to just after that."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=10.0, jitter=0.0))
    async def act(run: Run) -> list[int]:
        first = await run.wait(on("up", int))
        if run.attempt == 1:
            raise ValueError("once")
        second = await run.wait(on("up", int))
        return [first.events[0].data, second.events[0].data]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.emit_many([("up", 1), ("up", 2)])
        await clock.step(engine, 10)

    assert results(log) == [[1, 2]]


@pytest.mark.slow
async def test_a_crash_at_any_record_changes_nothing_of_what_is_seen() -> None:
    """How far a wait looks back is on record, and what comes after the crash meets it too."""
    app = App("t")

    @app.task
    async def start(run: Run) -> list[int]:
        await run.emit("begun")
        found = [await run.wait(on("n", int)) for _ in range(3)]
        pair = await run.wait(on("n", int).count(2, within=60))
        return [event.data for firing in (*found, pair) for event in firing.events]

    async def play(log: MemoryLog, *, begun: bool) -> list[Any]:
        clock = StepClock()
        async with opened(app, log, clock=clock) as engine:
            if not begun:
                await engine.launch(start)
            await quiet(engine)
            stored = sum(b"\xa1n" in raw for _, batch in log.read() for raw in batch)
            for number in range(stored, 3):
                await engine.emit("n", number)
                await quiet(engine)
            await check_live(engine)
        return results(log)

    whole = MemoryLog()
    assert await play(whole, begun=False) == [[0, 1, 2, 0, 1]]
    launched = of_kind(whole, WaitRequested)[0].run
    for sequence in borders(whole):
        left = whole.copy(sequence)
        assert await play(left, begun=sequence >= launched) == [[0, 1, 2, 0, 1]], sequence


# ---------------------------------------------------------------- patterns that go by time


@pytest.mark.parametrize("down", [False, True])
async def test_a_silence_that_was_returned_is_over(down: bool) -> None:
    """What is expected is so from then on; also if nothing ran at the time of the silence."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def watch(run: Run) -> list[float]:
        began = run.now()
        beats = silent(on("beat"), for_=15, expect=[None])
        return [(await run.wait(beats)).at - began for _ in range(4)]

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(watch)
        await clock.step(engine, 10)
        if not down:
            await clock.step(engine, 8)
    if down:
        clock.pass_by(8)
    async with opened(app, log, clock=clock) as engine:
        await engine.emit("beat")  # perhaps before the run is invoked again
        await clock.step(engine, 100)
        await check_live(engine)

    assert results(log) == [[15.0, 33.0, 48.0, 63.0]]


async def test_by_input_looking_back_holds_the_time() -> None:
    """Log time stands still until the wait has seen what was there, and its time-out comes then."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("go"))
    async def act(run: Run) -> list[Any]:
        await run.sleep(20)
        found = await run.wait(on("level", int), timeout=5)
        none = await run.wait(on("level", int), timeout=5)
        return [found and found.events[0].data, none, run.now()]

    def at(time: float, subject: str, data: Any = None) -> Emission:
        return Emission(subject, data, source="f", position=int(time), time=time)

    async with opened(app, log, clock="input") as engine:
        await engine.emit_many([at(10, "go"), at(12, "level", 9), at(40, "end")])
        await engine.drain()
        await check_live(engine)

    assert results(log) == [[9, None, 35.0]]


# ---------------------------------------------------------------- dead letters


class Pump:
    """An app whose run asks, fails for as long as it is broken, and then waits for the answer."""

    def __init__(self) -> None:
        """Begin broken."""
        self.app = App("pump")
        self.broken = True

        @self.app.task
        async def start(run: Run) -> int | None:
            await run.emit("start")
            if self.broken:
                raise OSError("no valve")
            answer = await run.wait(on("up", int), timeout=10)
            return None if answer is None else answer.events[0].data

        self.start = start


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_redrive_looks_back_to_where_the_run_began(from_start: bool) -> None:
    """From the start everything is asked for again, so that an old answer says nothing."""
    pump, log, clock = Pump(), MemoryLog(), StepClock()

    async with opened(pump.app, log, clock=clock) as engine:
        run_id = await engine.launch(pump.start)
        await quiet(engine)
        await engine.emit("up", 1)
        pump.broken = False
        await engine.redrive(run_id, from_start=from_start)
        await quiet(engine)
        await engine.snapshot()
    async with opened(pump.app, log, clock=clock) as engine:
        await engine.emit("up", 2)
        await clock.step(engine, 10)
        await check_live(engine)

    assert results(log) == [2 if from_start else 1]


async def test_a_redrive_looks_back_as_far_as_the_log_goes() -> None:
    """Dead letters do not keep it, and what is gone is no reason to fail again."""
    pump, log, clock = Pump(), CutLog(), StepClock()

    async with opened(pump.app, log, clock=clock) as engine:
        run_id = await engine.launch(pump.start)
        await quiet(engine)
        log.gone = await engine.emit("n")
        await engine.emit_many([("n", None), ("up", 1)])
        pump.broken = False
        await engine.redrive(run_id)
        await quiet(engine)

    assert results(log) == [1]


# ---------------------------------------------------------------- many at once


@pytest.mark.slow
async def test_many_that_are_behind_read_the_log_together() -> None:
    """After a start a thousand runs may look back, each for as long as the log is."""
    app, log, clock = App("t"), CountingLog(), StepClock()

    @app.task
    async def start(run: Run, n: int) -> int:
        firing = await run.wait(on(f"up.{n}", int).count(2, within=1000))
        return firing.events[1].data - n

    async with opened(app, log, clock=clock) as engine:
        for n in range(50):
            await engine.launch(start, n)
        await quiet(engine)
        await engine.emit_many([(f"up.{n}", n) for n in range(50)])
        await quiet(engine)
    async with opened(app, log, clock=clock) as engine:
        log.reads = 0
        await quiet(engine)
        reads = log.reads
        await engine.emit_many([(f"up.{n}", n + 7) for n in range(50)])
        await quiet(engine)

    assert results(log) == [7] * 50
    assert reads < 10


async def test_who_looks_back_too_far_is_no_matter_of_others() -> None:
    """Two want records that are gone, one of them from the very first on; the rest goes on."""
    app, log, clock = App("t"), CutLog(), StepClock()

    @app.task
    async def start(run: Run, since: int) -> int:
        firing = await run.wait(on("up", int), since=since or run.id)
        return firing.events[0].data

    async with opened(app, log, clock=clock) as engine:
        gone = await engine.emit("n")
        await engine.emit("n")
        runs = [await engine.launch(start, since) for since in (0, 1, 0, gone, 0)]
        await quiet(engine)
        await engine.snapshot()
    log.gone = gone
    async with opened(app, log, clock=clock) as engine:
        await quiet(engine)
        await engine.emit("up", 42)
        await quiet(engine)
        dead = {run.id: str(run.error) for run in engine.runs("dead")}

    assert results(log) == [42] * 3
    assert dead.keys() == {runs[1], runs[3]}
    assert all(error.startswith("SegmentGone: ") for error in dead.values())


async def test_when_who_reads_is_cancelled_another_one_reads_on() -> None:
    """From where it was: no event is seen twice, and none is missed."""
    app, log, clock = App("t"), SlowLog(), StepClock()

    @app.task
    async def start(run: Run, since: int, name: str) -> list[int]:
        firing = await run.wait(on(name, int).count(4, within=1e6), since=since)
        return [event.data for event in firing.events]

    async with opened(app, log, clock=clock) as engine:
        since = await engine.emit("begin")
        await engine.emit("n", 1)
        await engine.emit_many([("other", n) for n in range(CHUNK)])
        await engine.emit("n", 2)
        log.stops = True
        first = await engine.launch(start, since, "m")
        second = await engine.launch(start, since, "n")
        await until(log.is_at_stop.is_set)
        await quiet(engine)
        await engine.emit("n", 3)  # it comes live, and is read from the log as well
        await engine.cancel(first)
        log.may_go_on.set()
        await until(lambda: first not in engine.kernel.state.runs.active)
        await engine.emit("n", 4)
        assert await engine.result(second) == [1, 2, 3, 4]
        await check_live(engine)

    assert [record.run for record in of_kind(log, RunCancelled)] == [first]


async def test_who_is_cancelled_reads_no_further() -> None:
    """A look-back over a year of records does not hold up the end of its run."""
    app, log, clock = App("t"), SlowLog(), StepClock()

    @app.task
    async def start(run: Run, since: int) -> None:
        await run.wait(on("n"), since=since)

    async with opened(app, log, clock=clock) as engine:
        since = await engine.emit("begin")
        await engine.emit_many([("other", n) for n in range(3 * CHUNK)])
        log.stops, log.batches = True, 0
        run_id = await engine.launch(start, since)
        await until(log.is_at_stop.is_set)
        await engine.cancel(run_id)
        log.may_go_on.set()
        await until(lambda: run_id not in engine.kernel.state.runs.active)
        read = log.batches

    assert read <= CHUNK // READ_COUNT + 1
