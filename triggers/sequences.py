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
from headrace.triggers.sequence_checks import check_sequence
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
    any later one.  Each event that fits the first step begins a partial match.

    When partial matches are completed, *anchor* ``first`` fires the one that began first
    and drops all that began by its last event; ``last`` does so too, but a new start
    replaces a partial that has only its start; ``every`` fires each and drops none.

    *skip* says in Flink's words what a match drops: ``past_last``, all that began by its
    last event (as ``first``); ``to_next``, those that began with the same event; ``none``
    (as ``every``); ``("to_first", step)`` and ``("to_last", step)``, those that began before
    the first or last event of that step.  Said so, a match also waits, as in Flink, while a
    partial that began earlier is still open; with *anchor* it never waits.

    With *on_timeout* a partial that runs out of time fires too, with the reason
    ``timeout``.  ``firing.steps`` has the events by step; those without a name are ``s1``,
    ``s2`` ….  Of more than *partials_max* partials of a key the one that began first goes,
    which is recorded.
    """
    check_choice("sequence", "contiguity", contiguity, "relaxed", "strict", "any")
    check_choice("sequence", "anchor", anchor, "first", "last", "every")
    check_whole("sequence", "partials_max", partials_max)
    check_bool("sequence", "on_timeout", on_timeout)
    within_ns, gap_ns = _durations(within, within_gap)
    if on_timeout and within_ns is None and gap_ns is None:
        raise ValueError("sequence(on_timeout=True): expected within=, or nothing runs out")
    parts = _resolved(members_of("sequence", members), contiguity)
    steps = [one for part in parts for one in part.steps()]
    names = [one.name for one in steps if not one.is_not]
    check_names("sequence", [*names, *_group_names(parts)])
    node = SequenceNode(
        parts,
        within_ns,
        gap_ns,
        contiguity,
        _skip_of(skip, anchor, names),
        anchor == "last",
        on_timeout,
        partials_max,
        waits=skip not in (None, "none"),
    )
    check_sequence(node)
    return Pattern(node)


def _durations(within: Seconds | None, within_gap: Seconds | None) -> tuple[int | None, int | None]:
    within_ns = None if within is None else duration_ns("sequence", "within", within)
    gap_ns = None if within_gap is None else duration_ns("sequence", "within_gap", within_gap)
    if within_ns is not None and gap_ns is not None and gap_ns > within_ns:
        raise ValueError(
            f"sequence(within={within!r}, within_gap={within_gap!r}): expected within_gap, "
            f"from one event to the next, to be at most within, from the first to the last"
        )
    return within_ns, gap_ns


def _resolved(
    members: tuple[Member[Any], ...], contiguity: Contiguity, where: str = "sequence"
) -> tuple[StepNode | GroupNode, ...]:
    """Return the nodes of *members*, in which nothing is left open."""
    made: list[StepNode | GroupNode] = []
    for place, member in enumerate(members):
        if place == 0 and isinstance(member, (Step, Group)) and member.contiguity is not None:
            raise ValueError(
                f"{where}: {member.name!r} is its first step, so there is none before it to be "
                f"contiguous to; leave contiguity= out, or give it to the group"
            )
        following = members[place + 1] if place + 1 < len(members) else None
        if isinstance(member, Not):
            name = f"not {place + 1}"
            made.append(StepNode(name, member.source, member.contiguity, is_not=True))
        elif isinstance(member, Group):
            inner = _resolved(member.members, contiguity, f"group {member.name!r}")
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
    is_combined = member.quantifier.is_loop and member.quantifier.inner == "any"
    if member.greedy and is_combined:
        raise ValueError(
            f"step {member.name!r}: a loop with inner='any' takes every combination, so it "
            f"cannot be greedy; give greedy=False"
        )
    greedy = not (before_any or is_combined) if member.greedy is None else member.greedy
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


def _skip_of(skip: Skip | None, anchor: Anchor, names: list[str]) -> Skip:
    if skip is None:
        return "none" if anchor == "every" else "past_last"
    if anchor != "first":
        raise ValueError(f"sequence(skip={skip!r}, anchor={anchor!r}): expected one of the two")
    given: object = skip  # users may not run a type checker
    if given in ("past_last", "none", "to_next"):
        return skip
    if not isinstance(given, tuple) or len(given) != 2 or given[0] not in ("to_first", "to_last"):
        raise ValueError(
            f"sequence(skip={skip!r}): expected 'past_last', 'none', 'to_next', "
            f"('to_first', step) or ('to_last', step)"
        )
    if given[1] not in names:
        raise ValueError(f"sequence(skip={skip!r}): there is no step {given[1]!r}")
    return skip
