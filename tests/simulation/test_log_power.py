"""Power loss and kills at every moment: what was acknowledged is there, and nothing else."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import SameDay, Session, contents, record
from tests.simulation.unthreaded import written_at_once

from headrace.engine.errors import LogError
from headrace.engine.log import FileLog
from headrace.engine.log.protocol import Durability
from headrace.engine.log.verify import verify

SEGMENT_BYTES_MAX = 700
PATH = "/var/log"
DURABILITIES: tuple[Durability, ...] = ("fsynced", "flushed", "memory")


class Story:
    """A log that is written, closed and opened again until the power goes."""

    def __init__(self, disk: SimulatedDisk, durability: Durability) -> None:
        self.disk = disk
        self.durability: Durability = durability
        self.appended: list[bytes] = []
        self.unit_ends = {0}
        self.acknowledged = 0
        """Last sequence that was reported to be committed."""
        self.durable = 0

    def log(self) -> FileLog:
        return FileLog(
            PATH,
            durability=self.durability,
            segment_bytes_max=SEGMENT_BYTES_MAX,
            sync_interval_s=3600.0,
            files=self.disk,
            reserve_bytes=64,
            clock=SameDay(),
            new_id=lambda: b"i" * 16,
        )

    def tell(self, rng: Random, groups: int) -> None:
        """Write *groups* groups, with a restart now and then; a `LogError` ends the story."""
        session = Session(self.log())
        for _ in range(groups):
            units = [
                [self._record(rng) for _ in range(rng.randint(1, 3))]
                for _ in range(rng.randint(1, 3))
            ]
            for unit in units:
                self.appended.extend(unit)
                self.unit_ends.add(len(self.appended))
            try:
                session.put(*units)
            finally:
                self.acknowledged = max(self.acknowledged, session.log.committed_sequence)
                self.durable = max(self.durable, session.log.durable_sequence)
            if rng.random() < 0.15:
                session.log.close()
                self.durable = self.acknowledged
                session = Session(self.log())
        session.log.close()
        self.durable = self.acknowledged

    def _record(self, rng: Random) -> bytes:
        number = len(self.appended) + 1
        return record(number * 1000 + rng.randint(0, 999), size_bytes=rng.choice((0, 0, 0, 600)))

    @written_at_once()
    def check(self, disk: SimulatedDisk, *, at_least: int) -> None:
        """Check what a restart on *disk* finds, and that it can go on from there."""
        self.disk = disk
        before = verify_if_any(disk)
        session = Session(self.log())
        found = contents(session.log)
        assert len(found) >= at_least
        assert found == self.appended[: len(found)]
        assert len(found) in self.unit_ends
        assert before in (None, len(found))
        session.put([record(1)], [record(2), record(3)])
        session.log.close()
        assert verify(PATH, files=disk).ok
        again = Session(self.log())
        assert contents(again.log) == [*found, record(1), record(2), record(3)]
        again.log.close()


def verify_if_any(disk: SimulatedDisk) -> int | None:
    """Verify the log before it is recovered: what a crash leaves is no fault."""
    if f"{PATH}/MANIFEST" not in disk.names:
        return None
    report = verify(PATH, files=disk)
    assert report.ok, report.errors
    return report.last_sequence


def calls_of(durability: Durability, seed: int) -> int:
    """Return how many operations the story of *seed* takes without a fault."""
    disk = fresh_disk()
    Story(disk, durability).tell(Random(seed), 8)
    return len(disk.calls)


def fresh_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.folders.add("/var")
    disk.durable_folders.add("/var")
    return disk


def lose_power(durability: Durability, seed: int, calls: int) -> None:
    """Let the power go after *calls* operations of the story of *seed*, and check what is left."""
    disk = fresh_disk()
    disk.power_off_after(calls)
    story = Story(disk, durability)
    with suppress(LogError):
        story.tell(Random(seed), 8)
    if durability == "fsynced":
        assert story.durable == story.acknowledged
    rng = Random(seed * 1_000_003 + calls)
    story.check(disk.crash(rng), at_least=story.durable)


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("seed", range(3))
def test_power_loss_after_every_operation(durability: Durability, seed: int) -> None:
    """Whenever the power goes: nothing durable is lost, no unit is torn, nothing is made up.

    At level ``fsynced`` everything that was acknowledged is durable; at the others power loss
    may take the newest records, but what is left is always a prefix, and it opens.
    """
    for calls in range(calls_of(durability, seed)):
        lose_power(durability, seed, calls)


@pytest.mark.parametrize("durability", ["fsynced", "flushed"])
def test_kill_after_every_operation(durability: Durability) -> None:
    """When the process is killed and the machine goes on, everything acknowledged is there."""
    seen: set[Hashable] = set()
    for calls in range(calls_of(durability, 7)):
        disk = fresh_disk()
        disk.power_off_after(calls)
        story = Story(disk, durability)
        with suppress(LogError):
            story.tell(Random(7), 8)
        # Reading and closing leave what there was: one restart stands for all on the same disk.
        left = (disk.killed().found(), story.acknowledged, len(story.appended))
        if left not in seen:
            story.check(disk.killed(), at_least=story.acknowledged)
            seen.add(left)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100))
def test_power_loss_often(seed: int) -> None:
    """Many more schedules of the same, each a power loss at a random moment."""
    rng = Random(seed)
    for _ in range(1000):
        durability = rng.choice(DURABILITIES)
        story_seed = rng.randrange(1 << 32)
        disk = fresh_disk()
        disk.short_writes = Random(story_seed) if rng.random() < 0.3 else None
        disk.power_off_after(rng.randrange(400))
        story = Story(disk, durability)
        with suppress(LogError):
            story.tell(Random(story_seed), 40)
        story.check(disk.crash(rng), at_least=story.durable)
