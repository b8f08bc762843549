"""The engine and the reference model over the same timeline, and what each made of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import reject
from tests.reference.happened import Given, Happened, Unsettled, ns
from tests.reference.model import Model
from tests.reference.patterns import pattern_of
from tests.reference.shell import Shell, rules
from tests.reference.spec import EventTime, Spec, parts_of

from headrace.engine import record as r
from headrace.triggers.ruleset import Rule

START, TAIL = 0, 15


class Made(NamedTuple):
    """A firing, of either."""

    at: int
    key: Any
    events: tuple[int, ...]
    """Numbers of events of the timeline."""
    branches: tuple[int, ...] | None
    reason: str | None
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    """Those that took something, by name."""
    value: Any
    by_timer: bool
    """In log time."""


Groups = list[list[Made]]


def end_of(timeline: list[Given]) -> float:
    return TAIL + (timeline[-1].at if timeline else START)


def goes_by_event_time(spec: Spec) -> bool:
    return any(isinstance(part, EventTime) for part in parts_of(spec))


# ---------------------------------------------------------------- what the model says


def expected(spec: Spec, timeline: list[Given]) -> Groups:
    """What the model says, in groups of one place."""
    groups: dict[Any, list[Made]] = {}
    try:
        hits = Model(timeline, start=START, until=end_of(timeline)).firings(spec)
    except Unsettled:
        reject()
    is_told = not goes_by_event_time(spec)
    for hit in hits:
        by_timer = is_told and hit.place[1] == 0
        groups.setdefault(hit.place, []).append(made_of(hit, by_timer=by_timer))
    return list(groups.values())


def made_of(hit: Happened, *, by_timer: bool) -> Made:
    steps = tuple(sorted((name, events) for name, events in hit.steps or () if events))
    return Made(
        hit.at,
        hit.key,
        hit.events,
        hit.branches,
        hit.reason,
        steps,
        hit.value,
        by_timer,
    )


# ---------------------------------------------------------------- what the engine made


def actual(shell: Shell, *, rule: str = "r1", shift: float = 0) -> Groups:
    """What the shell stored for one rule, in groups of one unit."""
    number_by_sequence: dict[int, int] = {}
    groups: Groups = []
    sequence = 0
    for unit in shell.units:
        made: list[Made] = []
        at_ns = 0
        for stored in unit:
            sequence += 1
            record = r.decode(stored)
            if isinstance(record, r.EventStored):
                number_by_sequence[sequence] = len(number_by_sequence)
                at_ns = record.at_ns
            elif isinstance(record, r.RuleFired) and record.rule == rule:
                made.append(read(record, at_ns - ns(shift), ns(shift), number_by_sequence))
        if made:
            groups.append(made)
    return groups


def read(fired: r.RuleFired, at_ns: int, shift_ns: int, numbers: dict[int, int]) -> Made:
    """Return a stored firing; *at_ns* is the time of the event in its unit."""
    details = fired.details or r.Details()
    at = at_ns if fired.due_ns is None else fired.due_ns - shift_ns
    if details.at_ns is not None:
        at = details.at_ns - shift_ns
    steps = tuple(
        (name, tuple(numbers[event] for event in events))
        for name, events in sorted((details.steps or {}).items())
        if events
    )
    branches = None if fired.branches is None else tuple(fired.branches)
    events = tuple(numbers[event] for event in fired.events)
    by_timer = fired.due_ns is not None and details.at_ns is None
    return Made(at, fired.key, events, branches, details.reason, steps, details.value, by_timer)


def arrivals(shell: Shell) -> list[int]:
    """Return for each firing the event that was the last to come before it."""
    event, made = -1, []
    for stored in shell.records:
        record = r.decode(stored)
        event += isinstance(record, r.EventStored)
        made += [event] if isinstance(record, r.RuleFired) else []
    return made


def expected_arrivals(spec: Spec, timeline: list[Given]) -> list[int]:
    """The same as the model has it, for a rule that goes by event time."""
    model = Model(timeline, start=START, until=end_of(timeline))
    return model.arrivals(model.firings(spec))


def in_places(made: Groups, model: Groups) -> Groups:
    """Return the engine's firings in groups as long as the model's.

    One event lets several others go where a rule goes by event time, all in its unit.
    """
    flat = [one for group in made for one in group]
    groups: Groups = []
    for group in model:
        groups.append(flat[: len(group)])
        flat = flat[len(group) :]
    return [*groups, flat] if flat else groups


def without_order_of_keys(groups: Groups) -> Groups:
    """Return *groups* by key: among keys of one place, and timers of one moment, is no order."""
    merged: Groups = []
    for group in groups:
        of_timers = [one.at for one in group if one.by_timer]
        if (
            merged
            and of_timers
            and [one.at for one in merged[-1] if one.by_timer][:1] == [of_timers[0]]
        ):
            merged[-1] = [*merged[-1], *group]
        else:
            merged.append(group)
    return [sorted(group, key=lambda one: repr(one.key)) for group in merged]


def assert_same(shell: Shell, spec: Spec, timeline: list[Given]) -> None:
    """Compare the engine with the model, firing by firing."""
    model = expected(spec, timeline)
    made = actual(shell)
    if goes_by_event_time(spec):
        assert arrivals(shell) == expected_arrivals(spec, timeline)
        made = in_places(made, model)
    assert without_order_of_keys(made) == without_order_of_keys(model)


# ---------------------------------------------------------------- letting it happen


def declared(*specs: Spec) -> Shell:
    """A shell with rules ``r1``, ``r2`` …."""
    named = [
        Rule(f"r{number}", pattern_of(spec), "parallel", "1")
        for number, spec in enumerate(specs, 1)
    ]
    return Shell(rules(*named))


def play(
    shell: Shell,
    timeline: list[Given],
    *,
    shift: float = 0,
    end: float | None = None,
    restarts: frozenset[int] = frozenset(),
) -> Shell:
    """Let *timeline* happen; crash and restart before the events numbered in *restarts*."""
    for number, event in enumerate(timeline):
        if number in restarts:
            shell = shell.crashed().start(shell.at_ns)
        shell.emit(ns(event.at + shift), event.subject, event.data)
    shell.tick(ns((end_of(timeline) if end is None else end) + shift))
    return shell


def play_punctually(shell: Shell, timeline: list[Given], *, end: float) -> Shell:
    """As `play`, with a clock that fires each timer when it is due, not with the next event."""
    for event in timeline:
        shell = punctual(shell, ns(event.at))
        shell.emit(ns(event.at), event.subject, event.data)
    return punctual(shell, ns(end))


def punctual(shell: Shell, until_ns: int) -> Shell:
    """Let time pass, from one timer to the next."""
    while (first := shell.kernel.state.timers.first()) is not None and first[0] <= until_ns:
        shell.tick(first[0])
    shell.tick(until_ns)
    return shell
