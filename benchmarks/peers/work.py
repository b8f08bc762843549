"""What each peer's file shares: the events, how latency is taken, and how it is asked to work.

A peer's file names its `PACKAGES` and has its `WAYS`; it is run in an environment of its own:

    python with_dbos.py "W2, DBOS, SQLite" 100 FOLDER

and says what it measured in its last line.  Libraries are imported where they are used, so that
the file can be read without them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

Result = float | dict[str, float]


class Way(NamedTuple):
    """One way in which a peer does the work."""

    run: Callable[[int, Path], Result]
    """Takes how many events there are, and a folder; returns how many a second, or p50 and p99."""
    keeps: str
    """What of it is still there after a crash."""
    count: int
    """How many events take a few seconds."""


class Sample(NamedTuple):
    """A small sensor event, as in W1 of headrace."""

    device: str
    temp: float
    ts: float


def samples(count: int) -> list[Sample]:
    """Return *count* events of 100 devices; one in ten is hot (over 90)."""
    return [Sample(f"d{n % 100}", 95.0 if n % 10 == 0 else 20.0, n / 1000) for n in range(count)]


def is_hot(event: Sample) -> bool:
    """Return whether W1 keeps *event*."""
    return event.temp > 90


def hot(count: int) -> list[Sample]:
    """Return those of *count* events that W1 keeps: for peers that filter in the caller."""
    return [event for event in samples(count) if is_hot(event)]


def percentiles(took_ms: list[float]) -> dict[str, float]:
    """Return p50 and p99."""
    ordered = sorted(took_ms)
    return {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


async def steadily(count: int, rate: float, emit: Callable[[float], Awaitable[object]]) -> None:
    """Call *emit* *rate* times a second with the time at which it was called."""
    due = time.perf_counter()
    for _ in range(count):
        await emit(time.perf_counter())
        due = max(due + 1 / rate, time.perf_counter())
        await asyncio.sleep(due - time.perf_counter())


def in_loop(work: Callable[[int, Path], Coroutine[Any, Any, Result]]) -> Callable[..., Result]:
    """Return what runs the coroutine function *work* on asyncio.

    The loop is left as it is: closing it waits for tasks of libraries that do not end.
    """

    def run(count: int, folder: Path) -> Result:
        return asyncio.new_event_loop().run_until_complete(work(count, folder))

    return run


async def until(is_done: Callable[[], bool], *, within_s: float = 120.0) -> None:
    """Wait until what others do has happened.

    Raises:
        TimeoutError: it has not.
    """
    end = time.perf_counter() + within_s
    while not is_done():
        if time.perf_counter() > end:
            raise TimeoutError
        await asyncio.sleep(0.001)


def main(ways: dict[str, Way]) -> None:
    """Go one way, and say what it came to."""
    name, count, folder = sys.argv[1:]
    result = ways[name].run(int(count), Path(folder))
    found = result if isinstance(result, dict) else {"": result}
    sys.stdout.flush()
    print(f"\n{json.dumps(found)}", flush=True)
    os._exit(0)  # threads and servers of libraries need not end in their own time
