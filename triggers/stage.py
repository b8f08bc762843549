"""What all stages have in common: how they pass hits on, and how they keep state by key.

A stage is one operator at work.  It takes a `Hit` and hands on none, one or more to the
next one; the last is a `Sink`.  Time comes with the hits and with timers that the kernel
hands back, so a fold of the log rebuilds every state exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored, RuleError, RuleEvicted, thaw
from headrace.engine.table import OrderedTable, Writing
from headrace.engine.timers import Timers
from headrace.triggers.hit import Hit, Need, Recall, last_line
from headrace.triggers.keys import KEY_EXPECTED, is_key, plain_key

S = TypeVar("S")

Counters = dict[str, int]


class Stage(Protocol):
    """One operator at work."""

    @property
    def need(self) -> Need:
        """How much of the events of hits it and those behind it read."""
        ...

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """Take *hit*; append verdicts to *out*."""
        ...


class LevelStage(Stage, Protocol):
    """A stage that also wants to know of events which a condition before it turned down."""

    def miss(self, hit: Hit, out: list[Verdict]) -> None:
        """Take what did not pass; it is no hit."""
        ...


class EventStage(Stage, Protocol):
    """A stage that can take an event as it comes, and makes a hit only if it hands one on."""

    def take(
        self, key: Any, event: Event[Any], record: EventStored, entry: int, out: list[Verdict]
    ) -> None:
        """Take *event*, with its record and the number of the entry that it came by."""
        ...


class TimedStage(Stage, Protocol):
    """A stage that has timers."""

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """Return how many due times from *due_ns* on, before *until_ns*, lead to no firing.

        It is asked of a timer that was due in a downtime, which ended at *until_ns*.
        """
        ...

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """Take a timer of this stage that was due; it is no longer armed."""
        ...

    def start(self, at_ns: int) -> None:
        """Arm what is to be armed when the rule is activated."""
        ...


class Moments(Struct):
    """What stages are told of the engine's life."""

    started_ns: int = 0
    """Log time of the last start."""


class Place(Struct, frozen=True):
    """Where a stage stands: its rule and slot, its timers and bounds."""

    rule: str
    slot: int
    """Which of the rule's stages with timers it is."""
    timers: Timers
    keys_max: int
    recall: Recall
    counters: Counters
    """What the rule counts without recording it."""
    moments: Moments

    def arm(self, key: Any, due_ns: int) -> None:
        """Let the stage's timer for *key* fire at *due_ns*; if it was armed, it moves."""
        self.timers.arm((self.rule, self.slot, key), due_ns)

    def disarm(self, key: Any) -> None:
        """Forget the timer for *key*, if there is one."""
        self.timers.disarm((self.rule, self.slot, key))

    def due_ns(self, key: Any) -> int | None:
        """Return when the timer for *key* is due, or ``None``."""
        return self.timers.due_ns((self.rule, self.slot, key))

    def note(self, what: str, count: int = 1) -> None:
        """Count what is counted and not recorded, such as ``suppressed``."""
        self.counters[what] = self.counters.get(what, 0) + count


class KeyedStage(ABC, Generic[S]):
    """A stage with state of its own for each key, at most ``keys_max`` (law L6).

    The table is ordered by the last change that `keep` was told of, so that its first entry
    is the one to evict.
    """

    _clears = False
    """Whether a firing for a key is an alarm until the stage says that it is over."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._rule = place.rule
        self._table: OrderedTable[Any, S] = OrderedTable()

    def __len__(self) -> int:
        return len(self._table)

    def keep(self, key: Any, state: S, out: list[Verdict]) -> None:
        """Store the state of *key*; one that is new may cost the oldest its place."""
        table = self._table
        if len(table) >= self._place.keys_max and table.peek(key) is None:
            self._tidy_up(out)
            if len(table) >= self._place.keys_max and (oldest := table.first()) is not None:
                self._evict(oldest[0], out)
        table.store(key, state)

    def _tidy_up(self, out: list[Verdict]) -> None:
        """Drop what is no state any more, before something that is has to go."""

    def _evict(self, key: Any, out: list[Verdict]) -> None:
        self._table.pop(key)
        self._forget_timers(key)
        out.append(RuleEvicted(self._rule, self.key_of_rule(key), "key", self._clears))

    def _forget_timers(self, key: Any) -> None:
        self._place.disarm(key)

    def key_of_rule(self, key: Any) -> Any:
        """Return the automaton's key of one that is made of more."""
        return key

    @abstractmethod
    def packed(self, key: Any, state: S) -> tuple[list[Any], int | None]:
        """Return an entry as plain data that begins with the key, and its oldest sequence."""

    @abstractmethod
    def unpacked(self, key: Any, fields: list[Any]) -> S:
        """Return the state that `packed` made *fields* of; the key is not among them."""

    def clear(self) -> None:
        """Begin empty; the timers are the rule's to disarm."""
        self._table.clear()

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        return [self.packed(*entry)[0] for entry in self._table.items()]

    def write_out(self) -> Writing:
        """Begin to write the state out; its timers are written with all others."""
        return self._table.write_out(self.packed)

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        for key, *fields in entries:
            thawed = thaw(key)
            self._table.store(thawed, self.unpacked(thawed, fields))


class TimerStage(KeyedStage[S]):
    """A keyed stage with timers that do not repeat."""

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        return 0

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""


# ---------------------------------------------------------------- users' functions (law L4)


def asked(
    rule: str,
    place: str,
    function: Callable[..., Any],
    event: Event[Any],
    out: list[Verdict],
    *more: Any,
) -> tuple[bool, Any]:
    """Ask a user's function; return whether it answered, and what.

    One that raises is a recorded error.
    """
    try:
        return True, function(event, *more)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (user code: law L4)
        out.append(RuleError(rule, event.sequence, place, last_line(error)))
        return False, None


def holds(
    rule: str, condition: Callable[..., Any], event: Event[Any], out: list[Verdict], *more: Any
) -> bool:
    """Ask a condition; one that raises, also when asked for its truth, does not hold."""
    return (
        asked(rule, "where", lambda *given: bool(condition(*given)), event, out, *more)[1] is True
    )


def key_of(
    rule: str,
    key: Callable[[Any], Any],
    event: Event[Any],
    out: list[Verdict],
    *,
    place: str = "key",
) -> Any:
    """Ask *key*; one that raises or gives no usable key is a recorded error, and ``None``."""
    answered, value = asked(rule, place, key, event, out)
    return checked_key(rule, value, event, out, place=place) if answered else None


def checked_key(
    rule: str, value: Any, event: Event[Any], out: list[Verdict], *, place: str = "key"
) -> Any:
    """Return *value* as a key; one that cannot be is a recorded error, and ``None``."""
    if value is None:
        return None
    kind = type(value)
    if is_key(value):
        return value if kind is str or kind is int else plain_key(value)
    text = f"TypeError: the key is of type {kind.__name__}; {KEY_EXPECTED}"
    out.append(RuleError(rule, event.sequence, place, text))
    return None
