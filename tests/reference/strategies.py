"""Random patterns: any operator behind any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import strategies as st
from tests.reference.functions import (
    by_parity,
    by_three,
    divides_six,
    is_even,
    is_much,
    is_small,
    known_number,
    not_less,
    number,
    other_than_first,
    time_of,
    total,
)
from tests.reference.spec import (
    Absent,
    Aggregate,
    AllOf,
    Anchor,
    AnyOf,
    Batch,
    Contiguity,
    Count,
    Crosses,
    Debounce,
    Dedupe,
    EventTime,
    Every,
    Hold,
    Key,
    Late,
    On,
    Part,
    RateLimit,
    Sequence,
    Session,
    Silent,
    Spec,
    Throttle,
    Where,
    Windows,
    has_one_event,
    may_lack_event,
)
from tests.reference.timelines import SUBJECTS, stamped_timelines, timelines

WILDCARDS = (*SUBJECTS, "a.*", ">", ">")

# ---------------------------------------------------------------- chains of filters

CONDITIONS = st.sampled_from([is_even, is_small, divides_six])
KEYS = st.sampled_from([by_three, by_parity])
SECONDS = st.integers(1, 7)


@cache
@st.composite
def chains(draw: st.DrawFn) -> Spec:
    """``on(…)`` with up to two filters and keys."""
    spec: Spec = On(draw(st.sampled_from(WILDCARDS)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        spec = Where(spec, draw(CONDITIONS)) if draw(st.booleans()) else Key(spec, draw(KEYS))
    return spec


@cache
@st.composite
def patterns(draw: st.DrawFn, depth: int, *, eventful: bool = False) -> Spec:
    """Up to *depth* operators over chains; *eventful*: each hit must have an event."""
    if depth == 0:
        return draw(chains())
    name = draw(st.sampled_from(["chain", *OPERATORS]))
    spec: Spec = draw(chains() if name == "chain" else OPERATORS[name](depth))
    return draw(chains()) if eventful and may_lack_event(spec) else spec


# ---------------------------------------------------------------- one operator over anything

Made = st.SearchStrategy[Spec]


@cache
def over(depth: int, *, eventful: bool = False) -> Made:
    return patterns(depth - 1, eventful=eventful)


@cache
def wheres(depth: int) -> Made:
    conditions = st.sampled_from([is_even, is_small, divides_six, is_much])
    return st.builds(Where, over(depth, eventful=True), conditions)


@cache
def keys(depth: int) -> Made:
    return st.builds(Key, over(depth, eventful=True), KEYS)


@cache
def counts(depth: int) -> Made:
    edge = st.builds(Count, over(depth), st.integers(1, 4), SECONDS, st.just("edge"))
    modes = st.sampled_from(["reset", "every"])
    return edge | st.builds(Count, over(depth), st.integers(1, 4), st.none() | SECONDS, modes)


@cache
def crossings(depth: int) -> Made:
    source = over(depth, eventful=True)
    value, initial = st.sampled_from([number, known_number]), st.booleans()
    level, width = st.integers(1, 4), st.integers(0, 2)
    return st.builds(Crosses, source, value, level, st.none(), width, initial) | st.builds(
        Crosses, source, value, st.none(), level, width, initial
    )


@cache
@st.composite
def holds(draw: st.DrawFn, depth: int) -> Spec:
    spec: Spec = draw(over(depth, eventful=True))
    for _ in range(draw(st.integers(1, 2))):
        spec = Where(spec, draw(CONDITIONS))
    if draw(st.booleans()):
        spec = Key(spec, draw(KEYS))
    return Hold(spec, draw(SECONDS))


EDGES = st.sampled_from(["leading", "trailing", "both"])


@cache
def debounces(depth: int) -> Made:
    return st.builds(Debounce, over(depth), st.integers(1, 4), st.none() | SECONDS, EDGES)


@cache
def throttles(depth: int) -> Made:
    return st.builds(Throttle, over(depth), SECONDS, EDGES)


@cache
def rate_limits(depth: int) -> Made:
    few = st.integers(1, 3)
    overflows = st.sampled_from(["queue", "queue", "drop", "latest"])
    return st.builds(RateLimit, over(depth), few, SECONDS, st.none() | few, overflows)


@cache
def dedupes(depth: int) -> Made:
    by = st.sampled_from([by_parity, number, None])
    return st.builds(Dedupe, over(depth, eventful=True), by, SECONDS, st.booleans())


@cache
@st.composite
def batches(draw: st.DrawFn, depth: int) -> Spec:
    n = draw(st.none() | st.integers(1, 4))
    within = draw(st.none() | SECONDS)
    bytes_max = draw(st.none() | st.integers(1, 8))
    if n is None and within is None and bytes_max is None:
        n = 2
    return Batch(draw(over(depth)), n, within, bytes_max)


@cache
@st.composite
def tumblings(draw: st.DrawFn, depth: int) -> Spec:
    size, emits = draw(SECONDS), draw(st.sampled_from([False, False, True]))
    return Windows(draw(over(depth)), size, size, emit_empty=emits)


@cache
@st.composite
def hoppings(draw: st.DrawFn, depth: int) -> Spec:
    size, every = draw(SECONDS), draw(st.integers(2, 8))
    emits = draw(st.sampled_from([False, False, True]))
    return Windows(draw(over(depth)), size, every, emit_empty=emits)


@cache
def sessions(depth: int) -> Made:
    return st.builds(Session, over(depth), st.integers(1, 4), st.none() | SECONDS)


@cache
@st.composite
def aggregates(draw: st.DrawFn, depth: int) -> Spec:
    source = draw(over(depth))
    if has_one_event(source):
        source = Count(source, draw(st.integers(1, 3)), None, "reset")
    return Aggregate(source, draw(st.sampled_from([total, len])))


@cache
def silences(depth: int) -> Made:
    expect = st.sampled_from([(), (), (1,), ("odd", "even"), (1, 2)])
    return st.builds(Silent, over(depth), SECONDS, st.sampled_from(["once", "every"]), expect)


# ---------------------------------------------------------------- several branches


@cache
def any_ofs(depth: int) -> Made:
    branch = over(depth) | over(depth) | st.builds(Every, SECONDS)
    branches = st.lists(branch, min_size=1, max_size=3).map(tuple)
    return st.builds(AnyOf, branches)


@cache
def all_ofs(depth: int) -> Made:
    branches = st.lists(over(depth), min_size=2, max_size=3).map(tuple)
    keeps = st.sampled_from(["latest", "first", "all"])
    return st.builds(AllOf, branches, st.none() | SECONDS, keeps)


@cache
def absences(depth: int) -> Made:
    rearms = st.sampled_from(["ignore", "restart"])
    return st.builds(Absent, over(depth), over(depth), SECONDS, rearms)


CONTIGUITIES: st.SearchStrategy[Contiguity] = st.sampled_from(["relaxed", "relaxed", "strict"])
ANCHORS: st.SearchStrategy[Anchor] = st.sampled_from(["first", "last", "every"])


@cache
@st.composite
def sequences(draw: st.DrawFn, depth: int) -> Spec:
    """Steps of any kind; negations and strict contiguity ask for chains."""
    contiguity = draw(CONTIGUITIES)
    steps = draw(st.integers(2, 4))
    negated = draw(st.sampled_from([None, None, *range(1, steps + 1)]))
    is_between = negated is not None and negated < steps
    if contiguity == "strict" and is_between:
        negated, is_between = None, False  # none in between, where nothing may be in between
    forbids = draw(CONTIGUITIES) if is_between else "relaxed"
    within = draw(st.none() | st.integers(1, 12))
    if negated == steps and within is None:
        within = 9
    only_chains = "strict" in (contiguity, forbids)  # the input stream is that of events
    parts: list[Part] = []
    for place in range(steps):
        if place == negated:
            parts.append(draw(negations(forbids)))
        # One without a name is named after its place, at which negations count.
        number = place + 1 + (negated is not None and negated <= place)
        name = draw(st.sampled_from([None, f"s{number}", "s1" if place == 0 else f"x{place}"]))
        is_chain = only_chains or draw(st.booleans())
        condition = draw(TAKEN) if is_chain and place > 0 else None
        anything = over(depth, eventful=place == 0)  # conditions look at what the first took
        source = draw(chains() if only_chains else CHAINS if is_chain else anything)
        parts.append(Part(source, name, condition))
    if negated == steps:
        parts.append(draw(negations("relaxed")))
    on_timeout = within is not None and draw(st.booleans())
    return Sequence(tuple(parts), within, contiguity, draw(ANCHORS), on_timeout)


PAIRS: st.SearchStrategy[Spec] = st.builds(AnyOf, st.tuples(chains(), chains()))
CHAINS = chains() | chains() | chains() | PAIRS
TAKEN = st.sampled_from([None, None, not_less, other_than_first])


@cache
def negations(contiguity: Contiguity) -> st.SearchStrategy[Part]:
    conditions = st.sampled_from([None, None, not_less])
    return st.builds(
        Part, chains(), st.none(), conditions, st.just(value=True), st.just(contiguity)
    )


def plain_sequences() -> st.SearchStrategy[Any]:
    """Sequences of events, with nothing before or behind."""
    return sequences(1)


OPERATORS: dict[str, Callable[[int], st.SearchStrategy[Any]]] = {
    "where": wheres,
    "key": keys,
    "count": counts,
    "crosses": crossings,
    "hold": holds,
    "debounce": debounces,
    "throttle": throttles,
    "rate_limit": rate_limits,
    "dedupe": dedupes,
    "batch": batches,
    "tumbling": tumblings,
    "hopping": hoppings,
    "session": sessions,
    "aggregate": aggregates,
    "silent": silences,
    "any_of": any_ofs,
    "all_of": all_ofs,
    "absent": absences,
    "sequence": sequences,
}


@cache
@st.composite
def with_operator(draw: st.DrawFn, name: str) -> Spec:
    """One operator over anything, and now and then others over it."""
    spec: Spec = draw(OPERATORS[name](draw(st.sampled_from([1, 1, 2]))))
    outer = draw(st.sampled_from([None, None, *OUTER]))
    if outer is None:
        return spec
    made: Spec = draw(OPERATORS[outer](1))
    return replaced_chain(made, spec)


OUTER = sorted(OPERATORS)


def replaced_chain(spec: Any, inner: Spec) -> Spec:
    """Put *inner* in the place of the first chain in *spec*, where it may be there."""
    if isinstance(spec, Sequence):
        first = spec.parts[0]
        needs_chain = spec.contiguity == "strict" or any(
            part.is_not and part.contiguity == "strict" for part in spec.parts
        )
        if needs_chain or (any(part.condition for part in spec.parts) and may_lack_event(inner)):
            return spec
        return spec._replace(parts=(first._replace(source=inner), *spec.parts[1:]))
    if isinstance(spec, AnyOf | AllOf):
        return spec._replace(branches=(inner, *spec.branches[1:]))
    if isinstance(spec, Absent):
        return spec._replace(after=inner)
    if isinstance(spec, Where | Key | Crosses | Dedupe | Hold) and may_lack_event(inner):
        return inner
    if isinstance(spec, Aggregate) and has_one_event(inner):
        return spec
    if isinstance(spec, Hold):
        where = spec.source
        if isinstance(where, Key):
            return spec._replace(source=where._replace(source=Where(inner, is_even)))
        return spec._replace(source=Where(inner, is_even))
    return spec._replace(source=inner)  # type: ignore[no-any-return]


def family(*names: str) -> st.SearchStrategy[Any]:
    """Patterns of which each has at least one of these operators."""
    return st.sampled_from(names).flatmap(with_operator)


ANY = family(*OPERATORS)
"""Any pattern."""


# ---------------------------------------------------------------- event time


def changed(spec: Any, change: Callable[[Any], Any]) -> Any:
    """Return *spec* with each of its operators changed, from the inside out."""
    if isinstance(spec, AnyOf | AllOf):
        spec = spec._replace(branches=tuple(changed(branch, change) for branch in spec.branches))
    elif isinstance(spec, Absent):
        awaited, after = changed(spec.awaited, change), changed(spec.after, change)
        spec = spec._replace(awaited=awaited, after=after)
    elif isinstance(spec, Sequence):
        parts = [part._replace(source=changed(part.source, change)) for part in spec.parts]
        spec = spec._replace(parts=tuple(parts))
    elif not isinstance(spec, On | Every):
        spec = spec._replace(source=changed(spec.source, change))
    return change(spec)


def by_event_time(spec: Spec, lateness: float, late: Late) -> Spec:
    """Return *spec* with all its events by event time."""

    def change(part: Any) -> Any:
        if isinstance(part, On):
            return EventTime(part, time_of, lateness, late)
        if isinstance(part, Silent):
            return part._replace(expect=())  # when its rule begins in event time is not said
        if isinstance(part, Every):  # has no event time
            return Count(EventTime(On("b"), time_of, lateness, late), 1, None, "reset")
        return part

    made: Spec = changed(spec, change)
    return made


BY_EVENT_TIME = st.builds(
    by_event_time, ANY, st.sampled_from([0, 1, 3, 5]), st.sampled_from(["drop", "as_now"])
)
"""Any pattern of which the events go by event time."""


def by_parity_alone(spec: Spec) -> Spec:
    """Return *spec* with one key for all that it does."""

    def change(part: Any) -> Any:
        if isinstance(part, On):
            return Key(part, by_parity)
        if isinstance(part, Key):
            return part.source
        if isinstance(part, Silent) and part.expect:
            return part._replace(expect=("odd", "even"))
        if isinstance(part, Every):  # has no key
            return Count(Key(On("b"), by_parity), 1, None, "reset")
        return part

    made: Spec = changed(spec, change)
    return made


KEYED = ANY.map(by_parity_alone)
"""Any pattern of which all automata have one and the same key."""


CASES = st.tuples(ANY, timelines()) | st.tuples(BY_EVENT_TIME, stamped_timelines())
"""A pattern and a timeline for it, by log time or by event time."""
