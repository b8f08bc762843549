"""A whole engine from one seed: its input, its faults, and where they come.

Everything is drawn from the seed and happens in one thread, so that a failure can be looked
at again: ``make simulate SEED=17`` prints the same lives and the same digest each time.
"""

from __future__ import annotations

import errno
import hashlib
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from importlib import import_module
from random import Random
from typing import Any, Final
from unittest.mock import patch

import anyio
from anyio.lowlevel import checkpoint
from msgspec import Struct
from tests.simulation.disk import SimulatedDisk
from tests.simulation.lives import (
    SEGMENT,
    Life,
    check_acknowledged,
    copied,
    raws,
    stored_on,
    undisturbed,
)
from tests.simulation.shapes import START_S, Input, outcome_of, random_input
from tests.simulation.unthreaded import InlineWriter, NoBackground

from headrace import DurabilityLost, Emission
from headrace.engine.attempt import Attempt
from headrace.engine.backend import Backend
from headrace.engine.threads import Threads

FAULTS: Final = ("power", "kill", "error", "full", "stop")
LIVES_MAX: Final = 5
CALLS_MAX: Final = 400
"""Of the disk, before a fault comes."""
BLOBS: Final = "/blobs/"


class CountedClock:
    """A clock that moves by a microsecond whenever somebody looks at it."""

    def __init__(self) -> None:
        """Begin."""
        self._now_ns = 0

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        self._now_ns += 1000
        return self._now_ns

    def wall_ns(self) -> int:
        """See `Clock`."""
        return 1_500_000_000_000_000_000 + self.monotonic_ns()

    async def sleep_until(self, monotonic_ns: int) -> None:
        """Let all others have a turn, and the time has come."""
        await checkpoint()
        self._now_ns = max(self._now_ns, monotonic_ns)


async def in_this_thread(_backend: Backend, call: Callable[[], Any]) -> Any:
    """See `headrace.engine.backend.in_own_thread`."""
    await checkpoint()
    return call()


async def call_here(_threads: Threads, attempt: Attempt, function: Callable[[], Any]) -> Any:
    """See `headrace.engine.threads.Threads.call`."""
    await checkpoint()
    attempt.begin()
    return function()


def refuse_to_start(thread: threading.Thread) -> None:
    """Let no thread begin."""
    raise AssertionError(f"{thread.name} would decide about the order of records")


@asynccontextmanager
async def one_thread() -> AsyncGenerator[None]:
    """Have no thread at work whose speed would decide about the order of records."""
    # What is loaded only while they are replaced would keep the replacements.
    import_module("headrace.engine.engine")
    engine = [module for name, module in sys.modules.items() if name.startswith("headrace.engine.")]
    with ExitStack() as stack:
        stack.enter_context(patch("headrace.engine.log.file.Writer", InlineWriter))
        stack.enter_context(patch("headrace.engine.log.file.Background", NoBackground))
        stack.enter_context(patch("headrace.engine.life.SystemClock", CountedClock))
        stack.enter_context(patch.object(Threads, "call", call_here))
        stack.enter_context(patch.object(threading.Thread, "start", refuse_to_start))
        for module in engine:
            if hasattr(module, "in_own_thread"):
                stack.enter_context(patch.object(module, "in_own_thread", in_this_thread))
        yield


class Report(Struct):
    """What a simulation came to."""

    seed: int
    lives: list[str]
    """The fault that ended each, and how many events were stored by then."""
    events: int
    records: int
    digest: str
    """Of all records in the end."""


class SeededLife(Life):
    """A life whose events are delivered more than once, and which ends in a fault."""

    def __init__(self, disk: SimulatedDisk | None, rng: Random) -> None:
        """Draw from *rng* how it is."""
        super().__init__(
            disk,
            durability=rng.choice(["fsynced", "fsynced", "flushed"]),
            snapshot_every=rng.choice([0, 7, 30]),
            reserve_bytes=600,
        )
        self.durability = self.log.durability
        self._rng = rng

    async def live_until(self, events: Input, fault: str) -> None:
        """Put in events until *fault* comes; ``none``: until nothing is left to do."""
        rng, disk = self._rng, self.disk
        stop_at = rng.randrange(len(events)) if fault == "stop" else len(events)
        app = self.make_app()
        with anyio.fail_after(60):
            async with app.open(
                self.log,
                clock="input",
                grace_s=0,
                probe_s=0.001,
                snapshot_every=self.snapshot_every,
                crash_attempts_max=0,  # it is cut short for no fault of a run's
            ) as engine:
                self.trail.engine = engine
                self.arm(fault)
                done = engine.cursor("file")
                for position, (at, subject, data) in enumerate(events[:stop_at]):
                    if done is not None and position <= done:
                        continue
                    event = Emission(subject, data, f"e{position}", "file", position, START_S + at)
                    await self.emit(engine, event)
                    while rng.random() < 0.2:  # the source has not heard of it
                        await self.emit(engine, event)
                if stop_at < len(events):
                    return
                await engine.drain()
                disk.before = lambda _name, _path: None
                self.kept = copied(self.log)

    def make_app(self) -> Any:
        """Return the app of all shapes."""
        from tests.simulation.shapes import make_app

        return make_app(self.trail)

    def arm(self, fault: str) -> None:
        """Let *fault* come after some calls of the disk."""
        rng, disk = self._rng, self.disk
        after = rng.randrange(CALLS_MAX)
        if fault in ("power", "kill"):
            disk.power_off_after(after)
        elif fault == "error":
            disk.fail(rng.choice(["pwrite", "fdatasync"]), 1 + after // 4, errno.EIO)
        elif fault == "full":
            place, nth = rng.choice([(SEGMENT, 1 + after // 4), (BLOBS, 1 + after % 2)])
            disk.fail("pwrite", nth, errno.ENOSPC, path=place)


async def simulate(seed: int, *, count: int = 15) -> Report:
    """Let an engine live with faults until all is done; compare it with an undisturbed one.

    Raises:
        AssertionError: something differs, was lost, or was executed twice; names the seed.
    """
    rng = Random(seed)
    lives: list[str] = []
    acknowledged: dict[int, int] = {}
    async with one_thread():
        events = random_input(rng, count)
        model = outcome_of((await undisturbed(events)).kept)
        disk: SimulatedDisk | None = None
        for _ in range(rng.randint(1, LIVES_MAX)):
            fault = rng.choice(FAULTS)
            life = SeededLife(disk, rng)
            try:
                await life.live_until(events, fault)
            except DurabilityLost:
                assert fault in ("power", "kill", "error"), f"seed {seed}: {fault}"
            lives.append(f"{fault} after {len(life.acknowledged)} events")
            disk = life.disk.crash(rng) if fault == "power" else life.disk.killed()
            disk.before = lambda _name, _path: None
            found = stored_on(disk)
            acknowledged |= life.acknowledged
            if life.durability != "fsynced" and fault == "power":  # the last ones may be lost
                acknowledged = {p: s for p, s in acknowledged.items() if s <= len(found)}
            check_acknowledged(acknowledged, found, f"seed {seed}: {lives}")
        last = SeededLife(disk, rng)
        await last.live_until(events, "none")
    place = f"seed {seed}: {lives}"
    last.check(model, place)
    stored = raws(last.kept)
    digest = hashlib.blake2b(b"".join(stored), digest_size=16).hexdigest()
    return Report(seed, lives, len(events), len(stored), digest)


if __name__ == "__main__":
    for number in map(int, sys.argv[1:]):
        print(anyio.run(simulate, number))
