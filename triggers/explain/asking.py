"""`ask`: walks a log with traced rules up to a record, and says why a rule fired on it or not."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.engine.errors import LogMismatch
from headrace.engine.kernel import Kernel
from headrace.engine.record import DECISION_KINDS, Decision, Record
from headrace.triggers.explain.tracing import TracedRules
from headrace.triggers.explain.why import Inquiry, Why


class Way(Protocol):
    """What is needed of a `headrace.engine.inspect.walk.Walk`."""

    kernel: Kernel
    begun_after: int

    def to(self, sequence: int, watch: Any = None) -> Kernel:
        """See `Walk.to`."""
        ...

    def record(self, sequence: int) -> Record | None:
        """See `Walk.record`."""
        ...

    def end_of_unit(self, sequence: int) -> int:
        """See `Walk.end_of_unit`."""
        ...


def ask(way: Way, rules: TracedRules, rule: str, sequence: int, keys: tuple[Any, ...] = ()) -> Why:
    """Say why *rule* fired on the input at *sequence*, or did not.

    *way* has a kernel over *rules*, which stands before that record.  With *keys* it is asked
    about one of these; the record need not be about it.

    Raises:
        LogMismatch: damage ends the way before that record.
    """
    decisions: list[tuple[int, Decision]] = []
    found: list[Record] = []
    inquiry = Inquiry(rules, rule, way.kernel.state, keys)
    record = way.record(sequence)
    after = 0 if record is None else inquiry.begin(sequence, record)
    looked_back_to = max(way.begun_after, after)

    def watch(number: int, record: Record) -> None:
        rules.sequence = number
        if after >= 0 and number == looked_back_to + 1:
            inquiry.note_all()
        if number == sequence:
            found.append(record)
            inquiry.before(number, record)
        elif number > sequence and isinstance(record, DECISION_KINDS):
            decisions.append((number, record))

    way.to(way.end_of_unit(sequence), watch)
    if not found:
        raise LogMismatch(
            f"expected record {sequence}, found that the log can be read up to record "
            f"{way.kernel.sequence} only"
        )
    why = inquiry.answer(sequence, found[0], decisions)
    why.looked_back_to = looked_back_to
    return why
