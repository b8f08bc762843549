"""Descriptions of patterns, for the reference model and for `patterns.pattern_of`.

Times are in seconds.  Functions take what `Seen` and the engine's events have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Literal, NamedTuple

CountMode = Literal["reset", "edge", "every"]
Repeat = Literal["once", "every"]
Edge = Literal["leading", "trailing", "both"]
Overflow = Literal["queue", "drop", "latest"]
Keep = Literal["latest", "first", "all"]
Rearm = Literal["ignore", "restart"]
Anchor = Literal["first", "last", "every"]
Contiguity = Literal["relaxed", "strict"]
Late = Literal["drop", "as_now"]


class On(NamedTuple):
    subject: str


class Where(NamedTuple):
    source: Spec
    condition: Callable[[Any], bool]


class Key(NamedTuple):
    source: Spec
    key: Callable[[Any], Hashable]


class EventTime(NamedTuple):
    source: Spec
    """A chain of `On`, `Where` and `Key`."""
    time: Callable[[Any], float | None]
    lateness: float
    late: Late = "drop"


class Crosses(NamedTuple):
    source: Spec
    value: Callable[[Any], Any]
    above: float | None
    below: float | None = None
    hysteresis: float = 0
    initial: bool = False


class Hold(NamedTuple):
    source: Spec
    """Ends in a `Where`, but for `Key`s behind it."""
    wait: float


class Count(NamedTuple):
    source: Spec
    n: int
    within: float | None
    mode: CountMode


class Debounce(NamedTuple):
    source: Spec
    quiet: float
    max_wait: float | None = None
    edge: Edge = "trailing"


class Throttle(NamedTuple):
    source: Spec
    period: float
    edge: Edge = "leading"


class RateLimit(NamedTuple):
    source: Spec
    n: int
    per: float
    burst: int | None = None
    overflow: Overflow = "queue"


class Dedupe(NamedTuple):
    source: Spec
    key: Callable[[Any], Hashable] | None
    """None: one for all."""
    ttl: float
    refresh: bool = False


class Batch(NamedTuple):
    source: Spec
    n: int | None = None
    within: float | None = None
    bytes_max: int | None = None


class Windows(NamedTuple):
    """Tumbling, if `every` is the size."""

    source: Spec
    size: float
    every: float
    tz: str = "UTC"
    emit_empty: bool = False


class Session(NamedTuple):
    source: Spec
    gap: float
    max: float | None = None


class Aggregate(NamedTuple):
    source: Spec
    fold: Callable[[Any], Any]


class Silent(NamedTuple):
    source: Spec
    wait: float
    repeat: Repeat
    expect: tuple[Any, ...] = ()


class AnyOf(NamedTuple):
    branches: tuple[Spec, ...]


class AllOf(NamedTuple):
    branches: tuple[Spec, ...]
    within: float | None
    keep: Keep = "latest"


class Absent(NamedTuple):
    awaited: Spec
    after: Spec
    within: float
    rearm: Rearm = "ignore"


class Part(NamedTuple):
    """A step of a sequence, or what must not come there."""

    source: Spec
    name: str | None = None
    """Of a step; without one it is named after its place."""
    condition: Callable[[Any, Any], bool] | None = None
    """Sees the events that the steps before it have taken."""
    is_not: bool = False
    contiguity: Contiguity = "relaxed"
    """Of `not_` alone: none in between, or not as the very next."""


class Sequence(NamedTuple):
    parts: tuple[Part, ...]
    within: float | None = None
    contiguity: Contiguity = "relaxed"
    anchor: Anchor = "first"
    on_timeout: bool = False


class Every(NamedTuple):
    period: float


Spec = (
    On
    | Where
    | Key
    | EventTime
    | Crosses
    | Hold
    | Count
    | Debounce
    | Throttle
    | RateLimit
    | Dedupe
    | Batch
    | Windows
    | Session
    | Aggregate
    | Silent
    | AnyOf
    | AllOf
    | Absent
    | Sequence
    | Every
)

CHAIN = (On, Where, Key, EventTime)


def sources_of(spec: Spec) -> tuple[Spec, ...]:
    """Return what *spec* is directly made of."""
    if isinstance(spec, On | Every):
        return ()
    if isinstance(spec, AnyOf | AllOf):
        return spec.branches
    if isinstance(spec, Absent):
        return (spec.awaited, spec.after)
    if isinstance(spec, Sequence):
        return tuple(part.source for part in spec.parts)
    return (spec.source,)


def parts_of(spec: Spec) -> Iterator[Spec]:
    """Yield *spec* and all that it is made of."""
    yield spec
    for source in sources_of(spec):
        yield from parts_of(source)


def has_one_event(spec: Spec) -> bool:
    """Whether its hits are those of single events: nothing to aggregate."""
    single = (*CHAIN, AnyOf, Crosses, Dedupe, Throttle, RateLimit)
    return all(isinstance(part, single) for part in parts_of(spec))


def may_lack_event(spec: Spec) -> bool:
    """Whether there are hits of it that have no event; conditions cannot follow."""
    return any(
        (isinstance(part, Silent) and bool(part.expect))
        or (isinstance(part, Windows) and part.emit_empty)
        or isinstance(part, Every)
        for part in parts_of(spec)
    )
