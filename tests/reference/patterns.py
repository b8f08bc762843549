"""The real patterns of the descriptions in `spec`."""

from __future__ import annotations

from typing import Any

from tests.reference.spec import (
    Absent,
    Aggregate,
    AllOf,
    AnyOf,
    Batch,
    Count,
    Crosses,
    Debounce,
    Dedupe,
    EventTime,
    Every,
    Hold,
    Key,
    On,
    Part,
    RateLimit,
    Sequence,
    Session,
    Silent,
    Spec,
    Throttle,
    Where,
    Windows,
)

from headrace import absent, all_of, any_of, not_, on, sequence, silent, step
from headrace.engine.clock import NS
from headrace.triggers.nodes_clock import EveryNode
from headrace.triggers.pattern import Pattern


def pattern_of(spec: Spec) -> Pattern[Any]:
    """Return the real pattern."""
    if isinstance(spec, On):
        return on(spec.subject)
    if isinstance(spec, Every):
        return Pattern(EveryNode(round(spec.period * NS)))
    if isinstance(spec, AnyOf):
        return any_of(*(pattern_of(branch) for branch in spec.branches))
    if isinstance(spec, AllOf):
        branches = [pattern_of(branch) for branch in spec.branches]
        return all_of(*branches, within=spec.within, keep=spec.keep)
    if isinstance(spec, Absent):
        awaited, after = pattern_of(spec.awaited), pattern_of(spec.after)
        return absent(awaited, after=after, within=spec.within, rearm=spec.rearm)
    if isinstance(spec, Sequence):
        return sequence(
            *(part_of(part) for part in spec.parts),
            within=spec.within,
            contiguity=spec.contiguity,
            anchor=spec.anchor,
            on_timeout=spec.on_timeout,
        )
    return behind(pattern_of(spec.source), spec)


def part_of(part: Part) -> Any:
    """Return a step of a sequence."""
    pattern = pattern_of(part.source)
    if part.condition is not None:
        pattern = pattern.where(part.condition)
    if part.is_not:
        return not_(pattern, contiguity=part.contiguity)
    return pattern if part.name is None else step(part.name, pattern)


def behind(source: Pattern[Any], spec: Any) -> Pattern[Any]:
    """Return *source* with one more operator."""
    match spec:
        case Where():
            return source.where(spec.condition)
        case Key():
            return source.key(spec.key)
        case EventTime():
            return source.event_time(spec.time, lateness=spec.lateness, late=spec.late)
        case Crosses():
            return source.crosses(
                spec.value,
                above=spec.above,
                below=spec.below,
                hysteresis=spec.hysteresis,
                initial=spec.initial,
            )
        case Hold():
            return source.hold(for_=spec.wait)
        case Count():
            return source.count(spec.n, within=spec.within, mode=spec.mode)
        case Silent():
            return silent(source, for_=spec.wait, repeat=spec.repeat, expect=spec.expect)
        case Aggregate():
            return source.aggregate(spec.fold)
        case _:
            return less_often(source, spec)


def less_often(source: Pattern[Any], spec: Any) -> Pattern[Any]:
    """Return *source* with an operator that makes fewer firings of it."""
    match spec:
        case Debounce():
            return source.debounce(spec.quiet, spec.max_wait, spec.edge)
        case Throttle():
            return source.throttle(spec.period, spec.edge)
        case RateLimit():
            return source.rate_limit(spec.n, spec.per, spec.burst, spec.overflow)
        case Dedupe():
            return source.dedupe(spec.key, spec.ttl, refresh=spec.refresh)
        case Batch():
            return source.batch(spec.n, spec.within, spec.bytes_max)
        case Windows() if spec.every == spec.size:
            return source.tumbling(spec.size, tz=spec.tz, emit_empty=spec.emit_empty)
        case Windows():
            return source.hopping(spec.size, spec.every, tz=spec.tz, emit_empty=spec.emit_empty)
        case Session():
            return source.session(spec.gap, spec.max)
        case _:
            raise AssertionError(spec)
