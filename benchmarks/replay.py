"""Replay through rules, and what an event takes on disk.

The log is that of W1: events, the firings that they led to, and the ends of their runs.  It is
folded as `headrace replay` does it: every decision is derived again and compared with the
recorded one.  Beside it the same records are only read, and read and decoded.

    python benchmarks/replay.py [--repeat 3] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Final

import msgspec
from common import on_asyncio, samples, scratch
from figures import Figure, Row, at_least, at_most, measured, script
from w1_throughput import headrace, hundred_rules, one_rule

from headrace import App
from headrace.cli.logs import folded, opened
from headrace.engine import record as kinds

EVENTS: Final = 100_000


def read(path: Path) -> float:
    """Read all records, as bytes; return records/s."""
    start = time.perf_counter()
    with opened(path) as reader:
        count = sum(len(batch) for _, batch in reader.read())
    return count / (time.perf_counter() - start)


def decoded(path: Path) -> float:
    """Read and decode all records; return records/s."""
    start = time.perf_counter()
    with opened(path) as reader:
        count = sum(len(list(map(kinds.decode, batch))) for _, batch in reader.read())
    return count / (time.perf_counter() - start)


def replayed(path: Path, declare: Callable[[App, dict[str, float]], int]) -> float:
    """Fold the log with its rules; return records/s."""
    app = App("w1")
    declare(app, {})
    start = time.perf_counter()
    with opened(path) as reader:
        kernel = folded(reader, app.decider())
    took = time.perf_counter() - start
    assert not kernel.divergences
    return kernel.sequence / took


def without_rules(path: Path) -> float:
    """Fold the log without any rules, as `headrace state` does; return records/s."""
    start = time.perf_counter()
    with opened(path) as reader:
        kernel = folded(reader)
    return kernel.sequence / (time.perf_counter() - start)


def written(folder: Path, count: int, declare: Callable[[App, dict[str, float]], int]) -> Path:
    """Return the log of one W1."""
    before = set(folder.iterdir())
    on_asyncio(headrace(samples(count), folder, declare=declare))
    (path,) = set(folder.iterdir()) - before
    return path


def segments_bytes(path: Path) -> int:
    """Return how large the log's segments are."""
    return sum(file.stat().st_size for file in path.glob("*.hrl"))


ROWS: Final = [
    Row("read only", "records/s"),
    Row("read and decoded", "records/s", "read only"),
    Row("replay through the rule of W1", "records/s", "read and decoded", at_least(200_000)),
    Row("replay through 100 rules, 3 match", "records/s", "read and decoded"),
    Row("fold without rules", "records/s", "read and decoded"),
    Row("log size, W1, groups of 1 000", "B/event", "payload of W1", at_most(60)),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    count = 2000 if options.quick else EVENTS
    hundred = partial(hundred_rules, keeping=3)
    with scratch() as folder:
        # Each once it is needed: for nothing if what was asked for is not there.
        narrow = cache(lambda: written(folder, count, one_rule))
        wide = cache(lambda: written(folder, count, hundred))
        payload_bytes = len(msgspec.msgpack.encode(samples(2)[1]))
        ways: dict[str, Callable[[], float]] = {
            "read only": lambda: read(narrow()),
            "read and decoded": lambda: decoded(narrow()),
            "replay through the rule of W1": lambda: replayed(narrow(), one_rule),
            "replay through 100 rules, 3 match": lambda: replayed(wide(), hundred),
            "fold without rules": lambda: without_rules(narrow()),
            "payload of W1": lambda: payload_bytes,
            "log size, W1, groups of 1 000": lambda: segments_bytes(narrow()) / count,
        }
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "replay and log size", take)
