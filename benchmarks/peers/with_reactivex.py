"""reactivex: a subject, a filter, and a task for each event that is kept."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from work import Result, Sample, Way, hot, in_loop, is_hot, main, percentiles, samples, steadily

PACKAGES: Final = ("reactivex",)
RATE: Final = 100.0


async def w1(count: int, _folder: Path) -> Result:
    """Push events through a filter; each that is kept is a task."""
    import reactivex
    from reactivex import operators
    from reactivex.scheduler.eventloop import AsyncIOScheduler
    from reactivex.subject import Subject

    seen: dict[str, float] = {}
    done = asyncio.Event()

    async def update(event: Sample) -> None:
        seen[event.device] = event.temp

    events: Subject[Sample] = Subject()
    events.pipe(
        operators.filter(is_hot),
        operators.flat_map(
            lambda event: reactivex.from_future(asyncio.ensure_future(update(event)))
        ),
    ).subscribe(on_completed=done.set, scheduler=AsyncIOScheduler(asyncio.get_running_loop()))
    all_of_them = samples(count)
    start = time.perf_counter()
    for number, event in enumerate(all_of_them):
        events.on_next(event)
        if number % 1000 == 0:
            await asyncio.sleep(0)
    events.on_completed()
    await done.wait()
    took = time.perf_counter() - start
    assert len(seen) == len({event.device for event in hot(count)})
    return count / took


async def w3(count: int, _folder: Path) -> Result:
    """Push at a steady rate; take the time to the task's first line."""
    import reactivex
    from reactivex import operators
    from reactivex.subject import Subject

    took: list[float] = []

    async def react(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    async def emit(sent: float) -> None:
        events.on_next(sent)

    events: Subject[float] = Subject()
    events.pipe(
        operators.flat_map(lambda sent: reactivex.from_future(asyncio.ensure_future(react(sent))))
    ).subscribe()
    await steadily(count, RATE, emit)
    return percentiles(took)


WAYS: Final = {
    "W1, reactivex": Way(in_loop(w1), "nothing", 50_000),
    "W3, reactivex": Way(in_loop(w3), "nothing", 200),
}

if __name__ == "__main__":
    main(WAYS)
