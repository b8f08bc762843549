"""What was seen of one input of a rule: a `TracedStep` with a `Note` for each operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored, RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.entry import Entry
from headrace.triggers.hit import Hit


class Note(Struct):
    """What one operator made of one hit, or of a timer of its own."""

    node: n.Node
    stage: Any
    key: Any
    at_ns: int
    """The time by which the operator went; of event time, if the rule does."""
    hit: Hit | None
    """What came to it; ``None``: its timer."""
    met: tuple[int, ...] = ()
    """Where several chains meet: the numbers of those that were met, or of the steps."""
    is_miss: bool = False
    """Whether a condition before it had turned the event down."""
    before: Any = None
    after: Any = None
    passed: list[Hit] = []
    """What it handed on."""
    evicted: list[RuleEvicted] = []


class TracedStep(Struct):
    """One event or timer that concerned the rule."""

    sequence: int
    at_ns: int
    """Log time."""
    record: EventStored | None = None
    timer: tuple[int, Any, int] | None = None
    """Slot, key and due time."""
    entries: list[tuple[Entry, Event[Any], Any]] = []
    """Where the event came in, as what, and its key there."""
    notes: list[Note] = []
    verdicts: list[Verdict] = []

    @property
    def keys(self) -> list[Any]:
        """The keys that it was about, those of the operators first."""
        return list(dict.fromkeys([*(note.key for note in self.notes), *self.entry_keys]))

    @property
    def entry_keys(self) -> list[Any]:
        """The keys that the event has where it came in."""
        return [key for *_, key in self.entries]


def in_order(notes: Sequence[Note]) -> list[Note]:
    """Return *notes* with the operators in written order: those behind are noted first."""
    order: list[Note] = []
    waiting = list(notes)
    while waiting:
        # One that handed on is before what it handed on to, which was noted just before it.
        chain = [waiting.pop()]
        while waiting and any(_led_to(note, waiting[-1]) for note in chain):
            chain.append(waiting.pop())
        order = [*chain, *order]
    return order


def _led_to(first: Note, then: Note) -> bool:
    return then.hit is not None and any(then.hit is hit for hit in first.passed)
