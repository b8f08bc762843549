"""What was seen of one input of a rule: a `TracedStep` with a `Note` for each operator."""

from __future__ import annotations

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
