"""The demo itself: the feed into the plant's rules, and back out of the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from headrace import Emission, Engine
from headrace.demo.feed import SOURCE, Sample, samples
from headrace.demo.plant import Reading, app
from headrace.demo.report import Speed

GROUP_EVENTS: Final = 500
"""Events of one `emit_many`: one wait for the disk."""


async def run_demo(
    log_dir: Path,
    *,
    feed: Sequence[Sample] | None = None,
    stop_after: int | None = None,
    progress: Callable[[int], None] | None = None,
    busy_from: int | None = None,
    busy: Callable[[], None] | None = None,
) -> Speed:
    """Feed the plant's rules, beginning behind what *log_dir* already holds.

    Returns when every run has ended.  With *stop_after* it stops behind that reading and
    leaves to the next start what has not ended.  *progress* is told the last position that
    is durable.  *busy* is called once, when a run waits for a step for the first time after
    reading *busy_from*: a good moment to be killed.
    """
    feed = samples() if feed is None else feed
    speed = Speed(0, 0.0)
    # Log time is the readings' own, so eleven months take seconds and always come out the same.
    async with app.open(log_dir, clock="input") as engine, anyio.create_task_group() as watch:
        if busy is not None:
            watch.start_soon(_tell_when_busy, engine, busy_from or 0, busy)
        began_s = time.perf_counter()
        events = await _feed(engine, feed[:stop_after], progress)
        if stop_after is None:
            await engine.drain()
        speed = Speed(events, time.perf_counter() - began_s)
        watch.cancel_scope.cancel()
    return speed


async def _feed(
    engine: Engine, feed: Sequence[Sample], progress: Callable[[int], None] | None
) -> int:
    """Emit what the log does not hold yet; return how many that were."""
    done = engine.cursor(SOURCE) or 0
    for start in range(done, len(feed), GROUP_EVENTS):
        group = feed[start : start + GROUP_EVENTS]
        await engine.emit_many([_emission(sample) for sample in group])
        if progress is not None:
            progress(group[-1].position)
    return max(0, len(feed) - done)


async def _tell_when_busy(engine: Engine, busy_from: int, busy: Callable[[], None]) -> None:
    """Look at every turn of the loop: a run and its steps take a few milliseconds."""
    runs = engine.kernel.state.runs.active
    while (engine.cursor(SOURCE) or 0) < busy_from or not any(run.steps for run in runs.values()):
        await checkpoint()
    busy()


def _emission(sample: Sample) -> Emission:
    return Emission(
        sample.subject,
        Reading(sample.degrees),
        source=SOURCE,
        position=sample.position,
        time=sample.time,
    )
