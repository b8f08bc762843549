"""A disk that fills up under a whole engine, at every write: it goes on, and nothing differs.

What comes of a life in which the disk was full must be what comes of one in which it was
not; the log is read and folded afresh to say so.
"""

from __future__ import annotations

import errno
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.lives import SEGMENT, SHORT, Life, raws, undisturbed
from tests.simulation.shapes import outcome_of, random_input

from headrace.engine.log import Durability


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
    life = Life(
        reserve_bytes=600,
        durability=rng.choice(["fsynced", "flushed"]),
        snapshot_every=rng.choice([0, 5, 25]),
    )
    disk = life.disk

    def make_room(name: str, path: str) -> None:
        is_probe = name == "allocate" or (name == "pwrite" and "/blobs/" in path)
        if is_probe and disk.free_bytes is not None and rng.random() < 0.5:
            disk.free_bytes = rng.choice([None, *(rng.randint(1300, 5000) for _ in range(3))])

    def be_full() -> None:
        disk.before = make_room
        disk.free_bytes = rng.randrange(3000)

    await life.live(events, be_full)
    life.check(outcome_of(model.kept), f"seed {seed}")


@pytest.mark.parametrize("seed", range(12))
async def test_disk_that_is_full_now_and_then(seed: int) -> None:
    """Any events, and room for some of them at a time."""
    await check_random_life(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 500))
async def test_disk_that_is_full_now_and_then_at_length(seed: int) -> None:
    """The same for many more lives."""
    await check_random_life(seed)
