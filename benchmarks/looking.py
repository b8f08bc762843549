"""How long `headrace state --at` and `headrace why` take in a log of a million records.

An engine writes the log, with the snapshots that it takes by itself.  Each command is a process
of its own, from its start to its end; the figure is that of the slowest of four places.

    python benchmarks/looking.py [--repeat 3] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

from common import SUBJECT, Sample, on_asyncio, samples, scratch
from figures import Figure, Row, at_most, measured, script

from headrace import App, FileLog, Firing, on
from headrace.cli.logs import opened
from headrace.engine.record import EventStored, decode_all

EVENTS: Final = 1_000_000
"""With a firing and the end of a run for one of ten it is some 1 200 000 records."""
GROUP: Final = 1000
HEADRACE: Final = Path(sys.executable).with_name("headrace")
PLACES: Final = (0.05, 0.4, 0.75, 0.999)
"""Parts of the log, of which the first is before all snapshots but the oldest."""

app = App("looking")


@app.rule(on(SUBJECT, Sample).where(lambda e: e.data.temp > 90).key(lambda e: e.data.device))
async def hot(firing: Firing[Sample]) -> None:
    """Be done."""


async def write(path: Path, count: int) -> None:
    """Write the log."""
    async with app.open(FileLog(path, durability="flushed")) as engine:
        events = samples(GROUP)
        for _ in range(count // GROUP):
            await engine.emit_many([(SUBJECT, event) for event in events])
        await engine.drain()


def events_of(path: Path) -> list[int]:
    """Return the sequences of all events: only of one can be asked what it came to."""
    with opened(path) as reader:
        return [
            sequence
            for first, batch in reader.read()
            for sequence, record in enumerate(decode_all(batch), first)
            if type(record) is EventStored
        ]


def slowest(path: Path, places: list[int], *words: str) -> float:
    """Return the seconds that the command takes at the slowest of *places*."""
    took: list[float] = []
    for place in places:
        command = [str(HEADRACE), words[0], "looking:app", str(path.resolve())]
        start = time.perf_counter()
        subprocess.run(
            [*command, *words[1:], "--at", str(place)],
            check=True,
            cwd=Path(__file__).parent,
            stdout=subprocess.DEVNULL,
        )
        took.append(time.perf_counter() - start)
    return max(took)


ROWS: Final = [
    Row("state --at in 1 000 000 events, slowest place", "s", "", at_most(2)),
    Row("why in 1 000 000 events, slowest place", "s", "", at_most(3)),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    count = 5000 if options.quick else EVENTS
    with scratch() as folder:
        path = folder / "log"
        on_asyncio(write(path, count))
        events = events_of(path)
        parts = PLACES[-1:] if options.quick else PLACES
        places = [events[int(len(events) * part)] for part in parts]
        ways = {
            ROWS[0].name: partial(slowest, path, places, "state"),
            ROWS[1].name: partial(slowest, path, places, "why", "hot"),
        }
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "looking back", take)
