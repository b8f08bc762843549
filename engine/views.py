"""What people get to see of the engine: plain data made of its state."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace.engine.kernel import Kernel
from headrace.engine.runs import RunView, view_of


class RuleView(Struct, frozen=True):
    """A rule and what became of its events so far."""

    name: str
    active: bool
    """Whether it takes events: declared, and the same as recorded."""
    fired: int
    dropped: int
    mismatched: int
    errors: int
    evicted: int
    loops: int
    keys: int
    """Keys with state."""
    unkeyed: int
    last_fired_at_ns: int


class StateView(Struct, frozen=True):
    """The engine's state in numbers."""

    sequence: int
    at_ns: int
    """Log time."""
    clock: str
    events: int
    rules: list[RuleView]
    runs_active: int
    runs_waiting: int
    """Of these, those that wait for a retry or for another run to end."""
    runs_ended: dict[str, int]
    """How many runs ended how, by status."""
    retries: int
    timers: int
    sources: dict[str, int | None]
    """The cursor of each source, by name."""
    offers: int = 0
    """Events that were offered while no engine ran and are not stored yet."""
    ready: bool = True
    """Whether events are taken: not while the disk is full or the engine stops."""


def state_of(kernel: Kernel, *, ready: bool = True) -> StateView:
    """Return the state of *kernel* in numbers, and that its engine is *ready*."""
    state = kernel.state
    counters = state.decider.counters()
    rules = []
    for name in sorted({*state.stats, *state.declared}):
        stats, counted = state.stats.get(name), counters.get(name, {})
        rules.append(
            RuleView(
                name,
                name in state.active,
                *(
                    (stats.fired, stats.dropped, stats.mismatched, stats.errors, stats.evicted)
                    if stats
                    else (0, 0, 0, 0, 0)
                ),
                stats.loops if stats else 0,
                counted.get("keys", 0),
                counted.get("unkeyed", 0),
                stats.last_fired_at_ns if stats else 0,
            )
        )
    ended: dict[str, int] = {}
    for by_status in state.runs.counts.values():
        for status, count in by_status.items():
            ended[status] = ended.get(status, 0) + count
    active = state.runs.active.values()
    return StateView(
        kernel.sequence,
        state.at_ns,
        state.clock,
        state.events,
        rules,
        len(active),
        sum(run.status in ("waiting", "retrying") for run in active),
        ended,
        state.runs.retries,
        len(state.timers),
        {name: state.cursors.get(n) for n, name in enumerate(state.sources, 1)},
        len(state.offers),
        ready,
    )


def runs_of(kernel: Kernel, status: str | None = None) -> list[RunView]:
    """Return the runs that are open and the last that ended, newest first."""
    table = kernel.state.runs
    views: list[Any] = [view_of(run) for run in table.active.values()]
    views += table.ended
    views.sort(key=lambda view: -view.id)
    return [view for view in views if status is None or view.status == status]
