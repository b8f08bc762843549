"""W1, reactive throughput: events of which a rule keeps 10 %, each of those starts a task.

The clock stops when all tasks have ended.  Beside headrace run plain asyncio (a queue and
`create_task`; keeps nothing) and the bare hot loop of `ceiling.py`.

    python benchmarks/w1_throughput.py [--repeat 3] [--only fsynced] [--quick] [--json PATH]
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
from common import HAS_UVLOOP, SUBJECT, Sample, is_hot, on_asyncio, samples, scratch, unused
from figures import Bar, Figure, Row, at_least, measured, script

from headrace import App, Engine, Event, Firing, MemoryLog, on
from headrace.engine.log import Durability

EVENTS: Final = 100_000
EVENTS_AWAITED: Final = 20_000
GROUP: Final = 1000
EMITTERS: Final = 64


async def plain_asyncio(events: list[Sample]) -> float:
    """A queue, a filter, a task for each event that is kept; nothing is stored."""
    seen: dict[str, float] = {}
    queue: asyncio.Queue[Sample | None] = asyncio.Queue()

    async def update(event: Sample) -> None:
        seen[event.device] = event.temp

    async def consume() -> None:
        async with asyncio.TaskGroup() as group:
            while (event := await queue.get()) is not None:
                if event.temp > 90:
                    group.create_task(update(event))

    start = time.perf_counter()
    consumer = asyncio.create_task(consume())
    for event in events:
        queue.put_nowait(event)
    queue.put_nowait(None)
    await consumer
    assert seen
    return len(events) / (time.perf_counter() - start)


def one_rule(app: App, seen: dict[str, float]) -> int:
    """Declare the rule of W1; return how many rules keep a hot event."""

    @app.rule(on(SUBJECT, Sample).where(lambda e: e.data.temp > 90))
    async def hot(firing: Firing[Sample]) -> None:
        event = firing.events[0].data
        seen[event.device] = event.temp

    return 1


def above(limit: float) -> Callable[[Event[Sample]], bool]:
    """Return the condition of a rule."""
    return lambda event: event.data.temp > limit


def hundred_rules(app: App, seen: dict[str, float], *, keeping: int) -> int:
    """Declare 97 rules about other subjects and three about this one.

    *keeping* of these keep what is hot; the others ask the same of a limit that is never met.
    """

    async def note(firing: Firing[Sample]) -> None:
        event = firing.events[0].data
        seen[event.device] = event.temp

    for number, pattern in enumerate((SUBJECT, "sensors.*", "sensors.>")):
        limit = 90 if number < keeping else 1000
        matching = on(pattern, Sample).where(above(limit))
        app.rule(matching, name=f"hot{number}")(note)
    for number in range(97):
        other = on(f"plant.{number}.temp", Sample).where(lambda e: e.data.temp > 90)
        app.rule(other, name=f"other{number}")(note)
    return keeping


async def headrace(
    events: list[Sample],
    folder: Path,
    level: Durability = "fsynced",
    *,
    group: int = GROUP,
    emitters: int = 2,
    declare: Callable[[App, dict[str, float]], int] = one_rule,
) -> float:
    """Emit, in groups or (*group* 1) one by one, and wait for all runs."""
    app = App("w1")
    seen: dict[str, float] = {}
    kept = declare(app, seen) * sum(map(is_hot, events))
    log = MemoryLog() if level == "memory" else unused(folder, level)
    async with app.open(log, durability=level) as engine:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            # More than one, so that one group collects while the other is being synced.
            for number in range(emitters):
                mine = events[number::emitters]
                tasks.create_task(emit_all(engine, mine, group))
        await engine.drain()
        took = time.perf_counter() - start
        ended = engine.state().runs_ended
    assert ended == {"completed": kept}, ended
    assert len(seen) == len({event.device for event in events if is_hot(event)})
    return len(events) / took


async def emit_all(engine: Engine, events: list[Sample], size: int) -> None:
    """Emit *events*, so many in one call, and wait for each."""
    if size == 1:
        for event in events:
            await engine.emit(SUBJECT, event)
        return
    for first in range(0, len(events), size):
        await engine.emit_many([(SUBJECT, event) for event in events[first : first + size]])


def ways_of(many: list[Sample], few: list[Sample], folder: Path) -> dict[str, Callable[[], float]]:
    """Return each way to do the work: *many* events in groups, *few* where each is waited for."""

    def bare(events: list[Sample], *, uvloop: bool = False, **how: Any) -> float:
        return on_asyncio(ceiling.w1(events, unused(folder, "bare"), **how), uvloop=uvloop)

    def ours(events: list[Sample], *, uvloop: bool = False, **how: Any) -> float:
        return on_asyncio(headrace(events, folder, **how), uvloop=uvloop)

    each: dict[str, Any] = {"group": 1, "emitters": EMITTERS}
    ways: dict[str, Callable[[], float]] = {
        "plain asyncio": lambda: on_asyncio(plain_asyncio(many)),
        "bare loop": partial(bare, many),
        "W1 fsynced": partial(ours, many),
        "W1 flushed": partial(ours, many, level="flushed"),
        "W1 memory": partial(ours, many, level="memory"),
        "W1 fsynced, 100 rules, 3 keep 10 %": partial(
            ours, many, declare=partial(hundred_rules, keeping=3)
        ),
        "W1 fsynced, 100 rules, 3 asked": partial(
            ours, many, declare=partial(hundred_rules, keeping=1)
        ),
        "bare loop, 64 emitters": partial(bare, few, **each),
        "W1 fsynced, 64 emitters": partial(ours, few, **each),
    }
    if HAS_UVLOOP:
        ways |= {
            "plain asyncio, uvloop": lambda: on_asyncio(plain_asyncio(many), uvloop=True),
            "bare loop, uvloop": partial(bare, many, uvloop=True),
            "W1 fsynced, uvloop": partial(ours, many, uvloop=True),
            "W1 flushed, uvloop": partial(ours, many, uvloop=True, level="flushed"),
            "bare loop, 64 emitters, uvloop": partial(bare, few, uvloop=True, **each),
            "W1 fsynced, 64 emitters, uvloop": partial(ours, few, uvloop=True, **each),
        }
    return ways


def row(name: str, reference: str = "", bar: Bar | None = None) -> Row:
    """Return a line of this table."""
    return Row(name, "events/s", reference, bar)


ROWS: Final = [
    row("plain asyncio"),
    row("bare loop", "plain asyncio"),
    row("W1 fsynced", "bare loop", at_least(0.5, "ratio")),
    row("W1 fsynced", "plain asyncio", at_least(0.4, "ratio")),
    row("W1 flushed", "bare loop"),
    row("W1 memory", "plain asyncio"),
    row("W1 fsynced, 100 rules, 3 keep 10 %", "bare loop", at_least(0.25, "ratio")),
    row("W1 fsynced, 100 rules, 3 asked", "bare loop", at_least(0.25, "ratio")),
    row("bare loop, 64 emitters"),
    row("W1 fsynced, 64 emitters", "bare loop, 64 emitters"),
    row("plain asyncio, uvloop"),
    row("bare loop, uvloop", "plain asyncio, uvloop"),
    row("W1 fsynced, uvloop", "bare loop, uvloop", at_least(0.5, "ratio")),
    row("W1 fsynced, uvloop", "plain asyncio, uvloop"),
    row("W1 flushed, uvloop", "bare loop, uvloop"),
    row("bare loop, 64 emitters, uvloop"),
    row("W1 fsynced, 64 emitters, uvloop", "bare loop, 64 emitters, uvloop"),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    many = samples(2000 if options.quick else EVENTS)
    few = many[: 500 if options.quick else EVENTS_AWAITED]
    with scratch() as folder:
        return measured(ways_of(many, few, folder), ROWS, options)


if __name__ == "__main__":
    script(__doc__, "W1: events/s through a rule that keeps 10 %", take)
