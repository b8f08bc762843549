"""Power loss under whole engines that take snapshots: a restart goes on as if nothing had been.

The calls that a life makes of the disk are counted, and the power goes after any of them.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import anyio
import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.lives import SHORT, Life, check_acknowledged, stored_on, undisturbed
from tests.simulation.shapes import outcome_of, random_input

from headrace import App, DurabilityLost, Emission, FileLog, Firing, on
from headrace.engine.errors import LogError
from headrace.engine.log import Durability

HANG_S = 60.0
SNAPSHOT_EVERY = 12
EVENTS = 66
GROUP = 4


async def lose_power(
    rng: Random, durability: Durability, events: Any, *, after: int
) -> tuple[Life, SimulatedDisk]:
    """Return a life whose power went after *after* calls, and the disk that it left."""
    life = Life(durability=durability, snapshot_every=SNAPSHOT_EVERY)
    with suppress(DurabilityLost):
        await life.live(events, lambda: life.disk.power_off_after(after))
    return life, life.disk.crash(rng)


@pytest.mark.parametrize("durability", ["fsynced", "flushed", "memory"])
async def test_power_loss_at_many_moments(durability: Durability, anyio_backend_name: str) -> None:
    """With snapshots to start from, too: the same events, firings and results in the end."""
    model = await undisturbed(SHORT)
    with_snapshots = Life(snapshot_every=SNAPSHOT_EVERY)
    await with_snapshots.live(SHORT)
    calls = len(with_snapshots.calls)
    for after in range(0, calls, 19 if anyio_backend_name == "asyncio" else 97):
        place = f"{durability}, power off after {after} calls"
        life, left = await lose_power(Random(after), durability, SHORT, after=after)
        if durability == "fsynced":
            check_acknowledged(life.acknowledged, stored_on(left), place)
        again = Life(left.killed(), snapshot_every=SNAPSHOT_EVERY)
        await again.live(SHORT)
        again.check(outcome_of(model.kept), place)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200))
async def test_power_loss_again_and_again(seed: int) -> None:
    """Any events, and a restart that loses its power as well."""
    rng = Random(seed)
    events = random_input(rng)
    model = await undisturbed(events)
    durability: Durability = rng.choice(["fsynced", "flushed", "memory"])
    disk: SimulatedDisk | None = None
    for _ in range(4):
        life = Life(disk, durability=durability, snapshot_every=rng.choice([5, 12, 30]))
        after = rng.randrange(600)
        with suppress(DurabilityLost):
            await life.live(events, lambda: life.disk.power_off_after(after))  # noqa: B023
        disk = life.disk.crash(rng)
    again = Life(disk)
    await again.live(events)
    again.check(outcome_of(model.kept), f"seed {seed}")


# ---------------------------------------------------------------- with old records removed


def threes(fired: list[list[int]]) -> App:
    """An app whose windows hold on to events that are far back."""
    app = App("threes")

    @app.rule(on("n", int).key(lambda e: e.data % 11).count(3, within=1e6))
    async def three(firing: Firing[int]) -> None:
        fired.append([event.data for event in firing.events])

    return app


class Forgetful:
    """An engine that keeps no more of its log than its snapshots need."""

    def __init__(self, disk: SimulatedDisk, durability: Durability) -> None:
        self.fired: list[list[int]] = []
        self.found = self.acknowledged = 0
        """How many numbers were stored when it began, and how many it has been told of."""
        self.log = FileLog(
            "/var/log",
            files=disk,
            durability=durability,
            sync_interval_s=3600,
            reserve_bytes=0,
            segment_bytes_max=300,
            keep_bytes=0,
        )

    async def live(self) -> None:
        """Put in all numbers, a few at a time, with a snapshot after each few."""
        with anyio.fail_after(HANG_S):
            async with threes(self.fired).open(
                self.log, clock="input", grace_s=0, snapshot_every=0
            ) as engine:
                self.found = engine.cursor("file") or 0
                assert engine.state().events == self.found
                for first in range(self.found, EVENTS, GROUP):
                    await engine.emit_many(
                        Emission("n", n, source="file", position=n + 1, time=1000.0 + n)
                        for n in range(first, min(first + GROUP, EVENTS))
                    )
                    self.acknowledged = engine.cursor("file") or 0
                    await engine.snapshot()
                await engine.drain()
                self.seen = engine.state()


def fresh_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.folders.add("/var")
    disk.durable_folders.add("/var")
    return disk


async def forget(durability: Durability, after: int | None) -> int:
    """Lose the power after *after* calls, go on; return how many calls there were."""
    disk = fresh_disk()
    life = Forgetful(disk, durability)
    if after is not None:
        disk.power_off_after(after)
        with suppress(LogError, OSError):
            await life.live()
        again = Forgetful(disk.crash(Random(after)), durability)
        await again.live()
        if durability == "fsynced":
            assert again.found >= life.acknowledged, after
        life = again
    else:
        await life.live()
    (rule,) = life.seen.rules
    assert rule.fired == EVENTS // 3, after
    assert life.seen.runs_ended == {"completed": rule.fired}, after
    return len(disk.calls)


@pytest.mark.parametrize("durability", ["fsynced", "flushed", "memory"])
async def test_power_loss_under_an_engine_that_forgets(
    durability: Durability, anyio_backend_name: str
) -> None:
    """What is left of the log can always be started from, and no window has lost an event.

    A snapshot must not be ahead of what the disk has: what it made superfluous is gone.
    """
    calls = await forget(durability, None)
    for after in range(0, calls, 37 if anyio_backend_name == "asyncio" else 97):
        await forget(durability, after)
