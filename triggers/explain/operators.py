"""Which operator of a pattern each stage of an automaton is, and what that is called."""

from __future__ import annotations

from msgspec import Struct

from headrace.triggers import nodes as n
from headrace.triggers.automaton import Automaton, StatefulStage
from headrace.triggers.nodes_clock import ScheduleNode
from headrace.triggers.nodes_joined import AnyNode, SequenceNode, StepNode
from headrace.triggers.reach import event_time_of, without_relative

CLOCK_PARTS = 3
"""The stages that `EventClock.parts` adds before all others."""


class Chains(Struct):
    """What begins a chain of ``.where``, ``.key`` and ``.aggregate``, with that chain."""

    stateful: list[tuple[n.Node, list[n.Node]]] = []
    """The operators that keep state by key, in the order of `Automaton.stages`."""
    any_of: list[tuple[n.Node, list[n.Node]]] = []
    """In the order of `Automaton.joins`."""
    event_time: list[tuple[n.Node, list[n.Node]]] = []
    """In the order of the clock's gates."""


def behind(node: n.Node) -> Chains:
    """Return what stands behind each operator of a pattern, in the order of its stages."""
    chains = Chains([], [], [])
    _add(node, [], chains)
    return chains


def _add(node: n.Node, after: list[n.Node], chains: Chains) -> None:
    if isinstance(node, (n.WhereNode, n.KeyNode, n.AggregateNode)):
        _add(node.source, [node, *after], chains)
    elif isinstance(node, n.EventTimeNode):
        chains.event_time.append((node, after))
    elif isinstance(node, AnyNode):
        for source in node.branches:
            _add(source, [], chains)
        chains.any_of.append((node, after))
    elif not isinstance(node, (n.FilterNode, ScheduleNode)):
        chains.stateful.append((node, after))
        sources = node.sources
        if isinstance(node, SequenceNode):
            sources = tuple(without_relative(step.source) for step in node.steps)
        for source in sources:
            _add(source, [], chains)


def stages_of(automaton: Automaton, node: n.Node) -> list[tuple[n.Node, StatefulStage]]:
    """Return each stage of *automaton*, made of *node*, that keeps state, with its operator.

    The parts of the clock of event time are left out; see `clock_of`.
    """
    stages = automaton.stages
    if event_time_of(node) is not None:
        stages = stages[CLOCK_PARTS:]
    nodes = [inner for inner, _ in behind(node).stateful]
    return list(zip(nodes, stages, strict=True))


def is_inside(inner: n.Node, outer: n.Node) -> bool:
    """Say whether *inner* is *outer* or stands somewhere before it."""
    return inner is outer or any(is_inside(inner, source) for source in outer.sources)


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
