"""Runs whose firing cannot be read any more: each is a dead letter, and all others go on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tests.engine.stand import StepClock, check_live, of_kind, opened, quiet
from tests.engine.test_fresh import Plant

from headrace import App, FileLog, Firing, LogCorrupt, MemoryLog, RedriveRefused, TaskFailed, on
from headrace.engine import record as r
from headrace.engine.errors import LogUnusable
from headrace.engine.log import LogReader
from headrace.engine.restore import restore

GARBAGE = b"\xc1 is no msgpack"


class Torn(MemoryLog):
    """A log in which some records are damaged, in a way of the test's choice."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__()
        self.__dict__.update(log.__dict__)
        self.damaged: dict[int, bytes | Exception | None] = {}

    def fetch(self, sequences: Any) -> dict[int, bytes]:
        """Return what is there; raise what a file log does over damage."""
        found = super().fetch(sequences)
        for sequence in set(found).intersection(self.damaged):
            match self.damaged[sequence]:
                case Exception() as error:
                    raise error
                case None:
                    del found[sequence]
                case raw:
                    found[sequence] = raw
        return found


def corrupt(sequence: int) -> LogCorrupt:
    """Return what a file log says of a damaged frame."""
    return LogCorrupt(
        "plant.log/0.hrl", 99, expected="checksum 1", found="2", first_sequence=sequence
    )


def bad_sector() -> LogUnusable:
    """Return what a file log says of a disk that cannot read."""
    cause = OSError(errno.EIO, "Input/output error")
    error = LogUnusable(
        f"plant.log byte 9: expected to read record 9, found {cause}; check the disk"
    )
    error.__cause__ = cause
    return error


WAYS: dict[str, tuple[bytes | Exception | None, str]] = {
    "no msgpack": (GARBAGE, "found what is no record: "),
    "cut off": (r.encode(r.RuleFired("work", None, [1], "run"))[:-1], "found what is no record"),
    "another record": (r.encode(r.RunReleased(3)), "found 'run.released'"),
    "missing": (None, "found no record"),
    "damaged frame": (corrupt(9), "expected checksum 1, found 2"),
    "bad sector": (bad_sector(), "found [Errno 5] Input/output error; check the disk"),
}


async def torn_log(plant: Plant, *places: int, way: str = "no msgpack") -> tuple[Torn, list[int]]:
    """Return a log with 200 fresh runs, of which those at *places* are damaged, and their ids."""
    log = Torn(await plant.left_by_a_crash())
    fresh = sorted(restore(log, plant.app.decider(), clock=None).state.runs.fresh)
    log.damaged = {fresh[place]: WAYS[way][0] for place in places}
    return log, [fresh[place] for place in places]


@pytest.mark.parametrize("way", WAYS)
async def test_only_that_run_fails(way: str) -> None:
    """It is a dead letter that says which run, where, what was found and what to do."""
    plant = Plant()
    log, (lost,) = await torn_log(plant, 5, way=way)
    plant.gate.open()
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await engine.drain()
        assert plant.seen == [number for number in range(200) if number != 5]
        assert engine.state().runs_ended == {"completed": 199, "dead": 1}
        (dead,) = engine.runs("dead")
        assert (dead.id, dead.task, dead.rule, dead.attempt) == (lost, "work", "work", 0)
        assert dead.error is not None
        assert f"run {lost}: expected at {lost} in the log the firing that made it" in dead.error
        assert WAYS[way][1] in dead.error
        assert "`headrace log salvage" in dead.error
        with pytest.raises(TaskFailed, match=f"run {lost}"):
            await engine.result(lost)
    (failed,) = of_kind(log, r.RunFailed)
    assert (failed.run, failed.error) == (lost, dead.error)
    async with opened(plant.app, log, StepClock()) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 199, "dead": 1}
        assert [view.id for view in engine.runs("dead")] == [lost]


@pytest.mark.parametrize("way", ["no msgpack", "another record"])
async def test_an_event_of_a_firing_may_be_damaged_too(way: str) -> None:
    """Then it is the attempt that fails, of a line that says which event."""
    plant = Plant()
    log, (lost,) = await torn_log(plant, 5)
    log.damaged = {lost - 1: WAYS[way][0]}
    plant.gate.open()
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 199, "dead": 1}
        (dead,) = engine.runs("dead")
        assert (dead.id, dead.attempt) == (lost, 1)
        assert dead.error is not None
        expected = f"run {lost}: expected record {lost - 1} to be an event of its firing"
        assert f"LogMismatch: {expected}, {WAYS[way][1]}" in dead.error
        assert "`headrace log salvage" in dead.error


async def test_all_of_a_damaged_frame_fail() -> None:
    """Each for itself; those before it and behind it are executed."""
    plant = Plant()
    log, lost = await torn_log(plant, *range(20, 60), way="damaged frame")
    plant.gate.open()
    async with opened(plant.app, log, StepClock()) as engine:
        await engine.drain()
        assert sorted(plant.seen) == [*range(20), *range(60, 200)]
        assert sorted(view.id for view in engine.runs("dead")) == lost
        assert not engine.kernel.state.breakers.failures_since("work", 0), "of the task itself"


