"""Firings that have no counterpart yet: the same firing at another time is one that has moved.

Sequences say nothing here: with other rules decisions have other ones.  What stands for a
firing is its rule, its key and the events that met it.  Both sides are bounded: the oldest
goes first, and that is then one that has appeared, or vanished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from headrace.engine.record import RuleFired, thaw
from headrace.engine.replay.units import Unit

PENDING_MAX: Final = 10_000
"""Firings of each side that wait for their counterpart."""
HELD_MAX: Final = 20_000
"""Units that wait with the recorded ones: what their runs did."""

GONE_MAX: Final = 100_000
"""Events that are gone, of which so many are remembered."""

Identity = tuple[Any, ...]


class Pending(Struct, eq=False, gc=False):
    """A firing of one side."""

    fired: RuleFired
    sequence: int
    at_ns: int
    unrecorded: int = 0
    """For a derived one: the id of its run, while that waits for its turn."""
    missed: int = 0
    is_blind: bool = False
    """Whether its action is given no firing, so that it does the same whatever that names."""
    places: tuple[Identity, ...] = ()
    """What stands for it, as long as it waits."""
    is_over: bool = False
    """Whether it has its counterpart, or was given up."""
    is_turn: bool = False
    """Whether its run is there and waits for its turn: then nothing else is waited for."""
    held: list[Unit] = []
    """For a recorded one: what its run did since."""
    runs: list[int] = []
    """That run, and those that it made."""


def identity(fired: RuleFired) -> Identity | None:
    """Return what stands for a firing whenever it comes; ``None``: only its time does.

    As of a schedule's, which names no events.
    """
    if not fired.events:
        return None
    details = fired.details
    reason = None if details is None else details.reason
    return ("events", fired.rule, fired.key, tuple(fired.events), reason, fired.task)


def moment(fired: RuleFired) -> Identity | None:
    """Return what stands for a firing by timer whatever it names; ``None``: by an event."""
    if fired.due_ns is None:
        return None
    details = fired.details
    reason = None if details is None else details.reason
    return ("due", fired.rule, fired.key, fired.due_ns, reason, fired.task)


def with_plain_key(fired: RuleFired) -> RuleFired:
    """Return *fired* with a key as it was before it was stored."""
    return replace(fired, key=thaw(fired.key)) if type(fired.key) is list else fired


def is_same(a: RuleFired, b: RuleFired) -> bool:
    """Say whether two firings are the same, but for what became of them."""
    return (a.rule, a.key, a.due_ns, a.task) == (b.rule, b.key, b.due_ns, b.task) and gives_same(
        a, b
    )


def gives_same(a: RuleFired, b: RuleFired) -> bool:
    """Say whether two firings give their runs the same, but for the time."""
    if (a.events, a.branches) != (b.events, b.branches):
        return False
    # As the kernel compares: by text, in which what is stored and what is not are the same.
    return a.details == b.details or repr(a.details) == repr(b.details)


class Side:
    """The firings of one side that have no counterpart yet, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[Pending] = deque()
        self._by_identity: dict[Identity, Pending | deque[Pending]] = {}
        self.held = 0

    def add(self, one: Pending) -> None:
        """Let *one* wait."""
        self._queue.append(one)
        by_identity = self._by_identity
        found = (identity(one.fired), moment(one.fired))
        one.places = tuple([place for place in found if place is not None])
        for place in one.places:
            queue = by_identity.get(place)
            if queue is None:
                by_identity[place] = one
            elif isinstance(queue, Pending):
                by_identity[place] = deque((queue, one))
            else:
                queue.append(one)

    def take(self, place: Identity | None) -> Pending | None:
        """Take out the oldest that *place* stands for."""
        if place is None or not self._by_identity:
            return None
        found = self._by_identity.get(place)
        if found is None:
            return None
        one = found if isinstance(found, Pending) else found[0]
        self.give_up(one)
        return one

    def give_up(self, one: Pending) -> None:
        """Let *one* wait no more."""
        one.is_over = True
        self.held -= len(one.held)
        by_identity = self._by_identity
        for place in one.places:
            queue = by_identity[place]
            if isinstance(queue, Pending):
                del by_identity[place]
            else:
                queue.remove(one)
                if len(queue) == 1:
                    by_identity[place] = queue[0]
        while self._queue and self._queue[0].is_over:
            self._queue.popleft()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the oldest have to go."""
        return len(self._queue) > PENDING_MAX or self.held > HELD_MAX

    def too_many(self) -> Iterator[Pending]:
        """Yield the oldest, which are over then, until the rest are few enough."""
        while self._queue and self.is_full:
            one = self._queue[0]
            self.give_up(one)
            yield one

    def all(self) -> Iterator[Pending]:
        """Yield all, which are over then."""
        while self._queue:
            one = self._queue[0]
            self.give_up(one)
            yield one


class Gone:
    """Events that would not be: the newest are remembered, to say why others are."""

    def __init__(self) -> None:
        self._numbers: dict[int, None] = {}

    def note(self, sequence: int) -> None:
        """Remember one."""
        self._numbers[sequence] = None
        if len(self._numbers) > GONE_MAX:
            del self._numbers[next(iter(self._numbers))]

    def first_of(self, events: Iterable[int]) -> int | None:
        """Return the first of *events* that would not be."""
        if not self._numbers:
            return None
        return next((number for number in events if number in self._numbers), None)
