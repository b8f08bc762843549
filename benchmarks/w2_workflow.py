"""W2, durable workflows: each event starts a run of two chained steps with recorded results.

With a thousand in flight, and with one alone: the next begins when the last has ended.
Beside headrace runs the bare loop of `ceiling.py`: three awaited group commits a workflow.

    python benchmarks/w2_workflow.py [--repeat 3] [--only fsynced] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import ceiling
from common import HAS_UVLOOP, SUBJECT, Sample, on_asyncio, samples, scratch, unused
from figures import Figure, Row, at_least, measured, script

from headrace import App, Firing, MemoryLog, Run, on
from headrace.engine.log import Durability

WORKFLOWS: Final = 10_000
WORKFLOWS_ALONE: Final = 200
IN_FLIGHT: Final = 1000


def workflow_app(ended: Callable[[], None]) -> App:
    """Return an app of two chained steps that calls *ended* at the end of each workflow."""
    app = App("w2")

    @app.task
    async def first(device: str) -> str:
        return device

    @app.task
    async def second(device: str) -> int:
        return len(device)

    @app.rule(on(SUBJECT, Sample))
    async def work(run: Run, firing: Firing[Sample]) -> int:
        device = await run.call(first, firing.events[0].data.device)
        result = await run.call(second, device)
        ended()
        return result

    return app


async def headrace(
    count: int, folder: Path, *, in_flight: int = IN_FLIGHT, level: Durability = "fsynced"
) -> float:
    """Emit as long as no more than *in_flight* are under way, a quarter of them in one call."""
    group = max(1, in_flight // 4)
    emitted = finished = 0
    room = asyncio.Event()

    def ended() -> None:
        nonlocal finished
        finished += 1
        if emitted - finished <= in_flight - group:
            room.set()

    log = MemoryLog() if level == "memory" else unused(folder, "w2")
    events = [(SUBJECT, event) for event in samples(count)]
    async with workflow_app(ended).open(log, durability=level) as engine:
        start = time.perf_counter()
        for first in range(0, count, group):
            emitted += len(events[first : first + group])
            await engine.emit_many(events[first : first + group])
            if in_flight == 1:
                await engine.drain()
            while emitted - finished > in_flight - group:
                room.clear()
                await room.wait()
        await engine.drain()
        took = time.perf_counter() - start
        assert engine.state().runs_ended == {"completed": 3 * count}
    return count / took


def ways_of(count: int, alone: int, folder: Path) -> dict[str, Callable[[], float]]:
    """Return each way to do the work."""

    def bare(number: int, *, uvloop: bool = False, **how: int) -> float:
        return on_asyncio(ceiling.w2(number, unused(folder, "bare"), **how), uvloop=uvloop)

    def ours(number: int, *, uvloop: bool = False, **how: Any) -> float:
        return on_asyncio(headrace(number, folder, **how), uvloop=uvloop)

    ways: dict[str, Callable[[], float]] = {
        "bare loop": partial(bare, count),
        "W2 fsynced": partial(ours, count),
        "W2 flushed": partial(ours, count, level="flushed"),
        "W2 memory": partial(ours, count, level="memory"),
        "bare loop, one alone": partial(bare, alone, in_flight=1),
        "W2 fsynced, one alone": partial(ours, alone, in_flight=1),
    }
    if HAS_UVLOOP:
        ways |= {
            "bare loop, uvloop": partial(bare, count, uvloop=True),
            "W2 fsynced, uvloop": partial(ours, count, uvloop=True),
        }
    return ways


UNIT: Final = "workflows/s"
ROWS: Final = [
    Row("bare loop", UNIT),
    Row("W2 fsynced", UNIT, "bare loop", at_least(0.25, "ratio")),
    Row("W2 flushed", UNIT, "bare loop"),
    Row("W2 memory", UNIT, "bare loop"),
    Row("bare loop, one alone", UNIT),
    Row("W2 fsynced, one alone", UNIT, "bare loop, one alone"),
    Row("bare loop, uvloop", UNIT),
    Row("W2 fsynced, uvloop", UNIT, "bare loop, uvloop", at_least(0.25, "ratio")),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    count, alone = (500, 20) if options.quick else (WORKFLOWS, WORKFLOWS_ALONE)
    with scratch() as folder:
        return measured(ways_of(count, alone, folder), ROWS, options)


if __name__ == "__main__":
    script(__doc__, "W2: two-step workflows/s", take)
