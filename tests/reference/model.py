"""What the rules mean, as slowly and plainly as can be: written from the semantics alone.

Each operator is a function from the complete list of what happened to the complete list of
what it makes of that; there is no state, no automaton and no clock.  A pattern is described
by the classes below, and `pattern_of` makes the real one of the same description.

The place of an occurrence says when it happens among others of the same time (laws L3 and
L5): timers before events, timers in the order in which they were armed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from headrace import any_of, on, silent
from headrace.engine.clock import NS
from headrace.engine.subject import matches
from headrace.triggers.pattern import CountMode, EveryNode, Pattern, Repeat

Place = tuple[Any, ...]
"""``(time, 1, number of the event)`` or ``(time, 0, place of its arming, stage, turn)``."""


class Given(NamedTuple):
    """An event of the timeline."""

    at: int
    subject: str
    data: Any


class Happened(NamedTuple):
    """An operator was met: by an event, or by a timer."""

    at: int
    place: Place
    key: Any
    events: tuple[int, ...]
    """Numbers of events of the timeline."""
    branches: tuple[int, ...] | None = None


# ---------------------------------------------------------------- descriptions


class On(NamedTuple):
    subject: str


class Where(NamedTuple):
    source: Spec
    condition: Callable[[Any], bool]
    """Of an event's data."""


class Key(NamedTuple):
    source: Spec
    key: Callable[[Any], Hashable]
    """Of an event's data."""


class Count(NamedTuple):
    source: Spec
    n: int
    within: int | None
    mode: CountMode


class Silent(NamedTuple):
    source: Spec
    wait: int
    repeat: Repeat
    expect: tuple[Any, ...] = ()


class AnyOf(NamedTuple):
    branches: tuple[Spec, ...]


class Every(NamedTuple):
    period: int


Spec = On | Where | Key | Count | Silent | AnyOf | Every


def pattern_of(spec: Spec) -> Pattern[Any]:
    """Return the real pattern; one unit of time is a second."""
    if isinstance(spec, On):
        return on(spec.subject)
    if isinstance(spec, Where):
        condition = spec.condition
        return pattern_of(spec.source).where(lambda e: condition(e.data))
    if isinstance(spec, Key):
        key = spec.key
        return pattern_of(spec.source).key(lambda e: key(e.data))
    if isinstance(spec, Count):
        return pattern_of(spec.source).count(spec.n, within=spec.within, mode=spec.mode)
    if isinstance(spec, Silent):
        return silent(
            pattern_of(spec.source), for_=spec.wait, repeat=spec.repeat, expect=spec.expect
        )
    if isinstance(spec, AnyOf):
        return any_of(*(pattern_of(branch) for branch in spec.branches))
    return Pattern(EveryNode(spec.period * NS))


# ---------------------------------------------------------------- the model


