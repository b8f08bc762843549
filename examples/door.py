"""A small house at night: doors, cards and rooms, and who is told of what.

Run it as it stands; it plays a made-up night in its recorded time::

    python examples/door.py

What is worth a look: a condition that sees the events before (`two_places`), something that
does not come (`left_open`), an alarm that stands until it clears (`freezing`), and a value
that is made of all events of a window (`how_warm`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from headrace import App, Event, Firing, MemoryLog, absent, on, sequence, step

app = App("house")


class Swipe(msgspec.Struct):
    """Somebody holds a card to a door."""

    card: str


class Door(msgspec.Struct):
    """A door was opened, or closed."""

    open: bool


class Reading(msgspec.Struct):
    """One reading of a thermometer."""

    celsius: float


def tell(at: float, text: str) -> None:
    """Tell somebody.  A house that is lived in would have a task for it, with a `Retry`."""
    print(f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}  {text}")


def mean(events: Sequence[Event[Reading]]) -> float:
    """Say how warm it was, of all readings of a window."""
    return round(sum(event.data.celsius for event in events) / len(events), 1)


swipes = on("cards.*", Swipe).key(lambda e: e.data.card)
opened = on("doors.*", Door).where(lambda e: e.data.open).key(lambda e: e.tokens[1])
closed = on("doors.*", Door).where(lambda e: not e.data.open).key(lambda e: e.tokens[1])
rooms = on("rooms.*", Reading).key(lambda e: e.tokens[1])

# Another door than the first: the condition sees the events that were taken so far.
elsewhere = swipes.where(lambda e, taken: e.subject != taken["first"][0].subject)


@app.rule(sequence(step("first", swipes), step("second", elsewhere), within=60))
async def two_places(firing: Firing[Swipe]) -> None:
    """One card at two doors within a minute: somebody has a copy."""
    doors = [event.tokens[1] for event in firing.events]
    tell(firing.at, f"card {firing.key} is at two doors: {' and '.join(doors)}")


@app.rule(absent(closed, after=opened, within=30))
async def left_open(firing: Firing[Door]) -> None:
    """A door was opened, and not closed for half a minute."""
    tell(firing.at, f"the {firing.key} door is open")


async def warm_again(firing: Firing[Reading]) -> None:
    """The alarm clears with the first reading that is warm enough."""
    tell(firing.at, f"the {firing.key} is warm again: {firing.events[-1].data.celsius} °C")


# One cold reading is an open window; ten minutes of them are a heating that has failed.
@app.rule(rooms.where(lambda e: e.data.celsius < 12).hold(for_=600), on_clear=warm_again)
async def freezing(firing: Firing[Reading]) -> None:
    """A room is too cold, and stays so: an alarm, until it is warm again."""
    tell(firing.at, f"the {firing.key} is cold: {firing.events[-1].data.celsius} °C")


@app.rule(rooms.tumbling(3600).aggregate(mean))
async def how_warm(firing: Firing[Reading]) -> None:
    """Once an hour, how warm each room was."""
    tell(firing.at, f"the {firing.key} had {firing.value} °C, of {firing.count} readings")


NIGHT: list[tuple[str, str, Swipe | Door | Reading]] = [
    ("22:00:00", "cards.front", Swipe("ada")),
    ("22:00:05", "doors.front", Door(open=True)),
    ("22:00:20", "doors.front", Door(open=False)),
    ("22:00:40", "cards.garage", Swipe("ada")),
    ("22:10:00", "rooms.kitchen", Reading(19.0)),
    ("22:30:00", "doors.garage", Door(open=True)),
    ("22:31:00", "rooms.kitchen", Reading(11.5)),
    ("22:38:00", "rooms.kitchen", Reading(10.5)),
    ("22:50:00", "doors.garage", Door(open=False)),
    ("23:05:00", "rooms.kitchen", Reading(12.5)),
]


async def main() -> None:
    """Play the night; log time is that of the events, so it takes no time at all."""
    async with app.open(MemoryLog(), clock="input") as engine:
        for clock, subject, data in NIGHT:
            time = datetime.fromisoformat(f"2026-01-10T{clock}Z").timestamp()
            await engine.emit(subject, data, time=time)
            await engine.drain()
            for alarm in engine.alarms():
                print(f"{clock}    alarm: {alarm.rule} {alarm.key}")


if __name__ == "__main__":
    asyncio.run(main())
