"""Whole engines on a simulated disk, from the first event to the last, and what came of them."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from tests.reference.shell import fold
from tests.simulation.disk import SimulatedDisk
from tests.simulation.shapes import INPUT, START_S, Input, Outcome, Trail, make_app, outcome_of
from tests.simulation.unthreaded import written_at_once

from headrace import Emission, Engine, LogFull, MemoryLog, Run
from headrace.engine.log import Durability, FileLog
from headrace.engine.log.protocol import EventLog
from headrace.engine.log.verify import verify
from headrace.engine.record import EventStored, decode

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
        snapshot_every: int = 0,
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
        self.snapshot_every = snapshot_every
        self.trail = Witness()
        self.told: list[LogFull] = []
        self.acknowledged: dict[int, int] = {}
        """What `emit` has returned: sequences, by the position of the event."""
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
                async with app.open(
                    self.log,
                    clock="input",
                    grace_s=0,
                    probe_s=0.001,
                    snapshot_every=self.snapshot_every,
                    crash_attempts_max=0,  # it is cut short for no fault of a run's
                ) as engine:
                    self.trail.engine = engine
                    opened_at = len(self.disk.calls)
                    fault()
                    done = engine.cursor("file")
                    for position, (at, subject, data) in enumerate(events):
                        if done is None or position > done:
                            emission = Emission(
                                subject, data, source="file", position=position, time=START_S + at
                            )
                            await self.emit(engine, emission)
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
                (sequence,) = await engine.emit_many([event])
            except LogFull as full:
                self.told.append(full)
                await engine.ready()
            else:
                assert event.position is not None
                first = self.acknowledged.setdefault(event.position, sequence)
                assert first == sequence, "one event, two sequences"
                return

    @written_at_once()
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


@written_at_once()
def stored_on(disk: SimulatedDisk) -> list[bytes]:
    """Return the records that a restart on *disk* finds."""
    log = FileLog(PATH, files=disk)
    log.open(lambda: None)
    found = raws(log)
    log.close()
    return found


def check_acknowledged(acknowledged: dict[int, int], found: list[bytes], place: object) -> None:
    """All that was acknowledged is among the records *found*, at the sequences that were told."""
    for position, sequence in acknowledged.items():
        assert sequence <= len(found), place
        event = decode(found[sequence - 1])
        assert isinstance(event, EventStored), place
        assert event.position == position, place


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
