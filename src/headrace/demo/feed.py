"""The demo's events: two real series of readings, merged in the order in which they came.

NAB names no time zone; the times are taken as UTC.  The position of an event is its place
in the merged feed, from 1, so a run that was killed asks the log for its cursor and goes
on behind it: nothing is stored twice and nothing is left out.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

from msgspec import Struct

SOURCE: Final = "demo:nab"
SENSORS: Final = ("ambient", "machine")

_FILE: Final = "{}_temperature_system_failure.csv"


class Sample(Struct, frozen=True):
    """One line of a file."""

    position: int
    """Its place in the merged feed, from 1."""
    sensor: str
    time: float
    """Seconds since the epoch, as the file has it: the machine's clock is once set back."""
    degrees: float

    @property
    def subject(self) -> str:
        """Where it is emitted."""
        return f"plant.{self.sensor}.temperature"


class Window(Struct, frozen=True):
    """A stretch that NAB labels as a failure, with its middle reading: the labelled moment."""

    sensor: str
    start: float
    middle: float
    end: float


def samples() -> list[Sample]:
    """Return all readings of both sensors, oldest first."""
    merged = heapq.merge(*(_series(sensor) for sensor in SENSORS))
    return [
        Sample(position, sensor, time, degrees)
        for position, (_, sensor, _, time, degrees) in enumerate(merged, start=1)
    ]


def windows() -> list[Window]:
    """Return the labelled failures, oldest first."""
    labels = json.loads(_text("anomaly_windows.json"))
    found: list[Window] = []
    for sensor in SENSORS:
        times = [time for _, _, _, time, _ in _series(sensor)]
        for start_text, end_text in labels[f"realKnownCause/{_FILE.format(sensor)}"]:
            start, end = _seconds(start_text), _seconds(end_text)
            inside = [time for time in times if start <= time <= end]
            # NAB puts its label there: a window has as many readings before it as after.
            found.append(Window(sensor, start, inside[len(inside) // 2], end))
    return sorted(found, key=lambda window: window.start)


def _series(sensor: str) -> Iterator[tuple[float, str, int, float, float]]:
    """Yield ``(latest time so far, sensor, line, time, degrees)``, sorted as it stands."""
    latest = 0.0
    packed = (files("headrace") / "demo_data" / f"{_FILE.format(sensor)}.gz").read_bytes()
    lines = csv.reader(gzip.decompress(packed).decode("utf-8").splitlines())
    next(lines)
    for line, (timestamp, value) in enumerate(lines, start=2):
        time = _seconds(timestamp)
        latest = max(latest, time)
        yield latest, sensor, line, time, float(value)


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).replace(tzinfo=UTC).timestamp()


def _text(name: str) -> str:
    return (files("headrace") / "demo_data" / name).read_text(encoding="utf-8")
