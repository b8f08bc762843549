"""What a pattern is, as data: one node for each operator.

A node says what the user wrote (`text`) and all that decides what it matches (`parts`, the
fingerprint's material, law L8).  What it does at runtime is said by the stage of the same
name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from headrace.triggers.checks import KEYS_MAX, PARTIALS_MAX, WAITING_MAX

CountMode = Literal["reset", "edge", "every"]
Repeat = Literal["once", "every"]
Edge = Literal["leading", "trailing", "both"]
Overflow = Literal["queue", "drop", "latest"]
Keep = Literal["latest", "first", "all"]
Rearm = Literal["ignore", "restart"]
Late = Literal["drop", "as_now"]


WINDOWS_MAX: Final = 10_000
"""Windows that one event may be in."""


class Node(Struct, frozen=True):
    """An operator and what it is applied to."""

    @property
    def sources(self) -> tuple[Node, ...]:
        """The nodes that it is applied to."""
        return ()

    def text(self) -> str:
        """Return it in the words in which users write it."""
        raise NotImplementedError

    def parts(self) -> list[object]:
        """Return all that decides what it matches: plain data and functions."""
        raise NotImplementedError


class FilterNode(Node, frozen=True):
    """Events on a subject, decoded as a type."""

    subject: str
    type: Any

    def text(self) -> str:
        """See `Node`."""
        kind = "" if self.type is Any else f", {getattr(self.type, '__name__', self.type)}"
        return f"on({self.subject!r}{kind})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return ["on", self.subject, _shape_of(self.type)]


class Operator(Node, frozen=True):
    """What follows one source."""

    source: Node

    @property
    def sources(self) -> tuple[Node, ...]:
        """See `Node`."""
        return (self.source,)


class WhereNode(Operator, frozen=True):
    """Those of *source* for which *condition* holds."""

    condition: Callable[..., object]
    is_relative: bool = False
    """Whether it also takes the events that a sequence has taken so far."""

    def text(self) -> str:
        """See `Node`."""
        return f"{self.source.text()}.where({name_of(self.condition)})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "where", self.condition]


class KeyNode(Operator, frozen=True):
    """*source* with an automaton of its own for each key."""

    key: Callable[[Any], Hashable]
    keys_max: int = KEYS_MAX

    def text(self) -> str:
        """See `Node`."""
        more = said(keys_max=(self.keys_max, KEYS_MAX))
        return f"{self.source.text()}.key({name_of(self.key)}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "key", self.key, *changed((self.keys_max, KEYS_MAX))]


class FoldNode(Operator, frozen=True):
    """*source* folded into the state of a projection."""

    function: Callable[[Any, Any], Any]
    initial: bytes | None
    """What a key begins with, encoded; ``None``: with ``None``."""
    type: Any
    """Of the state."""
    forgets: bool
    """Whether the function may return ``None``, and a key has no state then."""

    def text(self) -> str:
        """See `Node`."""
        return self.source.text()

    def parts(self) -> list[object]:
        """See `Node`."""
        shape = _shape_of(self.type)
        return [*self.source.parts(), "fold", self.function, self.initial, shape, self.forgets]


class CountNode(Operator, frozen=True):
    """*n* of *source* within a sliding window."""

    n: int
    within_ns: int | None
    mode: CountMode
    partials_max: int = PARTIALS_MAX
    clears: bool = False
    """Whether it also says when what it told of has ended (`App.rule`, ``on_clear=``)."""

    def text(self) -> str:
        """See `Node`."""
        more = said(mode=(self.mode, "reset"), partials_max=(self.partials_max, PARTIALS_MAX))
        return f"{self.source.text()}.count({self.n}, within={seconds(self.within_ns)}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        more = changed((self.partials_max, PARTIALS_MAX), (self.clears, False))
        return [*self.source.parts(), "count", self.n, self.within_ns, self.mode, *more]


class CrossesNode(Operator, frozen=True):
    """A value that passes a threshold, upwards or downwards."""

    value: Callable[[Any], object]
    threshold: float
    is_above: bool
    hysteresis: float = 0.0
    initial: bool = False
    clears: bool = False
    """Whether it also says when what it told of has ended (`App.rule`, ``on_clear=``)."""

    def text(self) -> str:
        """See `Node`."""
        side = "above" if self.is_above else "below"
        more = said(hysteresis=(self.hysteresis, 0.0), initial=(self.initial, False))
        value = name_of(self.value)
        return f"{self.source.text()}.crosses({value}, {side}={self.threshold!r}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        how: list[object] = [self.threshold, self.is_above, self.hysteresis, self.initial]
        how += changed((self.clears, False))
        return [*self.source.parts(), "crosses", self.value, *how]


class HoldNode(Operator, frozen=True):
    """The condition before it has been true for some time."""

    for_ns: int
    clears: bool = False
    """Whether it also says when what it told of has ended (`App.rule`, ``on_clear=``)."""

    def text(self) -> str:
        """See `Node`."""
        return f"{self.source.text()}.hold(for_={seconds(self.for_ns)})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "hold", self.for_ns, *changed((self.clears, False))]


class DebounceNode(Operator, frozen=True):
    """The end (or the beginning) of a burst."""

    quiet_ns: int
    max_wait_ns: int | None
    edge: Edge
    partials_max: int = PARTIALS_MAX
    is_session: bool = False

    def text(self) -> str:
        """See `Node`."""
        if self.is_session:
            longest = "" if self.max_wait_ns is None else f", max={seconds(self.max_wait_ns)}"
            more = said(partials_max=(self.partials_max, WAITING_MAX))
            return f"{self.source.text()}.session({seconds(self.quiet_ns)}{longest}{more})"
        longest = "" if self.max_wait_ns is None else f", max_wait={seconds(self.max_wait_ns)}"
        more = said(edge=(self.edge, "trailing"), partials_max=(self.partials_max, PARTIALS_MAX))
        return f"{self.source.text()}.debounce(quiet={seconds(self.quiet_ns)}{longest}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        how = [self.quiet_ns, self.max_wait_ns, self.edge, self.partials_max]
        return [*self.source.parts(), "session" if self.is_session else "debounce", *how]


class ThrottleNode(Operator, frozen=True):
    """At most one a period; the others are lost."""

    period_ns: int
    edge: Edge

    def text(self) -> str:
        """See `Node`."""
        more = said(edge=(self.edge, "leading"))
        return f"{self.source.text()}.throttle(period={seconds(self.period_ns)}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "throttle", self.period_ns, self.edge]


class RateLimitNode(Operator, frozen=True):
    """*n* in *per_ns*, with bursts; the others wait."""

    n: int
    per_ns: int
    burst: int
    overflow: Overflow
    partials_max: int = WAITING_MAX

    def text(self) -> str:
        """See `Node`."""
        more = said(
            burst=(self.burst, self.n),
            overflow=(self.overflow, "queue"),
            partials_max=(self.partials_max, WAITING_MAX),
        )
        return f"{self.source.text()}.rate_limit({self.n}, per={seconds(self.per_ns)}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        how = [self.n, self.per_ns, self.burst, self.overflow, self.partials_max]
        return [*self.source.parts(), "rate_limit", *how]


class DedupeNode(Operator, frozen=True):
    """The first of equals within some time."""

    key: Callable[[Any], Hashable] | None
    ttl_ns: int
    refresh: bool = False

    def text(self) -> str:
        """See `Node`."""
        key = "None" if self.key is None else name_of(self.key)
        more = said(refresh=(self.refresh, False))
        return f"{self.source.text()}.dedupe({key}, ttl={seconds(self.ttl_ns)}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "dedupe", self.key, self.ttl_ns, self.refresh]


class BatchNode(Operator, frozen=True):
    """Events in parcels."""

    n: int | None
    within_ns: int | None
    bytes_max: int | None

    def text(self) -> str:
        """See `Node`."""
        n = [] if self.n is None else [str(self.n)]
        within = [] if self.within_ns is None else [f"within={seconds(self.within_ns)}"]
        size = [] if self.bytes_max is None else [f"bytes_max={self.bytes_max}"]
        return f"{self.source.text()}.batch({', '.join([*n, *within, *size])})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "batch", self.n, self.within_ns, self.bytes_max]


class WindowNode(Operator, frozen=True):
    """Windows that are aligned to the epoch: tumbling if *every_ns* is *size_ns*."""

    size_ns: int
    every_ns: int
    tz: str = "UTC"
    emit_empty: bool = False
    partials_max: int = WAITING_MAX

    def text(self) -> str:
        """See `Node`."""
        is_tumbling = self.every_ns == self.size_ns
        name = "tumbling" if is_tumbling else "hopping"
        every = "" if is_tumbling else f", every={seconds(self.every_ns)}"
        more = said(
            tz=(self.tz, "UTC"),
            emit_empty=(self.emit_empty, False),
            partials_max=(self.partials_max, WAITING_MAX),
        )
        return f"{self.source.text()}.{name}({seconds(self.size_ns)}{every}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        how = [self.size_ns, self.every_ns, self.tz, self.emit_empty, self.partials_max]
        return [*self.source.parts(), "window", *how]


class AggregateNode(Operator, frozen=True):
    """What a function makes of all events of *source*."""

    fold: Callable[[Any], object]

    def text(self) -> str:
        """See `Node`."""
        return f"{self.source.text()}.aggregate({name_of(self.fold)})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return [*self.source.parts(), "aggregate", self.fold]


class EventTimeNode(Operator, frozen=True):
    """*source* in the order of its events' own times."""

    time: Callable[[Any], object]
    lateness_ns: int
    idle_ns: int | None
    late: Late
    partials_max: int = PARTIALS_MAX

    def text(self) -> str:
        """See `Node`."""
        idle = "" if self.idle_ns is None else f", idle={seconds(self.idle_ns)}"
        more = said(late=(self.late, "drop"), partials_max=(self.partials_max, PARTIALS_MAX))
        lateness = f", lateness={seconds(self.lateness_ns)}"
        return f"{self.source.text()}.event_time({name_of(self.time)}{lateness}{idle}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        how = [self.lateness_ns, self.idle_ns, self.late, self.partials_max]
        return [*self.source.parts(), "event_time", self.time, *how]


