"""What `crosses`, `hold`, `dedupe`, `throttle`, `rate_limit` and `count` make of one key's hits."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from tests.reference.happened import Happened, Place, Stage, combined, handed_on, ns
from tests.reference.spec import Count, Crosses, Dedupe, Hold, RateLimit, Throttle


def counted(hits: list[Happened], spec: Count, stage: Stage) -> list[Happened]:
    """The sliding window of events e with now - e.t < W."""
    made: list[Happened] = []
    armed, fired_at = True, -1
    within = None if spec.within is None else ns(spec.within)

    def window(now: int, upto: int, since: int) -> list[Happened]:
        return [x for x in hits[since : upto + 1] if within is None or now - x.at < within]

    for index, hit in enumerate(hits):
        if spec.mode == "reset":
            held = window(hit.at, index, fired_at + 1)
            fires = len(held) >= spec.n
        else:
            held = window(hit.at, index, 0)
            armed = armed or len(window(hit.at, index - 1, 0)) < spec.n
            fires = len(held) >= spec.n and (armed or spec.mode == "every")
        if fires:
            armed, fired_at = False, index
            events = tuple(event for x in held for event in x.events)
            made.append(hit._replace(events=events, reason=None, steps=None))
    return made


def crossing(hits: list[Happened], spec: Crosses, stage: Stage) -> list[Happened]:
    """The transitions to true; below is above with the signs changed."""
    level = spec.above if spec.below is None else -spec.below
    assert level is not None, spec
    observed: list[tuple[float, Happened]] = []
    for hit in hits:
        value = spec.value(stage.show(hit))
        if isinstance(value, int | float) and not math.isnan(value):
            observed.append((value if spec.below is None else -value, hit))

    def is_high(upto: int) -> bool:
        """Whether one was above, and none since strictly beyond the hysteresis."""
        for value, _ in reversed(observed[:upto]):
            if value > level:
                return True
            if value < level - spec.hysteresis:
                return False
        return False

    return [
        hit
        for index, (value, hit) in enumerate(observed)
        if value > level and (not is_high(index) if index > 0 else spec.initial)
    ]


def held(observed: list[tuple[Happened, bool]], spec: Hold, stage: Stage) -> list[Happened]:
    """From each change to true on: whether it is true until the timer fires."""
    made = []
    for index, (first, is_true) in enumerate(observed):
        if is_true and (index == 0 or not observed[index - 1][1]):
            place = stage.timer(first.at + ns(spec.wait), first)
            seen = [x for x in observed[index:] if x[0].place < place]
            if all(was_true for _, was_true in seen):
                latest = seen[-1][0]
                both = combined([first, latest], place[0], place)
                is_same = first.events == latest.events
                made.append(both._replace(events=first.events) if is_same else both)
    return made


def deduped(hits: list[Happened], spec: Dedupe, stage: Stage) -> list[Happened]:
    """Those of which no other of the same key was accepted (or seen) within the ttl."""
    earlier: list[tuple[Any, Happened]] = []
    made = []
    for hit in hits:
        key = None if spec.key is None else spec.key(stage.show(hit))
        is_new = all(k != key or hit.at - x.at >= ns(spec.ttl) for k, x in earlier)
        if is_new or spec.refresh:
            earlier.append((key, hit))
        if is_new:
            made.append(hit)
    return made


def throttled(hits: list[Happened], spec: Throttle, stage: Stage) -> list[Happened]:
    """Fire, then suppress in [t, t+p); a trailing firing starts a new period."""
    made: list[Happened] = []
    period = ns(spec.period)
    if spec.edge == "leading":
        for first in hits:
            if not made or first.at >= made[-1].at + period:
                made.append(first)
        return made
    leading, trailing = ("leading", "trailing") if spec.edge == "both" else (None, None)
    end: Place | None = None
    suppressed: Happened | None = None
    following: list[Happened | None] = [*hits, None]
    for hit in following:
        while end is not None and (hit is None or end < hit.place):
            if suppressed is None:
                end = None
            else:
                made.append(handed_on(suppressed, end, reason=trailing))
                end, suppressed = stage.next_timer(end[0] + period, end), None
        if hit is None:
            break
        if end is None and spec.edge == "both":
            made.append(hit._replace(reason=leading))
        else:
            suppressed = hit
        end = stage.timer(hit.at + period, hit) if end is None else end
    return made


def rate_limited(hits: list[Happened], spec: RateLimit, stage: Stage) -> list[Happened]:
    """GCRA: a hit conforms from TAT - (burst - 1) T on, and moves TAT on by T = per / n."""
    made: list[Happened] = []
    spacing = Fraction(ns(spec.per), spec.n)
    slack = ((spec.n if spec.burst is None else spec.burst) - 1) * spacing
    tat = Fraction(-(10**30))
    waiting: list[Happened] = []
    due: Place = ()
    following: list[Happened | None] = [*hits, None]
    for hit in following:
        while waiting and (hit is None or due < hit.place):
            made.append(handed_on(waiting.pop(0), due))
            tat += spacing  # it conforms from a time on that need not be a whole nanosecond
            due = stage.next_timer(math.ceil(tat - slack), due)
        if hit is None:
            break
        if not waiting and hit.at >= tat - slack:
            made.append(hit)
            tat = max(Fraction(hit.at), tat) + spacing
        elif spec.overflow != "drop":
            if not waiting:
                due = stage.timer(math.ceil(tat - slack), hit)
            waiting = [*waiting, hit] if spec.overflow == "queue" else [hit]
    return made
