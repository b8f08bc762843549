"""What happens, when, and in which order: the words that all parts of the reference model use.

The place of an occurrence says when it happens among others of the same time (laws L3 and
L5): timers before events, timers in the order in which they were armed.  The place of a timer
holds the place of its arming, so that this order is an order of tuples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from headrace.engine.clock import NS

Place = tuple[Any, ...]
"""``(time, 1, number of the event)`` or ``(time, 0, place of its arming, stage, turn)``."""


class Unsettled(Exception):
    """The text does not say what follows from this timeline."""


class Given(NamedTuple):
    """An event of the timeline."""

    at: float
    """Seconds."""
    subject: str
    data: Any


class Seen(NamedTuple):
    """What a user's function is shown of an event."""

    data: Any
    value: Any = None
    """What an aggregate made of the events of which this is the last."""


class Happened(NamedTuple):
    """An operator was met: by an event, or by a timer."""

    at: int
    """Nanoseconds."""
    place: Place
    key: Any
    events: tuple[int, ...]
    """Numbers of events of the timeline."""
    last: int | None
    """The event that conditions and keys behind it look at; none where there is no event."""
    branches: tuple[int, ...] | None = None
    reason: str | None = None
    steps: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    value: Any = None


class Step(NamedTuple):
    """What the branches of an operator make of one event, or of one timer, for one key."""

    at: int
    place: Place
    key: Any
    hits: dict[int, Happened]
    """By the number of the branch."""


class Stage(NamedTuple):
    """One operator in its rule: what it is met by, and its turn to arm timers."""

    number: tuple[int, int]
    source: list[Any]
    """All `Happened` or `Step` that it is met by, for all keys."""
    until: int
    """Where time ends."""
    show: Callable[[Happened], Seen]

    def timer(self, due: int, armed_by: Any) -> Place:
        """Return the place of a timer that one of the source arms.

        One event may arm several keys: in the order in which they were met.
        """
        return (due, 0, armed_by.place, self.number, self.source.index(armed_by))

    def next_timer(self, due: int, fired: Place) -> Place:
        """Return the place of a timer that is armed by the firing of the one before it."""
        return (due, 0, fired, self.number, 0)


def ns(seconds: float) -> int:
    """Return *seconds* as nanoseconds."""
    return round(seconds * NS)


def combined(hits: list[Happened], at: int, place: Place, *, reason: str | None = None) -> Happened:
    """Return the hit that is made of several, oldest first.

    Its last event is their last, and the value goes along with that.
    """
    events = tuple(event for hit in hits for event in hit.events)
    key, last, value = hits[-1].key, hits[-1].last, hits[-1].value
    return Happened(at, place, key, events, last, reason=reason, value=value)


def remembered(hit: Happened, place: Place) -> Happened:
    """Return what a timer tells of *hit*: its events and their value, not how it came about."""
    return Happened(place[0], place, hit.key, hit.events, hit.last, value=hit.value)


def handed_on(hit: Happened, place: Place, *, reason: str | None = None) -> Happened:
    """Return *hit* at the later time of the timer that lets it go."""
    return hit._replace(at=place[0], place=place, reason=reason or hit.reason)


Branches = dict[int, list[Happened]]
"""What each branch is met by, by its number, in the order in which an event meets them."""


def stepwise(branches: Branches) -> list[Step]:
    """Collect what the branches make of one event or timer, one step for each key."""
    met: dict[tuple[Place, Any], dict[int, Happened]] = {}
    for number, branch in branches.items():
        for hit in branch:
            hits = met.setdefault((hit.place, hit.key), {})
            if number in hits:
                raise Unsettled("one branch is met twice by one event")
            hits[number] = hit
    steps = [
        Step(next(iter(hits.values())).at, place, key, hits) for (place, key), hits in met.items()
    ]
    return sorted(steps, key=lambda step: step.place)
