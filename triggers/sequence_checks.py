"""What cannot be a sequence: checked when it is written, and said with place and reason."""

from __future__ import annotations

from typing import Final

from headrace.triggers import nodes as n
from headrace.triggers.nfa_compile import compile_sequence
from headrace.triggers.nodes_joined import GroupNode, SequenceNode, StepNode

STEPS_MAX: Final = 256
STATES_MAX: Final = 10_000
"""States of one automaton: each turn of a bounded loop is one."""

Parts = tuple[StepNode | GroupNode, ...]


def check_sequence(node: SequenceNode) -> None:
    """Refuse what can never be met, has no one meaning, or would be too large.

    Raises:
        ValueError: names the place and says why.
    """
    if len(node.steps) > STEPS_MAX:
        raise ValueError(f"sequence(…): {len(node.steps)} steps; expected at most {STEPS_MAX}")
    _check_members(node.members, "sequence")
    members: list[StepNode | GroupNode] = [*node.members]
    is_loop = any(part.quantifier.is_loop for part in members)
    if max(len(members), len(node.steps)) < 2 and not is_loop:
        raise ValueError("sequence(…): expected at least two steps, or one that is repeated")
    last = members[-1]
    if _is_not(last) and node.within_ns is None and node.within_gap_ns is None:
        raise ValueError(
            f"sequence(…, {last.text('relaxed')}): a negation at the end needs within=: "
            f"it fires when that is over"
        )
    if node.replaces_start:
        _check_plain(node)
    reason = _needs_stream(node.members)
    if reason is not None:
        _check_chains(node, reason)
    states = sum(map(_states_of, node.members))
    if states > STATES_MAX:
        raise ValueError(
            f"sequence(…): its loops come to about {states} states; expected at most {STATES_MAX}"
        )
    compile_sequence(node)


def _is_not(part: StepNode | GroupNode) -> bool:
    return isinstance(part, StepNode) and part.is_not


def _check_members(parts: Parts, place: str) -> None:
    for number, part in enumerate(parts):
        if isinstance(part, GroupNode):
            _check_group(part)
        elif part.is_not and all(map(_may_be_empty, parts[:number])):
            raise ValueError(
                f"{place}: {part.text('relaxed')} cannot be its first step: there need be "
                f"nothing before it"
            )


def _check_group(part: GroupNode) -> None:
    place = f"group {part.name!r}"
    _check_members(part.members, place)
    if _is_not(part.members[-1]):
        raise ValueError(f"{place}: a negation cannot be its last step")
    if part.quantifier.most is None and all(map(_may_be_empty, part.members)):
        raise ValueError(
            f"{place}: all of its steps are optional, so it could be repeated for ever by nothing"
        )


def _may_be_empty(part: StepNode | GroupNode) -> bool:
    return (
        _is_not(part)
        or part.quantifier.optional
        or (isinstance(part, GroupNode) and all(map(_may_be_empty, part.members)))
    )


def _check_plain(node: SequenceNode) -> None:
    for part in node.members:
        if isinstance(part, GroupNode) or part.quantifier.is_loop or part.quantifier.optional:
            raise ValueError(
                f"sequence(anchor='last'): expected plain steps, found {part.name!r}, which is "
                f"repeated, optional or a group"
            )


def _needs_stream(parts: Parts) -> str | None:
    """Return why the sequence has to see all events, also those that meet no step, if so."""
    for number, part in enumerate(parts):
        if number > 0 and part.contiguity == "strict":
            return f"{part.text('strict')}, which is strict,"
        if part.quantifier.is_loop and part.quantifier.inner == "strict":
            return f"{part.name!r} with inner='strict'"
        if isinstance(part, GroupNode):
            reason = _needs_stream(part.members)
            if reason is not None:
                return reason
        elif part.until is not None:
            return f"{part.name!r} with until"
    return None


def _check_chains(node: SequenceNode, reason: str) -> None:
    for step in node.steps:
        if not _is_chain(step.source):
            raise ValueError(
                f"sequence(…): {reason} has to see each event on a step's subject, so expected "
                f"all steps to be on(…) with .where and .key alone (.where behind .event_time); "
                f"found {step.source.text()}"
            )


def _is_chain(node: n.Node) -> bool:
    while isinstance(node, (n.WhereNode, n.KeyNode)):
        node = node.source
    if isinstance(node, n.EventTimeNode):
        node = node.source
        while isinstance(node, n.KeyNode):
            node = node.source
    return isinstance(node, n.FilterNode)


def _states_of(part: StepNode | GroupNode) -> int:
    """Return about how many states a part comes to."""
    inside = sum(map(_states_of, part.members)) if isinstance(part, GroupNode) else 2
    quantifier = part.quantifier
    turns = quantifier.least + 1 if quantifier.most is None else quantifier.most
    return inside * turns
