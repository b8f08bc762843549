"""What an event costs by all that there is already: log, rules, keys, finished runs.

Each from a thousand to a million.  Those with so much and those with so little take turns, so
that whatever else the machine does meets both.  Rules and keys: events go through the kernel,
and what it decides is encoded.  Log and runs: `emit_many` at `flushed`, until all is done.

    python benchmarks/growth.py [--repeat 1] [--only keys] [--quick] [--json PATH]
        [--million-rules]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from common import SUBJECT, Sample, on_asyncio, samples, scratch, unused
from figures import Figure, Row, at_most, measured, script
from kernels import STEP_NS, Reading, kernel_of, per_second, through
from msgspec import Raw

from headrace import App, Engine, Firing, on
from headrace.engine import record as r
from headrace.engine.kernel import Kernel

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
SIZES_QUICK: Final = (1_000, 10_000)
TURNS: Final = 7
EVENTS: Final = 10_000
GROUP: Final = 1000
GROWTH_MAX: Final = 1.5
"""What is spread over more memory than the processor's caches hold costs so much more."""

Costs = dict[str, float]


def label(size: int) -> str:
    """Return *size* as a part of a name."""
    return f"{size:,}".replace(",", " ")


def in_turns(runs: dict[int, Callable[[], float]], count: int) -> Costs:
    """Return the median of *count* turns of each of *runs*."""
    for run in runs.values():
        run()  # whatever is done once
    turns = [{size: run() for size, run in runs.items()} for _ in range(count)]
    return {label(size): median(turn[size] for turn in turns) for size in runs}


def through_kernel(kernel: Kernel, stored: Callable[[int, int], r.EventStored]) -> Any:
    """Return what lets events more through *kernel*, and gives the µs that one took."""
    count = 0

    def run() -> float:
        nonlocal count
        events = [stored(n, 1 + 10**13 + n * STEP_NS) for n in range(count, count + EVENTS)]
        count += EVENTS
        return 1e6 / per_second(len(events), lambda: through(kernel, events))

    return run


def by_rules(sizes: tuple[int, ...], turns_count: int) -> Costs:
    """By the number of rules, one of which concerns the event."""
    runs = {}
    for size in sizes:
        kernel = kernel_of(*(on(f"plant.{n}.temp").count(3, within=1) for n in range(size)))
        subjects = [f"plant.{n * size // 100}.temp" for n in range(100)]

        def stored(n: int, at_ns: int, subjects: list[str] = subjects) -> r.EventStored:
            return r.EventStored(at_ns, subjects[n % 100], Raw(b"\x01"))

        runs[size] = through_kernel(kernel, stored)
    return in_turns(runs, turns_count)


def by_keys(sizes: tuple[int, ...], turns_count: int) -> Costs:
    """By the number of keys that a rule counts by."""
    encode = msgspec.msgpack.Encoder().encode
    runs = {}
    for size in sizes:
        pattern = on("a", Reading).key(lambda e: e.data.device, keys_max=2 * max(sizes))
        kernel = kernel_of(pattern.count(3, within=1e8))
        for device in range(size):
            data = Raw(encode(Reading(10**6 + device, 20.0)))
            kernel.submit(r.EventStored(1 + device * STEP_NS, "a", data))
            kernel.state.effects.clear()

        def stored(n: int, at_ns: int, size: int = size) -> r.EventStored:
            return r.EventStored(at_ns, "a", Raw(encode(Reading(10**6 + n * 7919 % size, 20.0))))

        runs[size] = through_kernel(kernel, stored)
    return in_turns(runs, turns_count)


async def emit(engine: Engine, count: int) -> float:
    """Emit and wait for all runs; return the µs that an event took."""
    start = time.perf_counter()
    for first in range(0, count, GROUP):
        group = samples(min(GROUP, count - first))
        await engine.emit_many([(SUBJECT, event) for event in group])
    await engine.drain()
    return (time.perf_counter() - start) * 1e6 / count


async def by_events(
    sizes: tuple[int, ...], turns_count: int, folder: Path, *, is_kept: bool
) -> Costs:
    """By the events in the log; with *is_kept* each of them was a run, too."""
    runs: dict[int, Callable[[], Awaitable[float]]] = {}
    async with AsyncExitStack() as engines:
        for size in sizes:
            app = App("growth")

            @app.rule(on(SUBJECT, Sample).where(lambda _e: is_kept), name="work", version="1")
            async def work(_firing: Firing[Sample]) -> None:
                pass

            log = unused(folder, "log")
            # A snapshot takes half of the loop's time for a while: not what is compared here.
            opened = app.open(log, durability="flushed", snapshot_every=0)
            engine = await engines.enter_async_context(opened)
            await emit(engine, size)
            runs[size] = partial(emit, engine, 2 * GROUP)
        turns = [{size: await run() for size, run in runs.items()} for _ in range(turns_count)]
    return {label(size): median(turn[size] for turn in turns) for size in sizes}


def rows_of(name: str, unit: str, sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Return the lines of one way."""
    first, *others, last = (f"{name}, {label(size)}" for size in sizes)
    return [
        Row(first, "µs/event", note=unit),
        *(Row(other, "µs/event", first, note=unit) for other in others),
        Row(last, "µs/event", first, at_most(GROWTH_MAX, "ratio"), note=unit),
    ]


ROWS: Final = [
    *rows_of("growth by log", "events stored"),
    *rows_of("growth by finished runs", "runs ended"),
    *rows_of("growth by rules", "rules", SIZES[:3]),
    Row(f"growth by rules, {label(SIZES[3])}", "µs/event", f"growth by rules, {label(SIZES[0])}"),
    *rows_of("growth by keys", "keys"),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    sizes, turns = (SIZES_QUICK, 1) if options.quick else (SIZES, TURNS)
    with scratch() as folder:
        rules = sizes if options.million_rules else sizes[:3]
        ways: dict[str, Callable[[], Costs]] = {
            "growth by log": lambda: on_asyncio(by_events(sizes, turns, folder, is_kept=False)),
            "growth by finished runs": lambda: on_asyncio(
                by_events(sizes, turns, folder, is_kept=True)
            ),
            "growth by rules": lambda: by_rules(rules, turns),
            "growth by keys": lambda: by_keys(sizes, turns),
        }
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(
        __doc__,
        "growth: an event's cost by what there is already",
        take,
        repeat=1,
        flags={"--million-rules": "also with a million rules: minutes, and 4 GB"},
    )
