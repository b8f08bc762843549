"""`sequence`: one event after the other, and what cannot be one.

The language is that of Apache Flink CEP 1.20: contiguity, loops, negation, groups, skip
strategies.  What a sequence does at runtime is said by `headrace.triggers.nfa`.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast, overload

import msgspec

from headrace.triggers.checks import (
    PARTIALS_MAX,
    Seconds,
    check_bool,
    check_choice,
    check_whole,
    duration_ns,
    takes_match,
)
from headrace.triggers.nodes_joined import (
    Anchor,
    Contiguity,
    GroupNode,
    SequenceNode,
    Skip,
    StepNode,
)
from headrace.triggers.pattern import Pattern
from headrace.triggers.steps import Group, Member, Not, Step, check_names, members_of

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
T = TypeVar("T")


@overload
def sequence(
    a: Pattern[A] | Member[A],
    b: Pattern[B] | Member[B],
    /,
    *,
    within: Seconds | None = ...,
    within_gap: Seconds | None = ...,
    contiguity: Contiguity = ...,
    anchor: Anchor = ...,
    skip: Skip | None = ...,
    on_timeout: bool = ...,
    partials_max: int = ...,
) -> Pattern[A | B]: ...
@overload
def sequence(
    a: Pattern[A] | Member[A],
    b: Pattern[B] | Member[B],
    c: Pattern[C] | Member[C],
    /,
    *,
    within: Seconds | None = ...,
    within_gap: Seconds | None = ...,
    contiguity: Contiguity = ...,
    anchor: Anchor = ...,
    skip: Skip | None = ...,
    on_timeout: bool = ...,
    partials_max: int = ...,
) -> Pattern[A | B | C]: ...
@overload
def sequence(
    a: Pattern[A] | Member[A],
    b: Pattern[B] | Member[B],
    c: Pattern[C] | Member[C],
    d: Pattern[D] | Member[D],
    /,
    *,
    within: Seconds | None = ...,
    within_gap: Seconds | None = ...,
    contiguity: Contiguity = ...,
    anchor: Anchor = ...,
    skip: Skip | None = ...,
    on_timeout: bool = ...,
    partials_max: int = ...,
) -> Pattern[A | B | C | D]: ...
@overload
def sequence(
    *members: Pattern[T] | Member[T],
    within: Seconds | None = ...,
    within_gap: Seconds | None = ...,
    contiguity: Contiguity = ...,
    anchor: Anchor = ...,
    skip: Skip | None = ...,
    on_timeout: bool = ...,
    partials_max: int = ...,
) -> Pattern[T]: ...
def sequence(
    *members: Pattern[Any] | Member[Any],
    within: Seconds | None = None,
    within_gap: Seconds | None = None,
    contiguity: Contiguity = "relaxed",
    anchor: Anchor = "first",
    skip: Skip | None = None,
    on_timeout: bool = False,
    partials_max: int = PARTIALS_MAX,
) -> Pattern[Any]:
    """Fire when *members* have been met one after the other: patterns, steps, groups, `not_`.

    Less than *within* seconds from the first event to the last, and than *within_gap* from
    each to the next.  *contiguity* is that of steps that say none: ``relaxed`` takes the
    next event that fits, ``strict`` only the very next event on any step's subject, ``any``
    any later one.  When several partial matches are completed, *anchor* ``first`` fires the
    one that began first and drops all that began by its last event; ``last`` does so too,
    but a new start replaces a partial that has only its start; ``every`` fires each and
    drops none.  *skip* says it in Flink's words: ``past_last`` (= ``first``), ``none``
    (= ``every``), ``to_next``, ``("to_first", step)``, ``("to_last", step)``.  With
    *on_timeout* a partial that runs out of *within* fires too, with the reason ``timeout``.
    ``firing.steps`` has the events by step; those without a name are ``s1``, ``s2`` …
    """
    check_choice("sequence", "contiguity", contiguity, "relaxed", "strict", "any")
    check_choice("sequence", "anchor", anchor, "first", "last", "every")
    check_whole("sequence", "partials_max", partials_max)
    check_bool("sequence", "on_timeout", on_timeout)
    within_ns = None if within is None else duration_ns("sequence", "within", within)
    gap_ns = None if within_gap is None else duration_ns("sequence", "within_gap", within_gap)
    if within_ns is not None and gap_ns is not None:
        raise ValueError("sequence(within=…, within_gap=…): expected one of the two")
    if on_timeout and within_ns is None and gap_ns is None:
        raise ValueError("sequence(on_timeout=True): expected within=, or nothing runs out")
    parts = _resolved(members_of("sequence", members), contiguity)
    steps = [one for part in parts for one in part.steps()]
    names = [one.name for one in steps if not one.is_not]
    check_names("sequence", [*names, *_group_names(parts)])
    _check_order(parts, has_end=within_ns is not None)
    node = SequenceNode(
        parts,
        within_ns,
        gap_ns,
        contiguity,
        _skip_of(skip, anchor, names),
        anchor == "last",
        on_timeout,
        partials_max,
    )
    if anchor == "last":
        _check_plain(node)
    return Pattern(node)


def _resolved(
    members: tuple[Member[Any], ...], contiguity: Contiguity
) -> tuple[StepNode | GroupNode, ...]:
    """Return the nodes of *members*, in which nothing is left open."""
    made: list[StepNode | GroupNode] = []
    for place, member in enumerate(members):
        following = members[place + 1] if place + 1 < len(members) else None
        if isinstance(member, Not):
            name = f"not {place + 1}"
            made.append(StepNode(name, member.source, member.contiguity, is_not=True))
        elif isinstance(member, Group):
            inner = _resolved(member.members, contiguity)
            own = member.contiguity or contiguity
            quantifier = msgspec.structs.replace(member.quantifier, greedy=False)
            made.append(GroupNode(member.name, inner, own, quantifier))
        else:
            made.append(_step_node(cast("Step[Any]", member), following, contiguity))
    return tuple(made)


def _step_node(
    member: Step[Any], following: Member[Any] | None, contiguity: Contiguity
) -> StepNode:
    before_any = isinstance(following, (Step, Group)) and (
        (following.contiguity or contiguity) == "any"
    )
    if member.greedy and before_any:
        raise ValueError(
            f"step {member.name!r}: a greedy loop cannot stand before a step of contiguity "
            f"'any', which need not take the next event; give greedy=False"
        )
    greedy = not before_any if member.greedy is None else member.greedy
    quantifier = msgspec.structs.replace(member.quantifier, greedy=greedy)
    return StepNode(
        member.name,
        member.source,
        member.contiguity or contiguity,
        quantifier,
        member.stop,
        until_is_relative=member.stop is not None and takes_match(member.stop),
        is_named=member.is_named,
    )


def _group_names(parts: tuple[StepNode | GroupNode, ...]) -> list[str]:
    names: list[str] = []
    for part in parts:
        if isinstance(part, GroupNode):
            names += [part.name, *_group_names(part.members)]
    return names


def _check_order(parts: tuple[StepNode | GroupNode, ...], *, has_end: bool) -> None:
    """Refuse what can never be met, or would be met by nothing at all."""
    _check_inside(parts, "sequence")
    positive = [part for part in parts if not (isinstance(part, StepNode) and part.is_not)]
    if len(parts) < 2 and not (positive and positive[0].quantifier.is_loop):
        raise ValueError("sequence(…): expected at least two steps, or one that is repeated")
    if all(part.quantifier.optional for part in positive):
        raise ValueError("sequence(…): all steps are optional, so it would be met by nothing")
    last = parts[-1]
    if isinstance(last, StepNode) and last.is_not and not has_end:
        raise ValueError(
            f"sequence(…, {last.text('relaxed')}): a negation at the end needs within=: "
            f"it fires when that is over"
        )


def _check_inside(parts: tuple[StepNode | GroupNode, ...], place: str) -> None:
    for number, part in enumerate(parts):
        if isinstance(part, GroupNode):
            inner = f"group {part.name!r}"
            _check_inside(part.members, inner)
            last = part.members[-1]
            if isinstance(last, StepNode) and last.is_not:
                raise ValueError(f"{inner}: a negation cannot be its last step")
        elif part.is_not:
            text = part.text("relaxed")
            if number == 0:
                raise ValueError(f"{place}: {text} cannot be its first step: nothing is before it")
            before = parts[number - 1]
            if before.quantifier.optional:
                raise ValueError(
                    f"{place}: {text} stands behind {before.name!r}, which is optional: expected "
                    f"a step that is always taken"
                )


def _skip_of(skip: Skip | None, anchor: Anchor, names: list[str]) -> Skip:
    if skip is None:
        return "none" if anchor == "every" else "past_last"
    if anchor != "first":
        raise ValueError(f"sequence(skip={skip!r}, anchor={anchor!r}): expected one of the two")
    if skip in ("past_last", "none", "to_next"):
        return skip
    if not isinstance(skip, tuple) or len(skip) != 2 or skip[0] not in ("to_first", "to_last"):
        raise ValueError(
            f"sequence(skip={skip!r}): expected 'past_last', 'none', 'to_next', "
            f"('to_first', step) or ('to_last', step)"
        )
    if skip[1] not in names:
        raise ValueError(f"sequence(skip={skip!r}): there is no step {skip[1]!r}")
    return skip


def _check_plain(node: SequenceNode) -> None:
    for part in node.members:
        if isinstance(part, GroupNode) or part.quantifier.is_loop or part.quantifier.optional:
            raise ValueError(
                f"sequence(anchor='last'): expected plain steps, found {part.name!r}, which is "
                f"repeated, optional or a group"
            )
