"""One rule over a timeline, as records that can be folded again and explained."""

from __future__ import annotations

from typing import Any

from headrace.engine.clock import seconds_to_ns
from headrace.engine.decider import Decider, RunMode
from headrace.engine.kernel import Kernel
from headrace.engine.payload import encode_event
from headrace.engine.record import EngineStarted, EventStored, Input, Record, is_decision
from headrace.triggers.explain.asking import ask
from headrace.triggers.explain.tracing import traced
from headrace.triggers.explain.why import Why
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule, RuleSet

Timeline = list[tuple[float, str, Any]]
RULE = "rule"


def at(*seconds: float, subject: str = "a") -> Timeline:
    """A timeline of events on one subject; the data is the time."""
    return [(t, subject, t) for t in seconds]


class Played:
    """One rule, the kernel that it has run in, and the log that this has made."""

    def __init__(self, pattern: Pattern[Any], mode: RunMode = "parallel") -> None:
        self.declared = Rule(RULE, pattern, mode, version="1")
        self.rules = RuleSet([self.declared])
        self.kernel = Kernel(self.rules)
        self.records: list[Record] = []
        """The log: its first record has the sequence 1."""
        self.submit(EngineStarted(0, "", "input", self.rules.fingerprints()))

    def submit(self, record: Input) -> int:
        """Put a record into the log; return its sequence."""
        sequence = self.kernel.sequence + 1
        self.records += self.kernel.submit(record)
        return sequence

    def advance(self, t: float) -> None:
        """Let time come to *t*."""
        timers = self.kernel.state.timers
        while (first := timers.first()) is not None and first[0] <= seconds_to_ns(t):
            due = self.kernel.due_timer(first[0])
            assert due is not None, first
            self.submit(due)

    def emit(self, t: float, subject: str, data: Any) -> int:
        """Let an event happen; return its sequence."""
        self.advance(t)
        return self.submit(EventStored(seconds_to_ns(t), subject, encode_event(data, subject)))


class Way:
    """The way through the log of a rule that was played, for rules that are traced."""

    begun_after = 0

    def __init__(self, made: Played, decider: Decider) -> None:
        self._records = made.records
        self.kernel = Kernel(decider)

    def record(self, sequence: int) -> Record | None:
        """See `Walk.record`."""
        return self._records[sequence - 1]

    def end_of_unit(self, sequence: int) -> int:
        """See `Walk.end_of_unit`."""
        while sequence < len(self._records) and is_decision(self._records[sequence]):
            sequence += 1
        return sequence

    def to(self, sequence: int, watch: Any = None) -> Kernel:
        """See `Walk.to`."""
        for number in range(self.kernel.sequence + 1, sequence + 1):
            record = self._records[number - 1]
            if watch is not None:
                watch(number, record)
            self.kernel.fold(number, record)
        return self.kernel


def explained(made: Played, sequence: int, *keys: Any) -> Why:
    """Say why the rule fired on the input at *sequence*, or did not."""
    rules = traced(made.rules)
    return ask(Way(made, rules), rules, RULE, sequence, keys)


def played(
    pattern: Pattern[Any],
    timeline: Timeline,
    *,
    until: float | None = None,
    mode: RunMode = "parallel",
) -> Played:
    """Return the rule after *timeline*, which is ``(seconds, subject, data)``."""
    made = Played(pattern, mode)
    for t, subject, data in timeline:
        made.emit(t, subject, data)
    if until is not None:
        made.advance(until)
    return made
