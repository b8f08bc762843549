"""Rules that go by event time: events ahead of the watermark, and those that came behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.engine import record as r
from headrace.triggers import nodes as n
from headrace.triggers.automaton import Automaton
from headrace.triggers.reach import event_time_of


def is_ahead(automaton: Automaton, sequence: int) -> bool:
    """Say whether the event at *sequence* waits for the watermark."""
    clock = automaton._clock
    return clock is not None and any(
        sequence == waiting for (_, waiting), _ in clock._waiting._table.items()
    )


def waited_longer(
    rule: str, node: n.Node, decisions: Sequence[tuple[int, r.Decision]]
) -> Iterator[str]:
    """Yield how long *rule* would have had to wait for an event that was too late."""
    goes_by = event_time_of(node)
    for _, late in decisions:
        if isinstance(late, r.RuleLate) and late.rule == rule and goes_by is not None:
            behind_ns = late.watermark_ns - late.time_ns
            yield f"lateness= had been more than {n.seconds(goes_by.lateness_ns + behind_ns)} s"