class SilentNode(Operator, frozen=True):
    """No *source* for some time."""

    for_ns: int
    repeat: Repeat
    expect: tuple[Any, ...]
    clears: bool = False
    """Whether it also says when what it told of has ended (`App.rule`, ``on_clear=``)."""

    def text(self) -> str:
        """See `Node`."""
        repeat = said(repeat=(self.repeat, "once"))
        expect = f", expect={list(self.expect)!r}" if self.expect else ""
        return f"silent({self.source.text()}, for_={seconds(self.for_ns)}{repeat}{expect})"

    def parts(self) -> list[object]:
        """See `Node`."""
        more = changed((self.clears, False))
        return [*self.source.parts(), "silent", self.for_ns, self.repeat, list(self.expect), *more]


def seconds(duration_ns: int | None) -> str:
    """Return a duration as users write it."""
    return "None" if duration_ns is None else f"{duration_ns / 1e9:g}"


def said(**options: tuple[object, object]) -> str:
    """Return those of *options*, ``(value, default)``, that differ from their default."""
    return "".join(
        f", {name}={value!r}" for name, (value, default) in options.items() if value != default
    )


def changed(*options: tuple[object, object]) -> list[object]:
    """Return the values that differ from their default.

    What is not said is not in a fingerprint: rules of before are to stay what they were.
    """
    return [value for value, default in options if value != default]


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function, a condition or a field is called."""
    name = getattr(function, "__name__", None)
    if isinstance(name, str):
        return "…" if name == "<lambda>" else name
    return repr(function) if hasattr(function, "structure") else type(function).__name__


def _shape_of(kind: Any) -> object:
    """Return what *kind* decodes, as data: two structs with the same fields are the same."""
    # Only of classes: unions that are equal may name their members in another order.
    return _shape_of_class(kind) if isinstance(kind, type) else _derived_shape(kind)


@lru_cache(maxsize=256)
def _shape_of_class(kind: Any) -> object:
    return _derived_shape(kind)


def _derived_shape(kind: Any) -> object:
    try:
        return msgspec.json.schema(kind)
    except TypeError:  # a type that has no JSON schema
        return str(kind)
