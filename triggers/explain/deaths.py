"""Which partial matches an event or a timer has ended without a firing, and of what they died."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from headrace.triggers import nodes as n
from headrace.triggers.absent import AFTER, Absent
from headrace.triggers.all_of import AllOf
from headrace.triggers.count import Count, PlainCount
from headrace.triggers.explain.notes import Note
from headrace.triggers.explain.operators import own_text, step_text
from headrace.triggers.explain.partials import (
    Open,
    kills,
    open_partial,
    plain_partials,
    until_of,
)
from headrace.triggers.level import Hold
from headrace.triggers.nfa import START, Partial, nodes_of
from headrace.triggers.nodes_joined import AllNode, SequenceNode
from headrace.triggers.pace import Throttle
from headrace.triggers.rate_limit import RateLimit
from headrace.triggers.sequence import Partials, SequenceStage
from headrace.triggers.sequence_plain import PlainPartial, PlainSequence


class Death(Struct, frozen=True):
    """A partial match that has ended without a firing."""

    key: Any
    operator: str
    events: list[int]
    """What it had taken, oldest first."""
    of: str
    """``expired``, ``negation``, ``evicted``, ``dropped``, ``replaced``, ``strict`` …"""
    text: str
    at_ns: int
    by: int
    """Sequence of the record that ended it, or that came next."""
    waited_for: str = ""
    names: tuple[str, ...] = ()
    """The steps that it waited for."""
    until_ns: int | None = None
    """Until when it would have waited."""


def deaths_of(note: Note, sequence: int) -> Iterator[Death]:
    """Yield what *note*, made in the step of the record *sequence*, says has ended."""
    for evicted in note.evicted:
        if evicted.what == "key":
            text = "evicted: more keys than keys_max have state"
            yield _death(note, [], "evicted", text, sequence, key=evicted.key)
    if note.before is None:
        return
    stage = note.stage
    if isinstance(stage, PlainSequence):
        yield from _plain(note, sequence)
    elif isinstance(stage, SequenceStage):
        yield from _any_sequence(note, sequence)
    elif isinstance(stage, (PlainCount, Count)):
        yield from _count(note, sequence)
    elif isinstance(stage, AllOf):
        yield from _all_of(note, sequence)
    elif isinstance(stage, Absent):
        if any(branch != AFTER for branch in note.met):
            text = f"killed by #{sequence}, which must not come"
            yield _death(note, [*note.before.events], "negation", text, sequence)
    elif isinstance(stage, Hold):
        if note.is_miss and note.before.first is not None:
            events = [*note.before.first.events]
            text = f"ended by #{sequence}, for which the condition is false"
            yield _death(note, events, "false", text, sequence)
    elif isinstance(stage, Throttle):
        if note.before.last is not None and note.hit is not None:
            text = f"suppressed: #{sequence} took its place as the last of the period"
            yield _death(note, [*note.before.last.events], "suppressed", text, sequence)
    elif isinstance(stage, RateLimit):
        yield from _rate_limit(note, sequence)


def _death(
    note: Note,
    events: list[int],
    of: str,
    text: str,
    sequence: int,
    *,
    key: Any = None,
    was: Open | None = None,
) -> Death:
    return Death(
        note.key if key is None else key,
        own_text(note.node),
        events,
        of,
        text,
        note.at_ns,
        sequence,
        "" if was is None else was.waits_for,
        () if was is None else was.names,
        None if was is None else was.until_ns,
    )


def _count(note: Note, sequence: int) -> Iterator[Death]:
    node = note.node
    assert isinstance(node, n.CountNode), node
    _, _, gone, count, _ = note.before
    if count:
        within = n.seconds(node.within_ns)
        more = f" and {count - len(gone)} more" if count > len(gone) else ""
        text = f"expired: out of the window of {within} s when #{sequence} came{more}"
        yield _death(note, gone, "expired", text, sequence)
    if any(one.what == "event" for one in note.evicted):
        text = f"evicted: the window holds at most partials_max={node.partials_max}"
        yield _death(note, [], "evicted", text, sequence)


def _all_of(note: Note, sequence: int) -> Iterator[Death]:
    node = note.node
    assert isinstance(node, AllNode), node
    if node.within_ns is None:
        return
    after_ns = note.at_ns - node.within_ns
    for hits in note.before:
        gone = [event for at_ns, events in hits if at_ns <= after_ns for event in events]
        if gone:
            text = f"expired: more than {n.seconds(node.within_ns)} s before #{sequence}"
            yield _death(note, gone, "expired", text, sequence)


def _rate_limit(note: Note, sequence: int) -> Iterator[Death]:
    waiting, first, _ = note.before
    node = note.node
    assert isinstance(node, n.RateLimitNode), node
    if note.hit is None or not waiting:
        return
    if node.overflow == "latest":
        text = f"suppressed: #{sequence} took its place (overflow='latest')"
        yield _death(note, [*first], "suppressed", text, sequence)
    elif note.evicted:
        text = f"evicted: at most partials_max={node.partials_max} wait"
        yield _death(note, [*first], "evicted", text, sequence)


def _plain(note: Note, sequence: int) -> Iterator[Death]:
    node = note.node
    assert isinstance(node, SequenceNode), node
    before: list[PlainPartial] = note.before
    after: list[PlainPartial] = note.after or []
    handed_on = [hit.events for hit in note.passed]
    for partial in before:
        size = len(partial)
        if any(one[:size] == partial for one in after):
            continue
        events = [*partial[1:]]
        if any(set(events) <= set(one) for one in handed_on) and size == len(node.steps):
            continue
        (was,) = plain_partials(node, [partial])
        of, text = _end_of_plain(note, partial, sequence)
        yield _death(note, events, of, text, sequence, was=was)


def _end_of_plain(note: Note, partial: PlainPartial, sequence: int) -> tuple[str, str]:
    node = note.node
    assert isinstance(node, SequenceNode), node
    if node.within_ns is not None and partial[0] + node.within_ns <= note.at_ns:
        return "expired", f"expired: within={n.seconds(node.within_ns)} s were over"
    if any(one.what == "partial" for one in note.evicted):
        return "evicted", f"evicted: a key has at most partials_max={node.partials_max}"
    if note.passed:
        return "dropped", f"dropped: the match that #{sequence} completed goes past it"
    return "replaced", f"replaced: #{sequence} begins anew (anchor='last')"


def _any_sequence(note: Note, sequence: int) -> Iterator[Death]:
    stage, node, before = note.stage, note.node, note.before
    assert isinstance(node, SequenceNode), node
    assert isinstance(before, Partials), before
    if before is note.after:
        return
    left = [] if note.after is None else [*note.after.partials, *note.after.completed]
    alive = {id(one) for partial in left for one in nodes_of(partial.node)}
    handed_on = [set(hit.events) for hit in note.passed]
    for partial in before.partials:
        if partial is START or id(partial.node) in alive:
            continue
        was = open_partial(stage, node, partial)
        if any(set(was.events) <= events for events in handed_on):
            continue
        of, text = _end_of(note, partial, sequence)
        yield _death(note, was.events, of, text, sequence, was=was)


def _end_of(note: Note, partial: Partial, sequence: int) -> tuple[str, str]:
    """Say of what a partial match died."""
    stage, node = note.stage, note.node
    assert isinstance(node, SequenceNode), node
    until_ns = until_of(node, partial.node)
    if until_ns is not None and until_ns <= note.at_ns:
        start_ns, within_ns = partial.node.start_ns, node.within_ns
        if within_ns is not None and start_ns + within_ns <= note.at_ns:
            return "expired", f"expired: within={n.seconds(within_ns)} s were over"
        return "expired", f"expired: within_gap={n.seconds(node.within_gap_ns)} s were over"
    state = stage._nfa.states[partial.state]
    for branch in note.met:
        if node.steps[branch].is_not and kills(state, 1 << branch):
            return "negation", f"killed by #{sequence}: {step_text(node.steps[branch])}"
    if any(one.what == "partial" for one in note.evicted):
        return "evicted", f"evicted: a key has at most partials_max={node.partials_max}"
    if note.passed:
        return "dropped", f"dropped: the match that #{sequence} completed goes past it"
    if node.replaces_start and partial.node.length == 1 and 0 in note.met:
        return "replaced", f"replaced: #{sequence} begins anew (anchor='last')"
    if not state.moved(0):
        return "strict", f"ended by #{sequence}: the very next event had to fit"
    return "ended", f"ended by #{sequence}"
