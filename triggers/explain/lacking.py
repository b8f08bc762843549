"""What was still missing for a sequence when an event came: the nearest miss, in words.

Either steps that should have come before it, or, where it is taken, those that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.triggers import nodes as n
from headrace.triggers.explain.notes import Note
from headrace.triggers.explain.partials import Open, plain_partials, sequence_partials
from headrace.triggers.nodes_joined import GroupNode, SequenceNode, StepNode
from headrace.triggers.sequence import Partials


def lacked(note: Note) -> str:
    """Return what would have had to come for an event that no partial match takes; "": nothing."""
    node = note.node
    assert isinstance(node, SequenceNode), node
    met = [number for number in note.met if not node.steps[number].is_not]
    if not met:
        return ""  # what must not come, or what is no step at all, never completes anything
    place = met[-1]
    waiting = [(_first_wanted(node, one), one) for one in _open(note) if one.names]
    nearest = max(
        (pair for pair in waiting if pair[0] < place), key=lambda pair: pair[0], default=None
    )
    if nearest is None and waiting:
        wanted, partial = max(waiting, key=lambda pair: pair[0])
        return _had_come(node, [wanted, *_needed(node, wanted + 1, len(node.steps))], partial)
    begin = 0 if nearest is None else nearest[0]
    before = _needed(node, begin, place)
    if not before:
        return ""
    wish = _had_come(node, before, None if nearest is None else nearest[1], " before")
    after = _listed(node, _needed(node, place + 1, len(node.steps)))
    return f"{wish}, and then {after} after it" if after else wish


def left(note: Note, partial: Open) -> str:
    """Return what has to come yet for *partial* to be complete, in order."""
    node = note.node
    assert isinstance(node, SequenceNode), node
    wanted = partial.waits_for.partition("; ")[0]
    last = max((_number(node, name) for name in partial.names), default=len(node.steps))
    rest = _listed(node, _needed(node, last + 1, len(node.steps)))
    return f"{wanted} and then {rest}" if rest else wanted


def _open(note: Note) -> list[Open]:
    node, before = note.node, note.before
    assert isinstance(node, SequenceNode), node
    if before is None:
        return []
    if isinstance(before, Partials):
        return list(sequence_partials(note.stage, node, before))
    return list(plain_partials(node, before))


def _had_come(
    node: SequenceNode, steps: Sequence[int], partial: Open | None, when: str = ""
) -> str:
    """Return that *steps* had come, the first of them for *partial*."""
    first = _listed(node, steps[:1])
    if partial is not None:
        taken = ", ".join(f"#{event}" for event in partial.events)
        first += f", which the match of {taken} waits for,"
    rest = _listed(node, steps[1:])
    both = f"{first} and then {rest}" if rest else first
    within = "" if node.within_ns is None else f" within {n.seconds(node.within_ns)} s"
    return f"{both} had come{when}{within}"


def _listed(node: SequenceNode, steps: Sequence[int]) -> str:
    found = [node.steps[number] for number in steps]
    return " and then ".join(f"step {step.name!r} ({step.source.text()})" for step in found)


def _first_wanted(node: SequenceNode, partial: Open) -> int:
    return min(_number(node, name) for name in partial.names)


def _number(node: SequenceNode, name: str) -> int:
    return next(number for number, step in enumerate(node.steps) if step.name == name)


def _needed(node: SequenceNode, begin: int, end: int) -> list[int]:
    """Return the numbers of the steps from *begin* to before *end* without which nothing fires."""
    needed = [is_needed for member in node.members for is_needed in _each(member)]
    return [number for number in range(begin, end) if needed[number]]


def _each(member: StepNode | GroupNode, *, is_optional: bool = False) -> Iterator[bool]:
    """Yield for each step of *member* whether it has to come."""
    is_optional = is_optional or member.quantifier.optional
    if isinstance(member, GroupNode):
        for inner in member.members:
            yield from _each(inner, is_optional=is_optional)
    else:
        yield not (is_optional or member.is_not)
