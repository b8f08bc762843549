"""What the rules mean, as slowly and plainly as can be: written from the semantics alone.

Each operator is a function from the complete list of what happened to the complete list of
what it makes of that; there is no automaton and no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.reference import joins, rates, windows
from tests.reference.event_time import Released, released
from tests.reference.happened import (
    Branches,
    Given,
    Happened,
    Place,
    Seen,
    Stage,
    ns,
    stepwise,
)
from tests.reference.sequences import Entry, History
from tests.reference.spec import (
    Absent,
    Aggregate,
    AllOf,
    AnyOf,
    Batch,
    Count,
    Crosses,
    Debounce,
    Dedupe,
    EventTime,
    Every,
    Hold,
    Key,
    On,
    RateLimit,
    Sequence,
    Session,
    Silent,
    Spec,
    Throttle,
    Where,
    Windows,
    parts_of,
    sources_of,
)

from headrace.engine.subject import matches

Meaning = Callable[[list[Happened], Stage], list[Happened]]
"""Of the hits of one key."""


class Model:
    """The meaning of descriptions over one timeline; times are in seconds."""

    def __init__(self, timeline: list[Given], *, start: float, until: float) -> None:
        self.timeline = timeline
        self.seen = [Seen(event.data) for event in timeline]
        self.start = ns(start)
        self.log_until = ns(until)
        self.until = self.log_until
        self.released: Released | None = None
        self._stages = 0

    def firings(self, spec: Spec) -> list[Happened]:
        """Return the firings, in the order in which they are recorded."""
        self._stages = 0
        self.until, self.released = self.log_until, None
        by_event_time = [part for part in parts_of(spec) if isinstance(part, EventTime)]
        if by_event_time:
            arriving = [
                hit.events[0] for part in by_event_time for hit in self.happened(part.source)
            ]
            self.released = released(sorted(set(arriving)), self.seen, by_event_time[0])
            watermark = self.released.watermark
            self.until = -1 if watermark is None else watermark
        return self.happened(spec)

    def arrivals(self, hits: list[Happened]) -> list[int]:
        """Return the events with which *hits* happen, where events wait for a watermark."""
        assert self.released is not None
        numbers = [hit.place[2] if hit.place[1] == 1 else 0 for hit in hits]
        return [
            self.released.arrival(hit.at, number) for hit, number in zip(hits, numbers, strict=True)
        ]

    def happened(self, spec: Spec, *, is_rekeyed: bool = False) -> list[Happened]:
        """Return all that *spec* makes of the timeline, in order of place.

        *is_rekeyed*: a `.key` follows, so the keys that it has so far do not count.
        """
        if isinstance(spec, On):
            made = self.events(spec.subject)
        elif isinstance(spec, Where):
            made = [
                hit
                for hit in self.happened(spec.source, is_rekeyed=is_rekeyed)
                if self.is_met(spec, hit)
            ]
        elif isinstance(spec, Key):
            made = self.keyed(spec, self.happened(spec.source, is_rekeyed=True))
        elif isinstance(spec, EventTime):
            made = self.by_event_time(self.happened(spec.source))
        elif isinstance(spec, AnyOf):
            branches = self.branches(spec)
            if is_rekeyed:
                branches = {n: [x._replace(key=None) for x in xs] for n, xs in branches.items()}
            made = joins.merged(branches)
        elif isinstance(spec, Aggregate):
            made = [self.aggregated(spec, hit) for hit in self.happened(spec.source)]
        elif isinstance(spec, Hold):
            made = self.held(spec)
        elif isinstance(spec, Silent):
            made = self.silences(spec)
        elif isinstance(spec, AllOf | Absent):
            made = self.joined(spec)
        elif isinstance(spec, Sequence):
            made = self.sequences(spec)
        elif isinstance(spec, Every):
            made = self.beats(spec)
        else:
            source = self.happened(spec.source)
            made = self.by_key(spec, source, self.meaning(spec))
        happens = [x for x in made if x.place[1] == 1 or x.at <= self.until]
        return sorted(happens, key=lambda x: x.place)

    def meaning(self, spec: Any) -> Meaning:
        """Return what an operator makes of the hits of one key."""
        plain: dict[type, Any] = {
            Count: rates.counted,
            Crosses: rates.crossing,
            Dedupe: rates.deduped,
            Throttle: rates.throttled,
            RateLimit: rates.rate_limited,
            Debounce: windows.debounced,
            Session: windows.sessions,
            Windows: windows.windowed,
        }
        if isinstance(spec, Batch):
            return lambda hits, stage: windows.batched(hits, spec, stage, self.timeline)
        return lambda hits, stage: list(plain[type(spec)](hits, spec, stage))

    # ------------------------------------------------------------ chains

    def events(self, subject: str) -> list[Happened]:
        """The events on a subject."""
        return [
            Happened(ns(event.at), (ns(event.at), 1, number), None, (number,), number)
            for number, event in enumerate(self.timeline)
            if matches(subject, event.subject)
        ]

    def show(self, hit: Happened) -> Seen:
        """Conditions and keys see the last event of what they follow."""
        assert hit.last is not None, "conditions cannot follow what may have no event"
        return Seen(self.timeline[hit.last].data, hit.value)

    def is_met(self, spec: Where, hit: Happened) -> bool:
        """Whether the condition holds; one that raises does not (L4)."""
        try:
            return bool(spec.condition(self.show(hit)))
        except ZeroDivisionError:
            return False

    def keyed(self, spec: Key, hits: list[Happened]) -> list[Happened]:
        """The hits that have a key, with it."""
        made = [hit._replace(key=spec.key(self.show(hit))) for hit in hits]
        return [hit for hit in made if hit.key is not None]

    def by_event_time(self, hits: list[Happened]) -> list[Happened]:
        """The same at their own times, of those that are let go."""
        assert self.released is not None
        made = []
        for hit in hits:
            (number,) = hit.events
            time = self.released.times.get(number)
            if time is not None:
                made.append(hit._replace(at=time, place=(time, 1, number)))
        return made

    def aggregated(self, spec: Aggregate, hit: Happened) -> Happened:
        """A hit that says what its events come to."""
        return hit._replace(value=spec.fold([self.seen[event] for event in hit.events]))

    # ------------------------------------------------------------ automata

    def by_key(
        self, spec: Spec, source: list[Any], meaning: Callable[[list[Any], Stage], list[Happened]]
    ) -> list[Happened]:
        """Independent automata for each key."""
        stage = self.stage(spec, source)
        turns = {(x.place, x.key): turn for turn, x in reversed(list(enumerate(source)))}
        made = [
            one
            for key in dict.fromkeys(x.key for x in source)
            for one in meaning([x for x in source if x.key == key], stage)
        ]
        return sorted(made, key=lambda one: (one.place, turns.get((one.place, one.key), 0)))

    def stage(self, spec: Spec, source: list[Any]) -> Stage:
        """Within a step an operator arms its timers after what feeds it.

        A join waits for all that its branches make of an event, so what is behind it comes
        after all that is not.
        """
        return Stage((joins_in(spec), self._next_stage()), source, self.until, self.show)

    def held(self, spec: Hold) -> list[Happened]:
        """The conditions nearest before it are not filters: it sees the others too."""
        keys: list[Key] = []
        conditions: list[Where] = []
        source = spec.source
        while isinstance(source, Key):
            keys.insert(0, source)
            source = source.source
        while isinstance(source, Where):
            conditions.insert(0, source)
            source = source.source
        assert conditions, "hold needs a condition"
        observed = self.happened(source, is_rekeyed=bool(keys))
        for key in keys:
            observed = self.keyed(key, observed)

        def is_true(hit: Happened) -> bool:
            return all(self.is_met(condition, hit) for condition in conditions)

        return self.by_key(
            spec,
            observed,
            lambda hits, stage: rates.held([(x, is_true(x)) for x in hits], spec, stage),
        )

    def silences(self, spec: Silent) -> list[Happened]:
        """At the activation outer watchdogs are armed before inner ones."""
        first = self._next_stage()
        source = self.happened(spec.source)
        stage = self.stage(spec, source)
        made: list[Happened] = []
        for key in dict.fromkeys((*spec.expect, *(x.key for x in source))):
            hits = [x for x in source if x.key == key]
            activation: Place | None = None
            if key in spec.expect:
                activation = (self.start, -1, first, spec.expect.index(key))
            made += joins.silences(hits, key, spec, stage, activation)
        return made

    def branches(self, spec: Spec) -> Branches:
        """What the branches make of it all; those that wait for joins are met last."""
        sources = sources_of(spec)
        made = {number: self.happened(source) for number, source in enumerate(sources)}
        return {n: made[n] for n in sorted(made, key=lambda n: joins_in(sources[n]))}

    def joined(self, spec: AllOf | Absent) -> list[Happened]:
        """Operators that take one step for all that their branches make of one event."""
        steps = stepwise(self.branches(spec))
        if isinstance(spec, AllOf):
            return self.by_key(spec, steps, lambda own, stage: joins.all_present(own, spec, stage))
        return self.by_key(spec, steps, lambda own, stage: joins.absences(own, spec, stage))

    def sequences(self, spec: Sequence) -> list[Happened]:
        """The steps of each key, among all that is in its input stream."""
        steps = self.branches(spec)
        is_strict = spec.contiguity == "strict" or any(
            part.is_not and part.contiguity == "strict" for part in spec.parts
        )
        stream: list[Happened] = []
        if is_strict:
            stream = [x for part in spec.parts for x in self.happened(unconditioned(part.source))]
        inputs = {(x.place, x.key) for x in stream}
        # The stream is one more branch, of which nothing but the place is asked.
        bare = [Happened(x.at, x.place, x.key, (), None) for x in dict.fromkeys(stream)]
        history = stepwise({**steps, len(steps): list(dict.fromkeys(bare))})
        return self.by_key(
            spec,
            history,
            lambda own, stage: History(
                [Entry(step, (step.place, step.key) in inputs) for step in own],
                spec,
                stage,
                self.seen,
            ).firings(),
        )

    def beats(self, spec: Every) -> list[Happened]:
        """A grid that begins at the activation."""
        stage = (0, self._next_stage())
        place: Place = (self.start, -1, stage[1], 0)
        made = []
        period = ns(spec.period)
        for due in range(self.start + period, self.until + 1, period):
            place = (due, 0, place, stage, 0)
            made.append(Happened(due, place, None, (), None))
        return made

    def _next_stage(self) -> int:
        self._stages += 1
        return self._stages


def joins_in(spec: Spec) -> int:
    """Return how many joins, one behind the other, an event may have to pass."""
    is_join = isinstance(spec, AnyOf | AllOf | Absent | Sequence)
    return is_join + max((joins_in(source) for source in sources_of(spec)), default=0)


def unconditioned(spec: Spec) -> Spec:
    """Return a chain without its conditions: the input stream of a step."""
    if isinstance(spec, On):
        return spec
    if isinstance(spec, Where):
        return unconditioned(spec.source)
    if isinstance(spec, AnyOf):
        return AnyOf(tuple(unconditioned(branch) for branch in spec.branches))
    assert isinstance(spec, Key | EventTime), "the input stream is that of events"
    return spec._replace(source=unconditioned(spec.source))
