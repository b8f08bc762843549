"""A day at three airports: where departures jam, and which plane drags its delay along.

    headrace run examples/flights.py --log flights.log --from examples/flights.jsonl --clock input

The readings are the departures of one airline from New York on 24 January 2013: see
recorded.NOTICE.  What can be asked of the log afterwards is in docs/questions.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace import App, Event, Run, field, on, sequence, step

app = App("flights")


class Flight(msgspec.Struct):
    """A departure, or one that is not to be: then nobody knows how late."""

    flight: int
    to: str
    tail: str | None = None
    late: int = 0
    """Minutes."""


class Airport(msgspec.Struct):
    """What the day was like."""

    departed: int = 0
    late: int = 0
    cancelled: int = 0
    worst: int = 0


def airport(event: Event[Any]) -> str:
    """Return where it is."""
    return event.tokens[1]


def plane(event: Event[Any]) -> str | None:
    """Return which plane it is; of one without a number nothing can be said."""
    tail: str | None = event.data.tail
    return tail


departed = on("flights.*.departed", Flight)
late = departed.where(field("late") > 60)


@app.rule(late.key(airport).count(5, within=3600, mode="edge"))
def jam() -> None:
    """Five planes have left more than an hour late within an hour."""


@app.rule(
    sequence(
        step("first", late.key(plane)),
        step(
            "next",
            departed.where(lambda e, m: e.data.late > m["first"][0].data.late).key(plane),
        ),
        within=12 * 3600,
    )
)
def dragging() -> None:
    """A plane that was late has become later still."""


@app.action
async def send_a_plane(run: Run) -> None:
    """Send one that stands by: an action for rules that a file has, see docs/questions.md."""
    await run.emit(f"planes.{run.key}.wanted", {})


@app.projection(on("flights.*.*", Flight), key=airport)
def airports(so_far: Airport | None, event: Event[Flight]) -> Airport:
    """Fold a day into a few numbers for each airport."""
    was = so_far or Airport()
    if event.tokens[2] == "cancelled":
        return Airport(was.departed, was.late, was.cancelled + 1, was.worst)
    minutes = event.data.late
    return Airport(
        was.departed + 1, was.late + (minutes > 60), was.cancelled, max(was.worst, minutes)
    )