async def test_one_that_is_on_trial_leaves_its_place_to_the_next() -> None:
    """After two deaths of the process each is executed alone, and it is not executed at all."""
    plant = Plant()
    log, (lost,) = await torn_log(plant, 0)
    whole, log.damaged = log.damaged, {}
    async with opened(plant.app, log, StepClock(), snapshot_every=0) as engine:
        await quiet(engine)
        log.damaged = whole
        left = log.copy(engine.kernel.sequence)
    torn = Torn(left)
    torn.damaged = whole
    plant.gate.open()
    async with opened(plant.app, torn, StepClock(), snapshot_every=0) as engine:
        await engine.drain()
        assert plant.seen == list(range(1, 200))
        assert [view.id for view in engine.runs("dead")] == [lost]


async def test_whoever_looks_at_all_sees_them_too() -> None:
    """A look changes nothing; the others are all there, as they were."""
    plant = Plant()
    log, lost = await torn_log(plant, 5, 150)
    before = restore(log, plant.app.decider(), clock=None)
    views = {run.id: run for run in before.state.runs.active.values()}
    assert len(views) == 200
    assert [run_id for run_id, run in views.items() if not run.attempt] == lost
    assert len(before.state.runs.fresh) == 200
    assert before.dump() == restore(log, plant.app.decider(), clock=None).dump()


async def test_one_can_be_cancelled() -> None:
    """It ends by that, and does not fail."""
    plant = Plant()
    log, (lost,) = await torn_log(plant, 150)
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await quiet(engine)
        await engine.cancel(lost, "not needed")
        plant.gate.open()
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 199, "cancelled": 1}


async def test_what_somebody_looked_at_is_read_anew_by_the_next_start() -> None:
    """A snapshot that was made meanwhile does not keep it from that."""
    plant = Plant()
    log, (lost,) = await torn_log(plant, 150)
    kernel_of = restore(log, plant.app.decider(), clock=None)
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await quiet(engine)
        assert engine.kernel.state.runs.active[lost].attempt == 0
        await engine.snapshot()
        left = log.copy(engine.kernel.sequence)
    assert lost in restore(left, plant.app.decider(), clock=None).state.runs.fresh
    plant.gate.open()
    async with opened(plant.app, left, StepClock()) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 200}
    assert kernel_of.sequence < left.committed_sequence


async def test_a_redrive_waits_for_the_log_to_be_mended() -> None:
    """Until then it is refused; then the run gets the events that it was made by."""
    plant = Plant()
    log, (lost,) = await torn_log(plant, 5)
    plant.gate.open()
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await engine.drain()
        with pytest.raises(
            RedriveRefused, match=f"expected at {lost} in the log what made it, found what is"
        ):
            await engine.redrive(lost)
        log.damaged.clear()
        await engine.redrive(lost)
        await engine.drain()
        assert plant.seen[-1] == 5
        assert engine.state().runs_ended == {"completed": 200, "dead": 1}
        assert engine.runs("dead") == []
        await check_live(engine)


async def test_a_mended_log_leads_to_the_same_state() -> None:
    """Whoever folds it from its beginning has the dead letter as the engine had it."""
    plant = Plant()

    @plant.app.rule(on("run.failed.work"))
    async def note(firing: Firing[Any]) -> None: ...

    log, _ = await torn_log(plant, 5)
    plant.gate.open()
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await engine.drain()
        log.damaged.clear()
        await check_live(engine)


@pytest.mark.slow
async def test_a_frame_in_the_middle_of_a_sealed_segment(tmp_path: Path) -> None:
    """On a disk: all firings of the damaged frame are lost, and no other."""
    app, done = App("t"), set[int]()

    @app.rule(on("a"), name="work")
    async def work(firing: Firing[Any]) -> None:
        done.add(firing.events[0].data)

    folder, plant = tmp_path / "plant.log", Plant()
    async with opened(plant.app, FileLog(folder, segment_bytes_max=4000), concurrency=1) as engine:
        for first in range(0, 300, 20):
            await engine.emit_many([("a", n) for n in range(first, first + 20)])
        await engine.snapshot()
        ids = sorted(engine.kernel.state.runs.active)
    segments = sorted(folder.glob("*.hrl"))
    assert len(segments) > 2
    data = bytearray(segments[1].read_bytes())
    data[len(data) // 2] ^= 1
    segments[1].write_bytes(data)
    with LogReader(folder) as reader:
        lost = [run_id for run_id in ids if not is_readable(reader, run_id)]
    assert 0 < len(lost) < len(ids) // 2
    async with opened(app, FileLog(folder, segment_bytes_max=4000)) as engine:
        await engine.drain()
        dead = engine.runs("dead")
        assert sorted(view.id for view in dead) == lost
        assert len(done) == 300 - len(lost)
        assert all(view.error is not None and str(segments[1]) in view.error for view in dead)


def is_readable(reader: LogReader, sequence: int) -> bool:
    """Say whether the log has a record."""
    try:
        return bool(reader.fetch([sequence]))
    except LogCorrupt:
        return False
