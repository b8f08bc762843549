"""The causal tree of a record: everything that it led to, found in one pass over what follows it.

What came from outside makes up most of a log and can be the effect of nothing, so it is passed
over by its first two bytes.  The tree is bounded, and says where it was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.log.index import INPUT_TAG_MAX, log_time_ns
from headrace.engine.tracing.links import RUN_TAGS, Decode, plain, run_named
from headrace.engine.tracing.spans import Span, Spans, made_by

NODES_MAX: Final = 100_000

_EVENT_TAG: Final = 1
_OUTSIDE_HEAD_MAX: Final = 0x99
"""The first byte of an event that no run emitted: an array of at most 9 (see `record.encode`)."""


class Node(Struct):
    """A record of the tree, or a run with all that is recorded of it."""

    sequence: int
    kind: str
    """As `record.KIND_BY_TYPE` has it, but ``run`` for what makes a run."""
    name: str
    at_ns: int
    cause: int = 0
    """The node that led to it; 0: it is the root."""
    also: list[int] = []
    """Other events that its rule or run needed."""
    key: Any = None
    data: Any = None
    outcome: str = ""
    """Of a firing that made no run: what became of it."""
    reason: str = ""
    due_ns: int | None = None
    span: Span | None = None
    """Of a run."""
    effects: list[int] = []


class Tree:
    """Everything that one record led to."""

    def __init__(self, *, nodes_max: int = NODES_MAX) -> None:
        self.nodes: dict[int, Node] = {}
        """By sequence, oldest first; the first is the root."""
        self.spans = Spans()
        self.is_cut = False
        """Whether it has more effects than were to be kept."""
        self.last = 0
        """The last record that was looked at."""
        self._nodes_max = nodes_max
        self._input = 0
        self._input_at: bytes | int = 0
        self._place = 0

    def begin(self, sequence: int, record: r.Record, at_ns: int) -> None:
        """Begin with the record at *sequence* as the root."""
        self._add_any(sequence, record, at_ns, 0)
        self.last = sequence
        self._input, self._input_at = sequence, at_ns
        self._place = sequence if sequence in self.nodes else 0

    def grow(
        self,
        batches: Iterable[tuple[int, list[bytes]]],
        decode: Decode,
        advance: Callable[[int], None] = lambda _sequence: None,
    ) -> None:
        """Take all that follows the root, until the tree is full."""
        nodes = self.nodes
        for first, batch in batches:
            for sequence, raw in enumerate(batch, first):
                tag = raw[1] if len(raw) > 2 else 0
                if tag == _EVENT_TAG and 0x90 < raw[0] <= _OUTSIDE_HEAD_MAX:
                    self._input, self._input_at, self._place = sequence, raw, 0
                    continue
                if tag in RUN_TAGS and (run := run_named(raw)) >= 0 and run not in nodes:
                    self._input, self._input_at, self._place = sequence, raw, 0
                    continue
                self._take(sequence, decode(sequence, raw), raw, tag)
                if self.is_cut:
                    self.last = sequence
                    return
            self.last = first + len(batch) - 1
            advance(self.last)

    def _take(self, sequence: int, record: r.Record, raw: bytes, tag: int) -> None:
        if tag <= INPUT_TAG_MAX:
            at_ns: int = getattr(record, "at_ns", 0)
            self._input, self._input_at, self._place = sequence, raw, 0
        else:
            at_ns = self._time()
        span = self.spans.take(sequence, record, at_ns)
        if span is not None and tag <= INPUT_TAG_MAX:
            self._place = span.run
        cause = self._cause(record)
        if cause:
            self._add_any(sequence, record, at_ns, cause)
            if tag <= INPUT_TAG_MAX:
                self._place = sequence if sequence in self.nodes else cause

    def _time(self) -> int:
        """Return the log time of the input that the present decision belongs to."""
        if not isinstance(self._input_at, int):
            self._input_at = log_time_ns(self._input_at)
        return self._input_at

    def _cause(self, record: r.Record) -> int:
        """Return the node that led to *record*; 0: none of the tree."""
        nodes = self.nodes
        if isinstance(record, (r.RuleFired, r.RuleLoop)):
            found = next((event for event in reversed(record.events) if event in nodes), 0)
            return found or (0 if record.events else self._place)
        if isinstance(record, r.StepRequested):
            return record.parent if record.parent in nodes else 0
        if isinstance(record, r.EventStored):
            if record.run in nodes:
                return record.run
            return self._told_of(record) if record.hops and not record.run else 0
        if isinstance(record, (r.RuleMismatch, r.RuleError, r.RuleLate)):
            return record.event if record.event in nodes else 0
        if isinstance(record, r.WaitEnded):
            met = record.met.events if record.met is not None else []
            if record.run not in nodes:
                return next((event for event in reversed(met) if event in nodes), 0)
            return 0
        if isinstance(record, (r.RunReleased, r.RunReplaced, r.RunCancelling)):
            # What they say of a run of the tree is in its span.
            return 0 if record.run in nodes else self._place
        if isinstance(record, r.RuleEvicted):
            return self._place
        if isinstance(record, (r.RunLaunched, r.CancelRequested, r.SignalSent, r.RunRedriven)):
            return record.run if record.run in nodes else 0
        return 0

    def _told_of(self, event: r.EventStored) -> int:
        data = plain(event.data)
        told = (data.get("firing") or data.get("event")) if isinstance(data, dict) else 0
        return next((one for one in (told, event.trace) if one in self.nodes), 0)

    def _add_any(self, sequence: int, record: r.Record, at_ns: int, cause: int) -> None:
        if len(self.nodes) >= self._nodes_max:
            self.is_cut = True
            return
        node = node_of(sequence, record, at_ns)
        node.cause = cause
        if isinstance(record, (r.RuleFired, r.RuleLoop)):
            node.also = [event for event in record.events if event != cause]
        if isinstance(record, r.WaitEnded) and record.met is not None and cause != record.run:
            node.also = [event for event in record.met.events if event != cause]
        if node.span is not None:
            self.spans.add(node.span)
        self.nodes[sequence] = node
        if cause:
            self.nodes[cause].effects.append(sequence)


def node_of(sequence: int, record: r.Record, at_ns: int) -> Node:
    """Return what is to be said of *record*, without its place in a tree."""
    span = made_by(sequence, record, at_ns)
    if span is not None:
        node = Node(sequence, "run", span.name, at_ns, key=span.key, span=span)
        if isinstance(record, r.RuleFired):
            _say_firing(node, record)
        else:
            node.data = plain(span.args)
        return node
    node = Node(sequence, r.KIND_BY_TYPE[type(record)], _name_of(record), at_ns)
    if isinstance(record, (r.EventStored, r.EventOffered)):
        node.data = plain(record.data)
        node.key = record.key
    elif isinstance(record, r.RuleFired):
        node.key, node.outcome = record.key, record.outcome
        _say_firing(node, record)
    elif isinstance(record, r.StepRequested):
        node.data = plain(record.args)
    elif isinstance(record, r.SignalSent):
        node.data = plain(record.data)
    elif isinstance(record, r.TimerFired):
        node.key, node.due_ns = record.key, record.due_ns
    elif isinstance(record, (r.RuleLoop, r.RuleEvicted)):
        node.key = record.key
    reason = getattr(record, "error", None) or getattr(record, "reason", None)
    if isinstance(reason, str):
        node.reason = reason
    return node


def _say_firing(node: Node, fired: r.RuleFired) -> None:
    node.due_ns = fired.due_ns
    if fired.details is not None and fired.details.reason is not None:
        node.reason = fired.details.reason


def _name_of(record: r.Record) -> str:
    if isinstance(record, r.TimerFired):
        return record.owner or f"run {record.slot}"
    for field in ("subject", "rule", "task", "name"):
        found = getattr(record, field, None)
        if isinstance(found, str):
            return found
    run = getattr(record, "run", None)
    return "" if run is None else f"run {run}"
