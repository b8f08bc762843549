"""What a stage holds for one key before and after a hit, as far as an explanation needs it.

A few numbers where that is enough: it is done for each event of a long stretch of a log.
"""

from __future__ import annotations

from typing import Any

from headrace.triggers import count, dedupe, level, pace, rate_limit
from headrace.triggers.absent import Absent
from headrace.triggers.all_of import AllOf
from headrace.triggers.batch import Batch
from headrace.triggers.hit import Hit
from headrace.triggers.sequence import SequenceStage
from headrace.triggers.sequence_plain import PlainSequence
from headrace.triggers.silent import Silent
from headrace.triggers.stage import key_of
from headrace.triggers.windows import Windows

RAN_OUT_MAX = 8
"""Events of a window that are named when they have run out of it."""


def frozen(stage: Any, key: Any, hit: Hit | None) -> Any:
    """Return what *stage* holds for *key*, as it will not change any more; ``None``: nothing.

    What a window loses by the time of *hit* is named beside it.
    """
    if isinstance(stage, dedupe.Dedupe):
        return _until(stage, key, hit)
    state = stage._table.peek(key)
    if state is None:
        return None
    if isinstance(stage, (count.PlainCount, count.Count)):
        return _window(stage, state, hit)
    if isinstance(stage, AllOf):
        return [[(one.at_ns, one.events) for one in hits] for hits in state]
    if isinstance(stage, PlainSequence):
        return list(state.partials)
    if isinstance(stage, pace.Debounce):
        return state.first_ns, len(state.hits)
    if isinstance(stage, rate_limit.RateLimit):
        first = state.waiting[0].events if state.waiting else ()
        return len(state.waiting), first, stage._turn_ns(state)
    if isinstance(stage, Batch):
        return len(state.hits), state.size_bytes
    if isinstance(stage, Windows):
        return state.start_ns, len(state.hits)
    # Of these the state itself is never changed, only replaced.
    assert isinstance(
        stage,
        (
            SequenceStage,
            Absent,
            Silent,
            level.Crosses,
            level.Hold,
            pace.LeadingThrottle,
            pace.Throttle,
        ),
    ), stage
    return state


def _until(stage: dedupe.Dedupe, key: Any, hit: Hit | None) -> int | None:
    """Return until when an equal of *hit* is dropped."""
    if hit is None:
        return None
    identity = None
    if stage._key is not None:
        identity = key_of(stage._rule, stage._key, hit.event, [])
    until_ns = stage._table.peek((key, identity))
    return None if until_ns is None or until_ns <= hit.at_ns else until_ns


def _window(stage: Any, state: Any, hit: Hit | None) -> tuple[int, bool, list[int], int, int]:
    """Return how many are in a window, whether it may fire, what has run out, first and n-th."""
    is_plain = isinstance(stage, count.PlainCount)
    size = len(state) // 2 if is_plain else len(state.hits)
    is_armed = bool(state[0]) if is_plain else state.armed

    def at_ns(place: int) -> int:
        return int(state[1 + 2 * place] if is_plain else state.hits[place].at_ns)

    gone = 0
    events: list[int] = []
    if stage._within_ns is not None and hit is not None:
        after_ns = hit.at_ns - stage._within_ns
        while gone < size and at_ns(gone) <= after_ns:
            if gone < RAN_OUT_MAX:
                events += [state[2 + 2 * gone]] if is_plain else state.hits[gone].events
            gone += 1
    return size, is_armed, events, gone, at_ns(gone) if gone < size else 0
