"""What the demo says when it is done.  All of it is computed from the log, but for the speed.

A labelled failure counts as caught if a rule about temperatures fired for its sensor inside
it.  A silent sensor is reported, but not counted: a gap says nothing of the temperature.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from headrace.demo.feed import Window
from headrace.demo.outcome import FiringSeen, Outcome

TEMPERATURE_RULES: Final = ("hot", "cold")


class Catch(Struct, frozen=True):
    """A labelled failure and the first firing inside it."""

    sensor: str
    start: str
    end: str
    rule: str | None
    """``None``: it was missed."""
    fired: str | None
    before_label_hours: float | None
    """Hours from the firing to the labelled moment, the middle reading; negative: too late."""
    before_end_hours: float | None


class DeadLetter(Struct, frozen=True):
    """A run that was given up."""

    run: int
    task: str
    key: Any
    error: str


class Speed(Struct, frozen=True):
    """How fast it went this time, on this machine."""

    events: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        """Events a second, each durable and with all that it led to."""
        return self.events / self.seconds if self.seconds else 0.0


class Report(Struct, frozen=True):
    """What a log came to, in numbers."""

    log: str
    events: int
    firings: dict[str, int]
    runs: dict[str, int]
    """Number by state; steps are runs too."""
    steps: int
    """How many of the runs were steps of other runs."""
    retries: int
    dead_letters: list[DeadLetter]
    windows: list[Catch]
    alarms_outside: int
    """Firings about temperatures that lie in no labelled failure."""
    log_bytes: int
    bytes_per_event: float
    """Of the whole log: with firings, runs, steps and results."""
    events_per_s: float | None
    """``None`` if the log was finished before."""


def report_of(
    outcome: Outcome, windows: list[Window], *, log: str, log_bytes: int, speed: Speed | None
) -> Report:
    """Put *outcome* into numbers and hold it against the labelled *windows*."""
    alarms = [firing for firing in outcome.firings if firing.rule in TEMPERATURE_RULES]
    runs = outcome.runs.values()
    return Report(
        log=log,
        events=outcome.events,
        firings=dict(sorted(Counter(firing.rule for firing in outcome.firings).items())),
        runs=dict(sorted(Counter(run.status for run in runs).items())),
        steps=sum(run.step for run in runs),
        retries=sum(run.retries for run in runs),
        dead_letters=[
            DeadLetter(run.id, run.task, run.key, run.error or "")
            for run in runs
            if run.status == "dead"
        ],
        windows=[_catch(window, alarms) for window in windows],
        alarms_outside=sum(
            not any(_is_inside(firing, window) for window in windows) for firing in alarms
        ),
        log_bytes=log_bytes,
        bytes_per_event=round(log_bytes / outcome.events, 1) if outcome.events else 0.0,
        events_per_s=round(speed.events_per_s) if speed is not None else None,
    )


def text_of(report: Report) -> str:
    """Return *report* for people."""
    caught = sum(catch.rule is not None for catch in report.windows)
    speed = f", {_grouped(report.events_per_s)} a second" if report.events_per_s else ""
    log = f"{_grouped(report.log_bytes)} bytes in {report.log}: {report.bytes_per_event:g} an event"
    outside = f"{report.alarms_outside} alarms lie outside: false, or of what has no label"
    lines = [
        f"events        {_grouped(report.events)}{speed}",
        f"firings       {_counts(report.firings)}",
        f"runs          {_counts(report.runs)}; {report.steps} of them as steps of others",
        f"retries       {report.retries}",
        f"dead letters  {len(report.dead_letters)}",
        *(f"              {_letter(letter)}" for letter in report.dead_letters),
        f"log           {log}, with all that followed from it",
        "",
        f"{'labelled failure':<42}{'first alarm':<19}before its labelled moment",
        *(f"{_span(catch):<42}{_when(catch)}" for catch in report.windows),
        f"{caught} of {len(report.windows)} caught; {outside}.",
    ]
    return "\n".join(lines)


def next_commands(log: str) -> str:
    """Return three commands to try on *log*."""
    return "\n".join(
        (
            "Try next:",
            f"  headrace log info {log}",
            f"  headrace runs list {log}",
            f"  headrace replay headrace.demo.plant:app {log}",
        )
    )


def _is_inside(firing: FiringSeen, window: Window) -> bool:
    return firing.key == window.sensor and window.start <= firing.at_ns / 1e9 <= window.end


def _catch(window: Window, alarms: list[FiringSeen]) -> Catch:
    inside = [firing for firing in alarms if _is_inside(firing, window)]
    start, end = _minute(window.start), _minute(window.end)
    if not inside:
        return Catch(window.sensor, start, end, None, None, None, None)
    first = min(inside, key=lambda firing: firing.at_ns)
    at = first.at_ns / 1e9
    return Catch(
        window.sensor,
        start,
        end,
        first.rule,
        _minute(at),
        round((window.middle - at) / 3600, 1),
        round((window.end - at) / 3600, 1),
    )


def _minute(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _span(catch: Catch) -> str:
    return f"{catch.sensor:<8}{catch.start} to {catch.end[5:]}"


def _when(catch: Catch) -> str:
    if catch.fired is None:
        return "missed"
    return f"{catch.rule:<6}{catch.fired[5:]:<13}{catch.before_label_hours:g} h"


def _letter(letter: DeadLetter) -> str:
    key = "" if letter.key is None else f" [{letter.key}]"
    return f"run {letter.run} {letter.task}{key}: {letter.error}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{_grouped(count)} {name}" for name, count in counts.items()) or "none"


def _grouped(number: float) -> str:
    """Return *number* with a thin gap between thousands: 29 962."""
    return f"{number:,.0f}".replace(",", " ")
