"""What-if and bisect beside replay, and how much memory they take as a log grows.

The log is written by hand, without an engine: an event a millisecond, every tenth fires the rule
and has a run that ends.  Each figure is of a process of its own, in records a second of
processor time, and at last the most memory that it ever had.

    python benchmarks/whatif.py [--repeat 3] [--quick] [--json PATH] [--long]

``--long`` is for memory: ten million events, which says whether it is flat.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from common import Sample, samples, scratch
from figures import Figure, Row, at_least, at_most, measured, script
from msgspec import Raw

from headrace import App, Firing, Run, on
from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace.engine.log import FileLog
from headrace.replaying import bisect, replay, whatif

EVENTS: Final = 300_000
EVENTS_LONG: Final = 10_000_000
COMMIT_EVERY: Final = 1000
T0_NS: Final = 1_700_000_000 * 10**9
MIB: Final = 1024 * 1024


def app(limit: float) -> App:
    """Return an app with one rule of that limit."""
    made = App("whatif")

    @made.rule(
        on("sensors.temp", Sample)
        .where(lambda e: e.data.temp > limit)
        .key(lambda e: e.data.device)
        .throttle(period=0.05)
    )
    async def hot(run: Run, firing: Firing[Sample]) -> None: ...

    return made


def write(path: Path, events: int) -> None:
    """Make the log."""
    decider = app(90).decider()
    kernel, log = Kernel(decider), FileLog(path)
    payloads = [Raw(msgspec.msgpack.encode(sample)) for sample in samples(1000)]
    nothing = Raw(msgspec.msgpack.encode(None))
    log.open(lambda: None)

    def put(record: r.Input) -> bool:
        unit = kernel.submit(record)
        log.append([r.encode(one) for one in unit])
        kernel.state.effects.clear()
        return len(unit) > 1

    put(r.EngineStarted(T0_NS, "", "system", decider.fingerprints()))
    for n in range(events):
        at_ns = T0_NS + n * 1_000_000
        if put(r.EventStored(at_ns, "sensors.temp", payloads[n % 1000])):
            put(r.RunCompleted(at_ns, kernel.sequence, nothing))
        if n % COMMIT_EVERY == 0:
            log.commit()
    log.commit()
    log.close()


WAYS: Final[dict[str, Callable[[Path], Any]]] = {
    "replay": lambda path: replay(path, app(90)),
    "whatif, the same rules": lambda path: whatif(path, app(90)),
    "whatif, nothing fires": lambda path: whatif(path, app(99)),
    "whatif, ten times as many fire": lambda path: whatif(path, app(10)),
    "bisect, the same rules": lambda path: bisect(path, app(90), app(90)),
}


def inside(way: str, path: Path) -> None:
    """Go one way in this process; print what it took."""
    start = time.process_time()
    found = WAYS[way](path)
    took = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    print(json.dumps({"records/s": found.last / took, "MiB": peak}))


def outside(way: str, path: Path) -> dict[str, float]:
    """Go one way in another process."""
    call = [sys.executable, __file__, "--inside", way, "--log", str(path)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


REPLAY: Final = "replay, records/s"
HALF: Final = at_least(0.5, "ratio")
ROWS: Final = [
    Row("replay, records/s", "records/s", bar=at_least(200_000)),
    Row(
        "whatif, the same rules, records/s",
        "records/s",
        "replay, records/s",
        at_least(0.5, "ratio"),
    ),
    Row(
        "whatif, nothing fires, records/s", "records/s", "replay, records/s", at_least(0.5, "ratio")
    ),
    Row("whatif, ten times as many fire, records/s", "records/s", "replay, records/s"),
    Row("bisect, the same rules, records/s", "records/s", "replay, records/s"),
    *(Row(f"{way}, MiB", "MiB", bar=at_most(200)) for way in WAYS),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    with scratch() as folder:
        path = folder / "log"
        write(path, 3000 if options.quick else EVENTS_LONG if options.long else EVENTS)
        ways = {way: partial(outside, way, path) for way in WAYS}
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    if "--inside" in sys.argv:
        inside(sys.argv[2], Path(sys.argv[4]))
    else:
        script(__doc__, "what-if and memory", take, flags={"--long": "ten million events"})
