"""What people get to see of the engine: plain data made of its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from headrace.engine.breakers import BreakerView
from headrace.engine.kernel import Kernel
from headrace.engine.projected import is_projection, own_name
from headrace.engine.rule_state import RuleStats
from headrace.engine.runs import Progress, RunView, view_of
from headrace.engine.state import EngineState


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
    paused: bool = False
    """Whether its firings start no runs."""
    missed: int = 0
    """Firings that were due too long ago."""
    late: int = 0
    """Events that came after its watermark."""
    suppressed: int = 0
    """What throttle, rate_limit and dedupe have dropped since it was activated."""


class ProjectionView(Struct, frozen=True):
    """A projection and what became of its events so far."""

    name: str
    active: bool
    """Whether it takes events: declared, and the same as recorded."""
    keys: int
    """Keys with state."""
    since: int
    """The first record that it has seen; more than 1: what came before was not kept."""
    mismatched: int
    errors: int
    evicted: int
    unkeyed: int


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
    alarms: int = 0
    """How many stand."""
    breakers: list[BreakerView] = []
    """The circuits of tasks that are not closed."""
    projections: list[ProjectionView] = []


def state_of(kernel: Kernel, *, ready: bool = True) -> StateView:
    """Return the state of *kernel* in numbers, and that its engine is *ready*."""
    state = kernel.state
    counters = state.decider.counters()
    names = sorted({*state.stats, *state.declared})
    rules = [
        _rule_of(state, name, counters.get(name, {})) for name in names if not is_projection(name)
    ]
    ended: dict[str, int] = {}
    for by_status in state.runs.counts.values():
        for status, count in by_status.items():
            ended[status] = ended.get(status, 0) + count
    return StateView(
        kernel.sequence,
        state.at_ns,
        state.clock,
        state.events,
        rules,
        len(state.runs.active),
        sum(run.status in ("waiting", "retrying") for run in state.runs.known),
        ended,
        state.runs.retries,
        len(state.timers),
        {name: state.cursors.get(n) for n, name in enumerate(state.sources, 1)},
        len(state.offers),
        ready,
        len(state.alarms),
        list(state.breakers.moved.values()),
        [_projection_of(state, n, counters.get(n, {})) for n in names if is_projection(n)],
    )


def _projection_of(state: EngineState, name: str, counted: dict[str, int]) -> ProjectionView:
    stats = state.stats.get(name) or RuleStats()
    return ProjectionView(
        own_name(name),
        name in state.active,
        counted.get("keys", 0),
        state.seen_from.get(name, 1),
        stats.mismatched,
        stats.errors,
        stats.evicted,
        counted.get("unkeyed", 0),
    )


def _rule_of(state: EngineState, name: str, counted: dict[str, int]) -> RuleView:
    stats = state.stats.get(name) or RuleStats()
    return RuleView(
        name,
        name in state.active,
        stats.fired,
        stats.dropped,
        stats.mismatched,
        stats.errors,
        stats.evicted,
        stats.loops,
        counted.get("keys", 0),
        counted.get("unkeyed", 0),
        stats.last_fired_at_ns,
        name in state.paused,
        stats.missed,
        stats.late,
        counted.get("suppressed", 0),
    )


def runs_of(
    kernel: Kernel, status: str | None = None, *, progress: Mapping[int, Progress] | None = None
) -> list[RunView]:
    """Return the runs that are open and the last that ended, newest first.

    *progress* is what attempts have said of theirs, by run.
    """
    table = kernel.state.runs
    views: list[Any] = [view_of(run) for run in table.active.values()]
    if progress:
        views = [replace(view, progress=progress.get(view.id)) for view in views]
    views += table.ended
    known = {view.id for view in table.ended}
    views += (view for view in kernel.state.dead.views() if view.id not in known)
    views.sort(key=lambda view: -view.id)
    return [view for view in views if status is None or view.status == status]
