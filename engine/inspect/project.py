"""`project`: the state of a projection after any record of a log.

Of one as it is declared today, whatever the log was run with: from the nearest snapshot that
has its state, and otherwise folded from the oldest record that is kept.  Only ever reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.engine import record as r
from headrace.engine.decider import Decider, NoRules
from headrace.engine.errors import LogMismatch
from headrace.engine.inspect.walk import Walk
from headrace.engine.kernel import Kernel
from headrace.engine.log.reader import LogReader
from headrace.engine.projected import View, own_name
from headrace.engine.restore import ReadableLog, first_sequence, from_snapshot, read_back
from headrace.engine.timers import Timers


def project(log: ReadableLog, decider: Decider, which: Any, *, at: int | None = None) -> View[Any]:
    """Return the state of a projection of *decider* after the record *at*, or at the end.

    Raises:
        TypeError, RuleNotFound: *decider* has no such projection.
        ValueError: *log* has no such record.
        LogCorrupt: damage was met before it.
    """
    rule = decider.projection(which)
    first, last = first_sequence(log), log.committed_sequence
    if at is None:
        at = last
    elif not first <= at <= last:
        there = f"a sequence from {first} to {last}" if last else "a log that has records"
        raise ValueError(f"at={at}: expected {there}")
    kernel = _walked(log, decider.alone(rule), rule, at)
    return folded_anew(log, decider, rule, at) if kernel is None else view_in(kernel, rule)


def view_in(kernel: Kernel, rule: str) -> View[Any]:
    """Return the state of a projection, as the log calls it, in *kernel*."""
    state = kernel.state
    return View(
        own_name(rule), lambda: state.decider.folded(rule), lambda: state.seen_from.get(rule, 1)
    )


def _walked(log: ReadableLog, decider: Decider, rule: str, at: int) -> Kernel | None:
    """Return the kernel at *at*, from a snapshot; ``None``: no snapshot before has the state."""
    if not isinstance(log, LogReader):
        return None
    try:
        walk = Walk(log, decider, before=at)
    except LogMismatch:  # the beginning is gone, and no snapshot can be used
        return None
    if rule not in walk.kernel.state.active:
        return None
    kernel = walk.to(at)
    if walk.damage is not None:
        raise walk.damage
    return kernel if rule in kernel.state.active else None


def folded_anew(log: ReadableLog, decider: Decider, rule: str, at: int) -> View[Any]:
    """Return what a projection makes of the records that are kept, up to *at*.

    Raises:
        LogCorrupt: damage was met.
    """
    alone, sources = decider.alone(rule), list[str]()
    alone.attach(Timers(), sources)
    alone.activate(rule, 0)
    first = first_sequence(log)
    if first > 1:  # their names are needed, and were recorded before
        kernel, _ = from_snapshot(log, NoRules())
        sources += kernel.state.sources
    for sequence, record in _inputs(log, first, at):
        if isinstance(record, r.EventStored):
            alone.on_event(sequence, record)
        elif record.number > len(sources):
            sources.append(record.name)
    return View(own_name(rule), lambda: alone.folded(rule), lambda: first)


def _inputs(
    log: ReadableLog, first: int, at: int
) -> Iterator[tuple[int, r.EventStored | r.SourceOpened]]:
    for sequence, record in read_back(log, first, at):
        if isinstance(record, (r.EventStored, r.SourceOpened)):
            yield sequence, record
        if sequence == at:
            return  # behind it there may be damage, which is no matter of this
