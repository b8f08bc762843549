"""Which operator of a pattern each stage of an automaton is, and what that is called."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.triggers import nodes as n
from headrace.triggers.automaton import Automaton, StatefulStage
from headrace.triggers.nodes_clock import ScheduleNode
from headrace.triggers.nodes_joined import AbsentNode, AllNode, AnyNode, SequenceNode, StepNode
from headrace.triggers.reach import event_time_of, without_relative

CLOCK_PARTS = 3
"""The stages that `EventClock.parts` adds before all others."""


def stateful_nodes(node: n.Node) -> Iterator[n.Node]:
    """Yield the operators that keep state by key, in the order of `Automaton.stages`."""
    if isinstance(node, SequenceNode):
        yield node
        for step in node.steps:
            yield from stateful_nodes(without_relative(step.source))
    elif isinstance(node, (n.WhereNode, n.KeyNode, n.AggregateNode, n.EventTimeNode)):
        yield from stateful_nodes(node.source)
    elif isinstance(node, (AnyNode, AllNode, AbsentNode)):
        if not isinstance(node, AnyNode):
            yield node
        for source in node.sources:
            yield from stateful_nodes(source)
    elif not isinstance(node, (n.FilterNode, ScheduleNode)):
        yield node
        yield from stateful_nodes(node.sources[0])


def stages_of(automaton: Automaton, node: n.Node) -> list[tuple[n.Node, StatefulStage]]:
    """Return each stage of *automaton*, made of *node*, that keeps state, with its operator.

    The parts of the clock of event time are left out; see `clock_of`.
    """
    stages = automaton.stages
    if event_time_of(node) is not None:
        stages = stages[CLOCK_PARTS:]
    return list(zip(stateful_nodes(node), stages, strict=True))


def own_text(node: n.Node) -> str:
    """Return what users write for *node* alone: ``count(3, within=60)``, ``silent(…, for_=6)``."""
    text = node.text()
    if isinstance(node, n.Operator):
        before = node.source.text()
        if text.startswith(before):
            return text[len(before) :].removeprefix(".")
    for source in sorted((source.text() for source in node.sources), key=len, reverse=True):
        text = text.replace(source, "…", 1)
    return text


def step_text(step: StepNode) -> str:
    """Return what users write for a step of a sequence."""
    return step.text("relaxed")


def slot_texts(automaton: Automaton, node: n.Node) -> dict[int, str]:
    """Return what each stage with timers is called, by its slot."""
    names = {id(stage): own_text(inner) for inner, stage in stages_of(automaton, node)}
    texts: dict[int, str] = {}
    for slot, stage in enumerate(automaton._timed):
        is_schedule = isinstance(node, ScheduleNode) or _has_schedule(node)
        fallback = node.text() if is_schedule else "the watermark of event_time"
        texts[slot] = names.get(id(stage), fallback)
    return texts


def _has_schedule(node: n.Node) -> bool:
    return isinstance(node, ScheduleNode) or any(map(_has_schedule, node.sources))
