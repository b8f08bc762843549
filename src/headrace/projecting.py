"""`Projections`: the part of an `App` that declares user state folded from events by key."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, overload

from headrace.engine.event import Event
from headrace.tasks import check_name, name_of
from headrace.triggers.field import Field
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Declare(Protocol[S, T]):
    """Takes the function of a projection that begins with a state, and returns it as it is."""

    @overload
    def __call__(self, function: Callable[[S, Event[T]], S], /) -> Callable[[S, Event[T]], S]: ...
    @overload
    def __call__(
        self, function: Callable[[S, Event[T]], S | None], /
    ) -> Callable[[S, Event[T]], S | None]: ...


class DeclareAny(Protocol[T]):
    """As `Declare`, for a projection of which a key begins with ``None``."""

    @overload
    def __call__(
        self, function: Callable[[R | None, Event[T]], R], /
    ) -> Callable[[R | None, Event[T]], R]: ...
    @overload
    def __call__(
        self, function: Callable[[R | None, Event[T]], R | None], /
    ) -> Callable[[R | None, Event[T]], R | None]: ...


class Projections:
    """Projections by name."""

    def __init__(self) -> None:
        self.projections: dict[str, Rule] = {}
        """To the log each is a rule, under a name that no rule can have."""

    @overload
    def projection(
        self,
        pattern: Pattern[T],
        *,
        initial: S,
        key: Callable[[Event[T]], Hashable] | Field | None = None,
        keys_max: int | None = None,
        name: str | None = None,
        version: str | None = None,
    ) -> Declare[S, T]: ...
    @overload
    def projection(
        self,
        pattern: Pattern[T],
        *,
        key: Callable[[Event[T]], Hashable] | Field | None = None,
        keys_max: int | None = None,
        name: str | None = None,
        version: str | None = None,
    ) -> DeclareAny[T]: ...
    def projection(
        self,
        pattern: Pattern[Any],
        *,
        initial: Any = None,
        key: Callable[[Event[Any]], Hashable] | Field | None = None,
        keys_max: int | None = None,
        name: str | None = None,
        version: str | None = None,
    ) -> Callable[[Any], Any]:
        """Fold the events of *pattern* with the decorated function, into a state for each *key*.

        The function takes the state so far and an event, and returns the state from then on; it
        must depend on nothing else, and stays an ordinary function.  A key begins with *initial*,
        or with ``None``.  The state is data that msgspec encodes, at most 64 KiB for a key, of
        the type that the function says it returns; if ``None`` is one, that forgets the key.
        `Engine.view` shows it.

        *pattern* is ``on(…)`` or ``any_of(…)``, with ``.where`` and, in place of *key*, ``.key``.
        Of more than *keys_max* keys (100 000) the one unheard of for longest is forgotten, which
        is recorded.  What the function raises is a recorded ``rule.error``, and the state stays
        as it was.  A projection that is new or changed is folded anew at the next start, of all
        that the log has; *version* stands for its functions if they cannot be digested.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """
        from headrace.triggers.projections import projection_of

        def declare(function: F) -> F:
            own = name or name_of(function)
            check_name("projection", own)
            if own in self.projections:
                raise ValueError(
                    f"projection {own!r} is declared twice; give one of them a name= of its own"
                )
            self.projections[own] = projection_of(
                pattern,
                function,
                own,
                initial=initial,
                key=key,
                keys_max=keys_max,
                version=version,
            )
            return function

        return declare