class Model:
    """The meaning of descriptions over one timeline."""

    def __init__(self, timeline: list[Given], *, start: int, until: int) -> None:
        self.timeline = timeline
        self.start = start
        self.until = until
        self._stages = 0

    def firings(self, spec: Spec) -> list[Happened]:
        """Return the firings, in the order in which they are recorded."""
        self._stages = 0
        return sorted(self.happened(spec), key=lambda made: made.place)

    def happened(self, spec: Spec, *, is_rekeyed: bool = False) -> list[Happened]:
        """Return all that *spec* makes of the timeline, in order of place.

        *is_rekeyed*: a `.key` follows, so the keys that it has so far do not count.
        """
        if isinstance(spec, On):
            made = [
                Happened(event.at, (event.at, 1, number), None, (number,))
                for number, event in enumerate(self.timeline)
                if matches(spec.subject, event.subject)
            ]
        elif isinstance(spec, Where):
            source = self.happened(spec.source, is_rekeyed=is_rekeyed)
            made = [x for x in source if spec.condition(self.last_data(x))]
        elif isinstance(spec, Key):
            source = self.happened(spec.source, is_rekeyed=True)
            made = [x._replace(key=spec.key(self.last_data(x))) for x in source]
            made = [x for x in made if x.key is not None]
        elif isinstance(spec, Count):
            made = self.by_key(self.happened(spec.source), lambda xs: counted(xs, spec))
        elif isinstance(spec, Silent):
            made = self.silences(spec)
        elif isinstance(spec, AnyOf):
            branches = [self.happened(branch) for branch in spec.branches]
            if is_rekeyed:
                branches = [[x._replace(key=None) for x in branch] for branch in branches]
            made = merged(branches)
        else:
            made = self.beats(spec)
        return sorted(made, key=lambda x: x.place)

    def last_data(self, happened: Happened) -> Any:
        """Conditions and keys see the event that completed what they follow."""
        return self.timeline[happened.place[2]].data

    def by_key(
        self, all_: list[Happened], meaning: Callable[[list[Happened]], list[Happened]]
    ) -> list[Happened]:
        """Independent automata for each key."""
        keys = dict.fromkeys(x.key for x in all_)
        made = [one for key in keys for one in meaning([x for x in all_ if x.key == key])]
        turns = [(x.place, x.key) for x in all_]
        return sorted(made, key=lambda one: turns.index((one.place, one.key)))

    def silences(self, spec: Silent) -> list[Happened]:
        """Each hit re-arms; at the end of the wait, before anything else, the watchdog fires."""
        first = self._next_stage()  # at the activation outer ones are armed before inner ones
        source = self.happened(spec.source)
        stage = self._next_stage()  # within a step a watchdog is armed after what feeds it
        made: list[Happened] = []
        for key in dict.fromkeys((*spec.expect, *(x.key for x in source))):
            hits = [x for x in source if x.key == key]
            arming: list[Happened] = [Happened(x.at, x.place, key, x.events) for x in hits]
            if key in spec.expect:
                activation = (self.start, -1, first, spec.expect.index(key))
                arming.insert(0, Happened(self.start, activation, key, ()))
            for armed, following in zip(arming, [*arming[1:], None], strict=True):
                due, place = armed.at + spec.wait, armed.place
                # One event may arm several keys: in the order in which they were met.
                turn = next((n for n, x in enumerate(source) if x[1:3] == (place, key)), 0)
                while due <= self.until:
                    place = (due, 0, place, stage, turn)
                    if following is not None and following.place < place:
                        break
                    made.append(Happened(due, place, key, armed.events))
                    if spec.repeat == "once":
                        break
                    due += spec.wait
        return made

    def beats(self, spec: Every) -> list[Happened]:
        """A grid that begins at the activation."""
        stage = self._next_stage()
        place: Place = (self.start, -1, stage, 0)
        made = []
        for due in range(self.start + spec.period, self.until + 1, spec.period):
            place = (due, 0, place, stage, 0)
            made.append(Happened(due, place, None, ()))
        return made

    def _next_stage(self) -> int:
        self._stages += 1
        return self._stages


def counted(hits: list[Happened], spec: Count) -> list[Happened]:
    """The sliding window of events e with now - e.t < W."""
    made: list[Happened] = []
    armed, fired_at = True, -1

    def window(now: int, upto: int, since: int) -> list[Happened]:
        within = spec.within
        return [x for x in hits[since : upto + 1] if within is None or now - x.at < within]

    for index, hit in enumerate(hits):
        if spec.mode == "reset":
            held = window(hit.at, index, fired_at + 1)
            fires = len(held) >= spec.n
        else:
            held = window(hit.at, index, 0)
            armed = armed or len(window(hit.at, index - 1, 0)) < spec.n
            fires = len(held) >= spec.n and (armed or spec.mode == "every")
        if fires:
            armed, fired_at = False, index
            events = tuple(event for x in held for event in x.events)
            made.append(hit._replace(events=events))
    return made


def merged(branches: list[list[Happened]]) -> list[Happened]:
    """One event counts once for each key, even when several branches match."""
    made = []
    everything = [(number, x) for number, branch in enumerate(branches) for x in branch]
    for place, key in dict.fromkeys((x.place, x.key) for _, x in everything):
        met = [(number, x) for number, x in everything if (x.place, x.key) == (place, key)]
        events = sorted({event for _, x in met for event in x.events})
        numbers = tuple(sorted({number for number, _ in met}))
        first = met[0][1]
        one = first.events if len(met) == 1 else tuple(events)
        made.append(first._replace(events=one, branches=numbers))
    return made
