"""The parts of a sequence as users write them: `step`, `not_` and `group`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Never, TypeVar, overload

import msgspec

from headrace.engine.event import Event
from headrace.triggers import nodes
from headrace.triggers.checks import (
    check_bool,
    check_choice,
    check_function,
    check_whole,
)
from headrace.triggers.nodes_joined import Contiguity, Quantifier
from headrace.triggers.pattern import Match, Pattern, pattern_in
from headrace.triggers.reach import check_not_relative, nodes_of, without_relative

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ANY_LENGTH: Final = -1
"""The default of ``n`` in ``times(m, n)``: as `m`."""
TIMES_MAX: Final = 1000
"""Turns of a bounded loop: each is a state of the automaton."""


class Member(Generic[T_co]):
    """What a sequence is made of, besides patterns."""

    __slots__ = ()


class _Repeatable(Member[T_co]):
    """A step or a group: what can be taken several times, or not at all."""

    __slots__ = ("contiguity", "greedy", "name", "quantifier")

    def __init__(
        self,
        name: str,
        contiguity: Contiguity | None,
        quantifier: Quantifier,
        greedy: bool | None,  # noqa: FBT001 (made by the functions below only)
    ) -> None:
        self.name = name
        self.contiguity: Contiguity | None = contiguity
        self.quantifier = quantifier
        self.greedy = greedy
        """As it was said; ``None``: it was not."""

    def _times(
        self,
        m: int,
        n: int | None,
        inner: Contiguity,
        greedy: bool | None,  # noqa: FBT001
    ) -> tuple[Quantifier, bool | None]:
        """Return what ``times`` with these arguments makes of it."""
        check_whole("times", "m", m)
        if n == ANY_LENGTH:
            n = m
        if n is not None:
            check_whole("times", "n", n)
            if n < m:
                raise ValueError(f"times({m}, {n}): expected n to be at least {m}")
        if max(m, n or 0) > TIMES_MAX:
            raise ValueError(f"times({m}, {n}): at most {TIMES_MAX}; n=None is without bound")
        check_choice("times", "inner", inner, "relaxed", "strict", "any")
        if greedy is not None:
            check_bool("times", "greedy", greedy)
        if self.quantifier.is_loop:
            raise ValueError(f"step {self.name!r}: .times(…) is said twice")
        changed = msgspec.structs.replace(self.quantifier, least=m, most=n, inner=inner)
        return changed, greedy

    def _optional(self) -> Quantifier:
        if self.quantifier.optional:
            raise ValueError(f"step {self.name!r}: .optional() is said twice")
        return msgspec.structs.replace(self.quantifier, optional=True)


class Step(_Repeatable[T_co]):
    """A step of a `sequence`, made by `step`.  Never changed."""

    __slots__ = ("is_named", "source", "stop")

    def __init__(
        self,
        name: str,
        source: nodes.Node,
        contiguity: Contiguity | None,
        *,
        quantifier: Quantifier = Quantifier(),
        greedy: bool | None = None,
        stop: Callable[..., object] | None = None,
        is_named: bool = True,
    ) -> None:
        """Made by `step`."""
        super().__init__(name, contiguity, quantifier, greedy)
        self.source = source
        self.stop = stop
        self.is_named = is_named

    def _with(self, **changes: Any) -> Step[T_co]:
        given: dict[str, Any] = {
            "quantifier": self.quantifier,
            "greedy": self.greedy,
            "stop": self.stop,
        }
        return Step(self.name, self.source, self.contiguity, **(given | changes))

    def times(
        self,
        m: int,
        n: int | None = ANY_LENGTH,
        *,
        inner: Contiguity = "relaxed",
        greedy: bool | None = None,
    ) -> Step[T_co]:
        """Take *m* to *n* events (*n* ``None``: any number; not given: exactly *m*).

        *inner* says what may lie between them; ``any`` takes every combination.  A greedy
        loop takes all that it can, also what the next step could have, and is one match
        when the next step comes; before that nothing that fits the loop is passed over, so
        one more than *n* ends the match.  With ``greedy=False`` each prefix goes on, and is
        a match when the next step comes.  It is greedy if nothing is said, but not with
        ``inner="any"`` and not before a step of contiguity ``any``, where it cannot be.

        As the last step a loop has no next step to wait for, greedy or not: the sequence
        is met with the *m*-th event, and with ``anchor="every"`` again with each further
        one.
        """
        quantifier, greedy = self._times(m, n, inner, greedy)
        return self._with(quantifier=quantifier, greedy=greedy)

    def optional(self) -> Step[T_co]:
        """Let the sequence go on without it, too."""
        return self._with(quantifier=self._optional())

    @overload
    def until(self, condition: Callable[[Event[Any]], object]) -> Step[T_co]: ...
    @overload
    def until(self, condition: Callable[[Event[Any], Match], object]) -> Step[T_co]: ...
    def until(self, condition: Callable[..., object]) -> Step[T_co]:
        """End an unbounded loop with the first event for which *condition* holds.

        It is asked of each event of the sequence's input stream, whether or not that meets
        a step, as the first step whose subject it fits reads it.  The event that ends the
        loop is not taken by it, but may be by the next step.
        """
        check_function("until", condition)
        if self.quantifier.most is not None:
            raise ValueError(
                f"step {self.name!r}: .until(…) ends a loop without bound; put "
                f".times(m, None) before it"
            )
        if self.stop is not None:
            raise ValueError(f"step {self.name!r}: .until(…) is said twice")
        return self._with(stop=condition)


class Group(_Repeatable[T_co]):
    """Several steps that are repeated, or left out, as one.  Made by `group`; never changed."""

    __slots__ = ("members",)

    def __init__(
        self,
        name: str,
        members: tuple[Member[Any], ...],
        contiguity: Contiguity | None,
        *,
        quantifier: Quantifier = Quantifier(),
        greedy: bool | None = None,
    ) -> None:
        """Made by `group`."""
        super().__init__(name, contiguity, quantifier, greedy)
        self.members = members

    def times(
        self, m: int, n: int | None = ANY_LENGTH, *, inner: Contiguity = "relaxed"
    ) -> Group[T_co]:
        """Take all of it *m* to *n* times; each prefix goes on.  See `Step.times`."""
        quantifier, _ = self._times(m, n, inner, None)
        return Group(self.name, self.members, self.contiguity, quantifier=quantifier)

    def optional(self) -> Group[T_co]:
        """Let the sequence go on without it, too."""
        return Group(self.name, self.members, self.contiguity, quantifier=self._optional())


class Not(Member[Never]):
    """What must not come between two steps, made by `not_`.  Never changed."""

    __slots__ = ("contiguity", "source")

    def __init__(self, source: nodes.Node, contiguity: Contiguity) -> None:
        """Made by `not_`."""
        self.source = source
        self.contiguity: Contiguity = contiguity


def step(name: str, pattern: Pattern[T], *, contiguity: Contiguity | None = None) -> Step[T]:
    """Name a step of a `sequence`, so that conditions and firings can speak of its events.

    *contiguity* to the step before: ``strict`` (the very next event), ``relaxed`` (the next
    that fits), ``any`` (any later one that fits); not given: as the sequence says.

    A condition of two arguments in *pattern* also gets the events that the match has taken
    so far: for each step a list, which is empty if it has taken none.  Another name is a
    `KeyError`, and so no match and a recorded ``rule.error``.
    """
    _check_name("step", name)
    if not isinstance(pattern, Pattern):
        raise TypeError(f"step({name!r}, {pattern!r}): expected a pattern such as on('a.b')")
    if contiguity is not None:
        check_choice("step", "contiguity", contiguity, "strict", "relaxed", "any")
    return Step(name, _step_source(f"step({name!r})", pattern.node), contiguity)


def not_(pattern: Pattern[Any], *, contiguity: Contiguity = "relaxed") -> Not:
    """Let a sequence end where *pattern* comes before the next step.

    ``relaxed``: anywhere before it; ``strict``: as the very next event.  At the end of a
    sequence it needs ``within``, and the sequence fires when that is over.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"not_({pattern!r}): expected a pattern such as on('a.b')")
    check_choice("not_", "contiguity", contiguity, "strict", "relaxed")
    return Not(_step_source("not_", pattern.node), contiguity)


