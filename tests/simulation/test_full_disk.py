"""A disk that fills up under a whole engine, at every write: it goes on, and nothing differs.

What comes of a life in which the disk was full must be what comes of one in which it was
not; the log is read and folded afresh to say so.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

import anyio
import pytest
from tests.reference.shell import fold
from tests.simulation.disk import SimulatedDisk
from tests.simulation.shapes import (
    INPUT,
    START_S,
    Input,
    Outcome,
    Trail,
    make_app,
    outcome_of,
    random_input,
)

from headrace import Emission, Engine, LogFull, MemoryLog, Run
from headrace.engine.log import Durability, FileLog
from headrace.engine.log.protocol import EventLog
from headrace.engine.log.verify import verify

HANG_S = 60.0
PATH = "/var/log"
SEGMENT = ".hrl"
SHORT: Input = [event for event in INPUT if event[1] in ("chain", "fan", "again", "newest.a")]
"""Steps, a fan-out, sleeps, retries of a run and of a step, and a run that is restarted."""


class Witness(Trail):
    """A trail that knows which runs had ended before their code was executed again."""

    def __init__(self) -> None:
        """Nothing was executed twice."""
        super().__init__()
        self.again: list[int] = []

    def step(self, run: Run) -> None:
        """See `Trail`."""
        super().step(run)
        assert self.engine is not None
        self.again += [view.id for view in self.engine.runs("completed") if view.id == run.id]


class Life:
    """One engine from the first event to the last, on a disk that may fill up."""

    def __init__(
        self,
        disk: SimulatedDisk | None = None,
        *,
        reserve_bytes: int = 0,
        durability: Durability = "fsynced",
    ) -> None:
        """Begin on *disk*, or on a new one."""
        self.disk = disk or SimulatedDisk()
        self.disk.folders.add("/var")
        self.disk.durable_folders.add("/var")
        self.log = FileLog(
            PATH,
            files=self.disk,
            durability=durability,
            sync_interval_s=0,
            reserve_bytes=reserve_bytes,
            segment_bytes_max=4000,
        )
        self.trail = Witness()
        self.told: list[LogFull] = []
        self.calls: list[str] = []
        """What was asked of the disk from the first event to the last."""
        self.kept = MemoryLog()
        """What was in the log at the end."""

    async def live(self, events: Input, fault: Callable[[], None] = lambda: None) -> None:
        """Put in all events, each until it is stored, and let everything happen.

        *fault* makes the disk fail, once the log is open.
        """
        app = make_app(self.trail)
        try:
            with anyio.fail_after(HANG_S):
                async with app.open(self.log, clock="input", grace_s=0, probe_s=0.001) as engine:
                    self.trail.engine = engine
                    opened_at = len(self.disk.calls)
                    fault()
                    for position, (at, subject, data) in enumerate(events):
                        await self.emit(
                            engine,
                            Emission(
                                subject, data, source="file", position=position, time=START_S + at
                            ),
                        )
                    await engine.drain()
                    self.calls = self.disk.calls[opened_at:]
                    self.kept = copied(self.log)
                    folded = fold(app.decider, raws(self.kept))
                    assert folded.divergences == []
                    assert folded.dump() == engine.kernel.dump()
        except LogFull as full:
            self.told.append(full)
            assert self.kept.committed_sequence, "only closing may fail of it"

    async def emit(self, engine: Engine, event: Emission) -> None:
        """Store *event*, whatever it takes."""
        while True:
            try:
                await engine.emit_many([event])
            except LogFull as full:
                self.told.append(full)
                await engine.ready()
            else:
                return

    def check(self, expected: Outcome, place: object) -> None:
        """Compare what came of it with *expected*; open the log once more."""
        found = expected.difference(outcome_of(self.kept))
        assert not found, "\n".join([str(place), *found])
        assert self.trail.again == [], place
        assert all(full.not_written for full in self.told)
        self.disk.before = lambda _name, _path: None
        self.disk.free_bytes = None
        log = FileLog(PATH, files=self.disk)
        log.open(lambda: None)
        assert raws(log)[: self.kept.committed_sequence] == raws(self.kept), place
        log.close()
        assert verify(PATH, files=self.disk).ok, place


def raws(log: EventLog) -> list[bytes]:
    """Return all records that are committed."""
    return [raw for _, batch in log.read() for raw in batch]


def copied(log: EventLog) -> MemoryLog:
    """Return what is committed in *log*."""
    made = MemoryLog(log.log_id)
    made.open(lambda: None)
    made.append(raws(log))
    made.close()
    return made


async def undisturbed(events: Input) -> Life:
    """Return a life in which there was always room."""
    life = Life()
    await life.live(events)
    assert life.told == []
    return life


def writes_of(life: Life) -> int:
    """Return how often *life* wrote to a segment."""
    return sum(call.startswith("pwrite ") and SEGMENT in call for call in life.calls)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_no_room_at_every_write(code: int, anyio_backend_name: str) -> None:
    """Whichever write fails, the engine goes on: the same events, firings and results."""
    if anyio_backend_name == "trio" and code != errno.ENOSPC:
        pytest.skip("one code is enough on the second backend")
    model = await undisturbed(SHORT)
    was_full = 0
    for nth in range(1, writes_of(model) + 1):
        life = Life()
        await life.live(SHORT, lambda: life.disk.fail("pwrite", nth, code, path=SEGMENT))  # noqa: B023
        life.check(outcome_of(model.kept), f"write {nth}")
        was_full += life.told != []
    # How records are grouped is up to the threads, so that not each life came that far.
    assert was_full > writes_of(model) / 2


def fill(disk: SimulatedDisk, free_bytes: int) -> None:
    """Leave *free_bytes* on *disk*, until the engine looks for room the second time."""
    probes = 0

    def make_room(name: str, _: str) -> None:
        nonlocal probes
        probes += name == "allocate"
        if probes == 2:
            disk.free_bytes = None

    disk.before = make_room
    disk.free_bytes = free_bytes


@pytest.mark.parametrize("durability", ["fsynced", "flushed"])
async def test_disk_that_fills_up_at_many_places(durability: Durability) -> None:
    """A disk that takes a part of a write, and has room again after somebody made some."""
    model = await undisturbed(SHORT)
    size_bytes = sum(map(len, raws(model.kept)))
    was_full = 0
    for free_bytes in range(0, size_bytes, 97):
        life = Life(reserve_bytes=600, durability=durability)

        await life.live(SHORT, lambda: fill(life.disk, free_bytes))  # noqa: B023
        life.check(outcome_of(model.kept), f"{free_bytes} bytes of room")
        was_full += life.told != []
    assert was_full > size_bytes / 97 / 2


async def check_random_life(seed: int) -> None:
    """Compare a life on a disk that is full now and then with one on a large disk."""
    rng = Random(seed)
    events = random_input(rng)
    model = await undisturbed(events)
    life = Life(reserve_bytes=600, durability=rng.choice(["fsynced", "flushed"]))
    disk = life.disk

    def make_room(name: str, _: str) -> None:
        if name == "allocate" and disk.free_bytes is not None and rng.random() < 0.5:
            disk.free_bytes = rng.choice([None, *(rng.randint(1300, 5000) for _ in range(3))])

    def be_full() -> None:
        disk.before = make_room
        disk.free_bytes = rng.randrange(3000)

    await life.live(events, be_full)
    life.check(outcome_of(model.kept), f"seed {seed}")


@pytest.mark.parametrize("seed", range(8))
async def test_disk_that_is_full_now_and_then(seed: int) -> None:
    """Any events, and room for some of them at a time."""
    await check_random_life(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 500))
async def test_disk_that_is_full_now_and_then_at_length(seed: int) -> None:
    """The same for many more lives."""
    await check_random_life(seed)
