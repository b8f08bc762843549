"""The partial matches of a sequence, in words: what each has taken and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from headrace.engine.event import Event
from headrace.triggers.explain.operators import step_text
from headrace.triggers.nfa import IGNORED, START, Node, Partial, State, nodes_of
from headrace.triggers.nodes_joined import SequenceNode, StepNode
from headrace.triggers.sequence import Partials, SequenceStage
from headrace.triggers.sequence_plain import PlainPartial


class Open(Struct, frozen=True):
    """A partial match that is not complete."""

    has: str
    waits_for: str
    events: list[int]
    steps: dict[str, list[int]]
    since_ns: int
    until_ns: int | None
    names: tuple[str, ...]
    """The steps of which any would take it on."""


def plain_partials(node: SequenceNode, partials: Sequence[PlainPartial]) -> Iterator[Open]:
    """Yield the partial matches of a sequence of single steps, the oldest first."""
    steps = node.steps
    for since_ns, *events in partials:
        taken, wanted = steps[: len(events)], steps[len(events)]
        until_ns = None if node.within_ns is None else since_ns + node.within_ns
        by_step = {step.name: [event] for step, event in zip(taken, events, strict=True)}
        yield Open(
            f"{len(events)} of {len(steps)} steps",
            f"step {wanted.name!r}: {wanted.source.text()}",
            events,
            by_step,
            since_ns,
            until_ns,
            (wanted.name,),
        )


def sequence_partials(stage: SequenceStage, node: SequenceNode, state: Partials) -> Iterator[Open]:
    """Yield the partial matches of any sequence, the oldest first."""
    ordered = sorted(state.partials, key=lambda one: (one.node.start, one.node.length))
    for partial in ordered:
        if partial is not START:
            yield open_partial(stage, node, partial)
    for match in state.completed:
        steps = steps_of(match.node, node.steps)
        yield Open(
            "complete",
            "an older partial match, which goes first",
            [s for numbers in steps.values() for s in numbers],
            steps,
            match.node.start_ns,
            None,
            (),
        )


def open_partial(stage: SequenceStage, node: SequenceNode, partial: Partial) -> Open:
    """Return one partial match as people see it."""
    state = stage._nfa.states[partial.state]
    steps = steps_of(partial.node, node.steps)
    wanted, ending = wanted_by(state, node.steps)
    waits = [f"step {step.name!r}: {step.source.text()}" for step in wanted]
    if ending:
        waits.append("the end of its time")
    bad = ", ".join(step_text(step) for step in forbidden_in(state, node.steps))
    if not state.moved(0):
        bad = "any other event"
    return Open(
        f"{sum(map(len, steps.values()))} taken",
        " or ".join(waits) + (f"; {bad} kills it" if bad else ""),
        [s for numbers in steps.values() for s in numbers],
        steps,
        partial.node.start_ns,
        until_of(node, partial.node),
        tuple(step.name for step in wanted),
    )


def steps_of(last: Node, steps: Sequence[StepNode]) -> dict[str, list[int]]:
    """Return what a partial match has taken, by step, in order."""
    taken: dict[str, list[int]] = {}
    for node in reversed(list(nodes_of(last))):
        taken.setdefault(steps[node.step].name, []).extend(node.hit.events)
    return taken


def until_of(node: SequenceNode, last: Node) -> int | None:
    """Return when a partial match runs out of time."""
    ends: list[int] = []
    if node.within_ns is not None:
        ends.append(last.start_ns + node.within_ns)
    if node.within_gap_ns is not None:
        ends.append(last.hit.at_ns + node.within_gap_ns)
    return min(ends, default=None)


def wanted_by(state: State, steps: Sequence[StepNode]) -> tuple[list[StepNode], bool]:
    """Return the steps that take a partial on from *state*, and whether time completes it."""
    numbers = sorted({edge.step for edge in state.edges if edge.step != IGNORED})
    return [steps[number] for number in numbers], state.is_pending


def forbidden_in(state: State, steps: Sequence[StepNode]) -> list[StepNode]:
    """Return the negations that kill a partial in *state*."""
    return [step for number, step in enumerate(steps) if step.is_not and kills(state, 1 << number)]


def kills(state: State, bit: int) -> bool:
    """Say whether an event that meets nothing but the step of *bit* ends a partial in *state*."""
    return bool(state.care & bit) and not state.moved(bit)


def match_of(node: SequenceNode, last: Node) -> Mapping[str, list[Event[Any]]]:
    """Return what a partial match has taken, as conditions on it are given it."""
    events: dict[str, list[Event[Any]]] = {step.name: [] for step in node.steps if not step.is_not}
    for taken in reversed(list(nodes_of(last))):
        events[node.steps[taken.step].name] += [seen.event for seen in taken.hit.seen]
    return events


def events_of(last: Node) -> list[int]:
    """Return the events that a partial match has taken, in order."""
    return [event for taken in reversed(list(nodes_of(last))) for event in taken.hit.events]
