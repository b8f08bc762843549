"""The example plant: thermometers, what can go wrong with them, and what is done about it.

Copy this file, change the limits, and run it on readings of your own, one a line::

    {"subject": "plant.machine.temperature", "data": {"degrees": 87.3}}

    headrace check plant.py:app
    headrace run plant.py:app --log plant.log --from readings.jsonl

Kill it whenever you like and start it again: it goes on where it was.  Nothing in here
looks at the machine's clock or throws dice, so the same readings always lead to the same
result, whether or not it was killed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from headrace import App, Event, Firing, Retry, Run, on, silent

app = App("plant")

HOUR, DAY = 3600.0, 86_400.0

COLD_BELOW = {"machine": 50.0, "ambient": 60.0}
HOT_ABOVE = {"machine": 105.0, "ambient": 80.0}
SUSPECTS = {"cold": ["power", "coolant"], "hot": ["coolant", "fan", "load"]}

ON_CALL = {"ambient": "building services"}
"""Who is paged when a sensor is silent.  The machine was forgotten: its page is refused."""


class Reading(msgspec.Struct):
    """One reading of a thermometer, in whatever unit it has."""

    degrees: float


class Diagnosis(msgspec.Struct):
    """What may be wrong, and the parts to look at."""

    summary: str
    parts: list[str]


class PagerRefused(Exception):
    """The pager gateway does not know whom to call."""


# What tasks do.  Each is an ordinary function: call it in a unit test as it stands.


@app.task
def diagnose(sensor: str, what: Literal["hot", "cold"], degrees: list[float]) -> Diagnosis:
    """Say what may be wrong.  Not ``async``, so it runs in a thread and may compute for long."""
    worst = max(degrees) if what == "hot" else min(degrees)
    return Diagnosis(f"{sensor} is {what}: {worst:.1f} degrees", SUSPECTS[what])


@app.task(retry=Retry(attempts=3, wait_first=30, jitter=0, on=ConnectionError), timeout=20)
async def check(run: Run, part: str) -> str:
    """Ask the controller of *part*.  That of the coolant sleeps and misses the first call."""
    if part == "coolant" and run.attempt == 1:
        raise ConnectionError(f"the controller of the {part} does not answer")
    return f"{part} in order"


@app.task
async def notify(run: Run, sensor: str, message: str) -> str:
    """Tell everybody who listens.  A notice is an event like any other: rules may wait for it."""
    await run.emit(f"notices.{sensor}", {"message": message})
    return message


@app.task(retry=Retry(attempts=3, wait_first=30, jitter=0, on=PagerRefused))
async def page(sensor: str, message: str) -> str:
    """Page whoever is on call; with nobody on call this ends as a dead letter."""
    if sensor not in ON_CALL:
        raise PagerRefused(f"nobody is on call for {sensor!r}: {message}")
    return f"{ON_CALL[sensor]} paged: {message}"


# When something is wrong.  The limits go in as an argument, so that they count as part of the
# rule: with other limits it is another rule, and a replay says that it has changed.


def above(limits: dict[str, float]) -> Callable[[Event[Reading]], bool]:
    """Hold for a reading above its sensor's limit."""
    return lambda e: e.tokens[1] in limits and e.data.degrees > limits[e.tokens[1]]


def below(limits: dict[str, float]) -> Callable[[Event[Reading]], bool]:
    """Hold for a reading below its sensor's limit."""
    return lambda e: e.tokens[1] in limits and e.data.degrees < limits[e.tokens[1]]


readings = on("plant.*.temperature", Reading).key(lambda e: e.tokens[1])

# Three readings within a day: one alone may be noise.  "edge": once, until a day brings fewer.
too_hot = readings.where(above(HOT_ABOVE)).count(3, within=DAY, mode="edge")
too_cold = readings.where(below(COLD_BELOW)).count(3, within=DAY, mode="edge")


# What is done about it.


async def respond(run: Run, firing: Firing[Reading], what: Literal["hot", "cold"]) -> str:
    """Diagnose, check all suspected parts at once, tell everybody what was found."""
    degrees = [event.data.degrees for event in firing.events]
    diagnosis = await run.call(diagnose, firing.key, what, degrees)
    found = await run.map(check, diagnosis.parts)
    return await run.call(notify, firing.key, f"{diagnosis.summary}; {', '.join(found)}")


@app.rule(too_hot, mode="single")
async def hot(run: Run, firing: Firing[Reading]) -> str:
    """A sensor is too hot."""
    return await respond(run, firing, "hot")


@app.rule(too_cold, mode="single")
async def cold(run: Run, firing: Firing[Reading]) -> str:
    """A sensor is too cold: as a rule what it measures has stopped."""
    return await respond(run, firing, "cold")


@app.rule(silent(readings, for_=3 * HOUR))
async def quiet(run: Run, firing: Firing[Reading]) -> None:
    """A sensor has said nothing for three hours.  The page is a run of its own: do not wait."""
    since = datetime.fromtimestamp(firing.events[-1].time, UTC)
    await run.launch(page, firing.key, f"silent since {since:%Y-%m-%d %H:%M} UTC")


@app.every(7 * DAY)
async def weekly_inspection(run: Run) -> list[str]:
    """Once a week all parts are looked at, wrong or not."""
    return await run.map(check, sorted({part for parts in SUSPECTS.values() for part in parts}))