def group(
    name: str,
    *members: Pattern[T] | Member[T],
    contiguity: Contiguity | None = None,
) -> Group[T]:
    """Take several steps as one, to repeat them or to leave them out.

    *contiguity* is that of its first step to the step before the group.
    """
    _check_name("group", name)
    if contiguity is not None:
        check_choice("group", "contiguity", contiguity, "strict", "relaxed", "any")
    if not members:
        raise ValueError(f"group({name!r}): expected steps")
    return Group(name, members_of(f"group({name!r})", members, f"{name}."), contiguity)


def members_of(place: str, given: Sequence[object], prefix: str = "") -> tuple[Member[Any], ...]:
    """Return the members of a sequence or a group; a bare pattern is a step with a made-up name.

    Raises:
        TypeError: one of *given* is neither a pattern nor a member.
    """
    members: list[Member[Any]] = []
    for number, member in enumerate(given, 1):
        if isinstance(member, Pattern):
            name = f"{prefix}s{number}"
            members.append(Step(name, _step_source(place, member.node), None, is_named=False))
        elif isinstance(member, Member):
            members.append(member)
        else:
            raise TypeError(f"{place}: expected patterns and steps, found {member!r}")
    return tuple(members)


def names_of(
    place: str, patterns: Sequence[Pattern[Any] | Step[Any]]
) -> tuple[tuple[str, ...], tuple[nodes.Node, ...]]:
    """Return the names and nodes of *patterns*, of which some may be named steps."""
    names: list[str] = []
    branches: list[nodes.Node] = []
    for number, pattern in enumerate(patterns, 1):
        if isinstance(pattern, Step):
            check_not_relative(place, pattern.source)
            if pattern.quantifier != Quantifier() or pattern.contiguity is not None:
                raise ValueError(f"{place}: step {pattern.name!r} is no sequence's: only a name")
            names.append(pattern.name)
            branches.append(pattern.source)
        else:
            names.append(f"s{number}")
            branches.append(pattern_in(place, pattern))
    check_names(place, names)
    return tuple(names), tuple(branches)


def _step_source(place: str, node: nodes.Node) -> nodes.Node:
    """Return *node*, the pattern of a step, if it can be met.

    Raises:
        ValueError: it has a condition of two arguments in the wrong place, or conditions that
            exclude each other.
    """
    plain = without_relative(node)
    check_not_relative(place, plain)
    if any(isinstance(one, nodes.WhereNode) for one in nodes_of(plain)):
        from headrace.triggers.contradiction import contradictions

        for one, other in contradictions(plain):
            raise ValueError(
                f"{place}: it can never be met, since no event fulfils both {one} and {other}"
            )
    return node


def _check_name(place: str, name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isprintable():
        raise ValueError(f"{place}({name!r}): expected a name of 1 to 64 characters")


def check_names(place: str, names: Sequence[str]) -> None:
    """Refuse names that are there twice.

    Raises:
        ValueError: says which.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{place}: expected each step to have a name of its own; {name!r} is there twice"
            )
