"""`View`: the state of a projection, to look at.

A projection is user state that events are folded into, by key.  To the log it is one more
rule, under a name that no rule can have: so starts record which one is in force, snapshots
have its state, and its errors are recorded.  It decides nothing and never fires.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any, Final, Protocol, TypeVar

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)

_PREFIX: Final = "projection."
"""No rule's name has a dot in it."""


def recorded_name(projection: str) -> str:
    """Return the name under which the log knows *projection*."""
    return f"{_PREFIX}{projection}"


def is_projection(rule: str) -> bool:
    """Say whether what the log calls *rule* is a projection."""
    return rule.startswith(_PREFIX)


def own_name(rule: str) -> str:
    """Return what users call the projection that the log calls *rule*."""
    return rule.removeprefix(_PREFIX)


class Folded(Protocol[S_co]):
    """What a projection has made of the events so far."""

    def __len__(self) -> int: ...

    def has(self, key: object) -> bool:
        """Say whether *key* has state."""
        ...

    def find(self, key: object) -> S_co | None:
        """Return the state of *key*, a copy of its own; ``None``: it has none."""
        ...

    def entries(self) -> list[tuple[Any, bytes]]:
        """Return all keys with their states as they are stored, the one changed last at the end."""
        ...

    def decoded(self, stored: bytes) -> S_co:
        """Return a state of `entries` as the user's type."""
        ...


class View(Mapping[Any, S]):
    """The state of a projection by key: a mapping that cannot be changed, and that lives on.

    A look-up costs that in a dict and the decoding of one state.  Each state that it gives is
    a copy: changing it changes nothing here.  Iteration goes over the keys as they were when
    it began, those changed last at the end.
    """

    __slots__ = ("_find", "_since", "name")

    def __init__(self, name: str, find: Callable[[], Folded[S]], since: Callable[[], int]) -> None:
        """Made by `Engine.view` and `headrace.replaying.project`."""
        self.name = name
        self._find = find
        self._since = since

    @property
    def since(self) -> int:
        """The first record that it has seen.

        More than 1: what came before was not kept any more when it was folded.
        """
        return self._since()

    def __getitem__(self, key: object) -> S:
        """Return the state of *key*."""
        state = self._find().find(key)
        if state is None:
            raise KeyError(key)
        return state

    def __contains__(self, key: object) -> bool:
        """Say whether *key* has state."""
        return self._find().has(key)

    def __len__(self) -> int:
        """Return how many keys have state."""
        return len(self._find())

    def __iter__(self) -> Iterator[Any]:
        """Go through the keys."""
        return iter([key for key, _ in self._find().entries()])

    def items(self) -> ItemsView[Any, S]:
        """Return all keys with their states, as they are when iteration begins."""
        return _Items(self)

    def values(self) -> ValuesView[S]:
        """Return all states; as `items`."""
        return _Values(self)

    def stored(self) -> Iterator[tuple[Any, S]]:
        """Yield each key with its state, as they are now."""
        folded = self._find()
        return ((key, folded.decoded(stored)) for key, stored in folded.entries())

    def newest_first(self) -> Iterator[tuple[Any, S]]:
        """Yield each key with its state, as they are now, beginning with what changed last."""
        folded = self._find()
        return ((key, folded.decoded(stored)) for key, stored in reversed(folded.entries()))

    def __repr__(self) -> str:
        """Say whose it is."""
        return f"<View of {self.name}: {len(self)} keys>"


# Those of `Mapping` look each key up, and while a reader waits for something one may go.


class _Items(ItemsView[Any, S]):
    _mapping: View[S]

    def __iter__(self) -> Iterator[tuple[Any, S]]:
        return self._mapping.stored()


class _Values(ValuesView[S]):
    _mapping: View[S]

    def __iter__(self) -> Iterator[S]:
        return (state for _, state in self._mapping.stored())
