"""What users write to make one pattern of several: `any_of`, `all_of`, `absent`, `silent`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, TypeVar, overload

from headrace.triggers import nodes
from headrace.triggers.checks import (
    PARTIALS_MAX,
    Seconds,
    check_choice,
    check_whole,
    duration_ns,
)
from headrace.triggers.keys import KEY_EXPECTED, is_key, plain_key
from headrace.triggers.nodes_joined import AbsentNode, AllNode, AnyNode
from headrace.triggers.pattern import Pattern, pattern_in
from headrace.triggers.reach import has_key
from headrace.triggers.steps import Step, names_of

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@overload
def any_of(a: Pattern[A], b: Pattern[B], /) -> Pattern[A | B]: ...
@overload
def any_of(a: Pattern[A], b: Pattern[B], c: Pattern[C], /) -> Pattern[A | B | C]: ...
@overload
def any_of(*patterns: Pattern[T]) -> Pattern[T]: ...
def any_of(*patterns: Pattern[Any]) -> Pattern[Any]:
    """Match what any of *patterns* matches; an event that several match counts once."""
    branches = tuple(pattern_in("any_of", pattern) for pattern in patterns)
    if not branches:
        raise ValueError("any_of() needs at least one pattern")
    return Pattern(AnyNode(branches))


@overload
def all_of(
    a: Pattern[A] | Step[A],
    b: Pattern[B] | Step[B],
    /,
    *,
    within: Seconds | None,
    keep: nodes.Keep = ...,
    partials_max: int = ...,
) -> Pattern[A | B]: ...
@overload
def all_of(
    a: Pattern[A] | Step[A],
    b: Pattern[B] | Step[B],
    c: Pattern[C] | Step[C],
    /,
    *,
    within: Seconds | None,
    keep: nodes.Keep = ...,
    partials_max: int = ...,
) -> Pattern[A | B | C]: ...
@overload
def all_of(
    *patterns: Pattern[Any] | Step[Any],
    within: Seconds | None,
    keep: nodes.Keep = ...,
    partials_max: int = ...,
) -> Pattern[Any]: ...
def all_of(
    *patterns: Pattern[Any] | Step[Any],
    within: Seconds | None,
    keep: nodes.Keep = "latest",
    partials_max: int = PARTIALS_MAX,
) -> Pattern[Any]:
    """Fire once all of *patterns* have been met within *within* seconds, in any order.

    Of what meets a pattern again meanwhile it keeps the ``latest``, the ``first``, or
    ``all``.  After firing it begins anew.  ``within=None`` waits for ever, and has to be
    said.  ``firing.steps`` has the events by pattern: under the name that `step` gives it,
    else under ``s1``, ``s2`` … by its place.
    """
    if len(patterns) < 2:
        raise ValueError(f"all_of(…): expected at least two patterns, found {len(patterns)}")
    within_ns = None if within is None else duration_ns("all_of", "within", within)
    check_choice("all_of", "keep", keep, "latest", "first", "all")
    check_whole("all_of", "partials_max", partials_max)
    names, branches = names_of("all_of", patterns)
    return Pattern(AllNode(branches, names, within_ns, keep, partials_max))


def absent(
    pattern: Pattern[Any],
    *,
    after: Pattern[T],
    within: Seconds,
    rearm: nodes.Rearm = "ignore",
) -> Pattern[T]:
    """Fire *within* seconds after *after* if *pattern* has not been met by then.

    A further *after* while it waits is ignored; with ``rearm="restart"`` the wait begins
    again.  The firing has the event that it waits since.
    """
    source, since = pattern_in("absent", pattern), pattern_in("absent", after)
    check_choice("absent", "rearm", rearm, "ignore", "restart")
    return Pattern(AbsentNode(source, since, duration_ns("absent", "within", within), rearm))


def silent(
    pattern: Pattern[T],
    *,
    for_: Seconds,
    repeat: nodes.Repeat = "once",
    expect: Iterable[Hashable] = (),
) -> Pattern[T]:
    """Fire when *pattern* has not been met for *for_* seconds: a watchdog for each key.

    It watches a key from its first event on; those in *expect* from the activation of the
    rule: without a ``.key``, ``expect=[None]``.  ``once`` fires once until the next event,
    ``every`` again each *for_* seconds.
    """
    node = pattern_in("silent", pattern)
    for_ns = duration_ns("silent", "for_", for_)
    check_choice("silent", "repeat", repeat, "once", "every")
    if isinstance(expect, str):
        raise TypeError(f"silent(expect={expect!r}): expected a list of keys, found one string")
    keys = tuple(expect)
    for key in keys:
        # None stands for all events together, if they have no keys.
        if not is_key(key) and (key is not None or has_key(node)):
            raise TypeError(f"silent(expect=…): {key!r} cannot be a key; {KEY_EXPECTED}")
    return Pattern(nodes.SilentNode(node, for_ns, repeat, plain_key(keys)))
