"""Three minutes at 5 000 events a second with rules, timers and retries: does anything grow?

Two rules count and watch by key (so timers come and go), one keeps 1 % and its task fails once
in ten times and is tried again, and one measures the reaction.  Of the last two thirds it prints
the slope of the resident memory, and the p99 of the reactions window by window.

    python benchmarks/soak.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from array import array
from pathlib import Path
from statistics import linear_regression, median
from typing import Final

from common import Sample, on_asyncio, percentile, resident_bytes, scratch
from figures import Figure, Row, at_least, at_most, measured, script

from headrace import App, Engine, Firing, Retry, on, silent

SECONDS: Final = 180.0
RATE: Final = 5000
TURN_S: Final = 0.01
WINDOWS: Final = 6
DEVICES: Final = 500
STABLE: Final = 1.2
"""How much the greatest p99 of a window may be above their median."""

Point = tuple[float, float]


class Reactions:
    """When each was due, and its milliseconds; in arrays of one size, not to grow by measuring."""

    def __init__(self, seconds: float) -> None:
        count = round(seconds / TURN_S) + 1
        self._at, self._ms = array("d", bytes(8 * count)), array("d", bytes(8 * count))
        self._count = 0

    def note(self, at: float, ms: float) -> None:
        """Keep one."""
        self._at[self._count], self._ms[self._count] = at, ms
        self._count += 1

    def between(self, first: float, end: float) -> list[float]:
        """Return the milliseconds of those in a window."""
        pairs = zip(self._at[: self._count], self._ms, strict=False)  # the rest is room
        return [ms for at, ms in pairs if first <= at < end]


def soak_app(reactions: Reactions) -> App:
    """Return an app of four rules, one of which notes its reactions."""
    app = App("soak")
    readings = on("sensors.temp", Sample).key(lambda e: e.data.device)

    @app.rule(readings.where(lambda e: e.data.temp > 90).count(5, within=10), version="1")
    async def often(_firing: Firing[Sample]) -> None:
        pass

    # Each event arms the timer of its device again; one device in fifty is quiet for long.
    @app.rule(silent(readings, for_=0.5), version="1")
    async def quiet(_firing: Firing[Sample]) -> None:
        pass

    retry = Retry(attempts=3, wait_first=0.05, wait_max=0.2, on=OSError)
    failed: dict[float, None] = {}

    @app.rule(
        on("sensors.temp", Sample).where(lambda e: e.data.temp > 99), retry=retry, version="1"
    )
    async def flaky(firing: Firing[Sample]) -> None:
        at = firing.events[0].data.ts
        if at % 10 == 0 and at not in failed:
            failed[at] = None
            if len(failed) > 1000:
                del failed[next(iter(failed))]
            raise OSError("once")

    @app.rule(on("ping", float))
    async def react(firing: Firing[float]) -> None:
        due = firing.events[0].data
        reactions.note(due, (time.perf_counter() - due) * 1e3)

    return app


async def emit_for(engine: Engine, seconds: float) -> list[Point]:
    """Emit at the rate; return the resident megabytes, second by second."""
    each, number = round(RATE * TURN_S), 0
    begin = due = time.perf_counter()
    resident: list[Point] = []
    async with asyncio.TaskGroup() as group:
        while due < begin + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            batch: list[tuple[str, object]] = [("ping", due)]
            for _ in range(1, each):
                number += 1
                device = number % (DEVICES if number % (RATE * 2) < RATE else DEVICES * 49 // 50)
                temp = 100.0 if number % 100 == 0 else 95.0 if number % 10 == 0 else 20.0
                batch.append(("sensors.temp", Sample(f"d{device}", temp, float(number // 100))))
            group.create_task(engine.emit_many(batch))
            due += TURN_S
            if not resident or due - resident[-1][0] >= 1:
                resident.append((due, resident_bytes() / 1e6))
    return resident


async def soak(folder: Path, seconds: float) -> dict[str, float]:
    """Run it, and look at the last two thirds."""
    reactions = Reactions(seconds)
    async with soak_app(reactions).open(folder / "log") as engine:
        start = time.perf_counter()
        resident = await emit_for(engine, seconds)
        await engine.drain()
        took = time.perf_counter() - start
        ended = engine.state().runs_ended
        events = engine.state().events
    assert set(ended) == {"completed"}, ended
    begin = start + seconds / 3
    late = [(at, megabytes) for at, megabytes in resident if at >= begin]
    slope = linear_regression([at for at, _ in late], [mb for _, mb in late]).slope
    window_s = (seconds - seconds / 3) / WINDOWS
    p99 = [
        percentile(reactions.between(first, first + window_s), 0.99)
        for first in (begin + number * window_s for number in range(WINDOWS))
    ]
    return {
        "resident slope": slope * 60,
        "resident at the end": late[-1][1],
        "p99, median window": median(p99),
        "p99, worst window": max(p99),
        "events": events / took,
    }


ROWS: Final = [
    Row("soak, events", "events/s", "", at_least(0.98 * RATE)),
    Row("soak, resident slope", "MB/min", "", at_most(1)),
    Row("soak, resident at the end", "MB"),
    Row("soak, p99, median window", "ms"),
    Row("soak, p99, worst window", "ms", "soak, p99, median window", at_most(STABLE, "ratio")),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    seconds = 6.0 if options.quick else SECONDS

    def once() -> dict[str, float]:
        with scratch() as folder:
            return on_asyncio(soak(folder, seconds))

    return measured({"soak": once}, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "soak: 5 000 events/s with rules, timers, retries", take, repeat=1)
