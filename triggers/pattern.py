"""What users write: `on`, and the operators that follow a pattern.

A `Pattern` is an immutable value; each operator returns a new one.  What can never work is
refused here, when it is written, with the place and the reason.  What a pattern does at
runtime is said by the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Any, TypeVar, overload

import msgspec

from headrace.engine.event import Awaited, Event
from headrace.engine.subject import check_pattern
from headrace.triggers import nodes
from headrace.triggers.checks import (
    KEYS_MAX,
    PARTIALS_MAX,
    WAITING_MAX,
    Seconds,
    check_bool,
    check_choice,
    check_function,
    check_whole,
    duration_ns,
    takes_match,
)
from headrace.triggers.field import Field
from headrace.triggers.reach import (
    check_aggregate,
    check_event_time,
    check_has_event,
    check_hold,
    check_not_relative,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Match = Mapping[str, Sequence[Event[Any]]]
"""The events that a sequence has taken so far, by the name of the step; oldest first."""


class Pattern(Awaited[T_co]):
    """What a rule waits for.  Made by `on`, `any_of`, `sequence` …; never changed.

    Operators apply in the order in which they are written.  Each hands on hits: a key, a
    time, the events, of which conditions behind see the newest.  Durations are seconds or
    timedeltas, and half-open: what comes exactly at their end is outside.
    """

    __slots__ = ("node",)

    def __init__(self, node: nodes.Node) -> None:
        """Wrap *node*; users start with `on`."""
        self.node = node

    # ------------------------------------------------------------ one event

    @overload
    def where(self, condition: Callable[[Event[T_co]], object]) -> Pattern[T_co]: ...
    @overload
    def where(self, condition: Callable[[Event[T_co], Match], object]) -> Pattern[T_co]: ...
    def where(self, condition: Callable[..., object]) -> Pattern[T_co]:
        """Keep events for which *condition* holds: a function, or what `field` makes.

        It must depend on nothing but the event (law L4).  One that raises means no match
        and a recorded ``rule.error``; other rules are not affected.  In a step of a
        `sequence` it may take a second argument: the events taken so far, by step.
        """
        check_function("where", condition, also=" or a condition such as field('celsius') > 90")
        check_has_event("where", self.node)
        return Pattern(nodes.WhereNode(self.node, condition, takes_match(condition)))

    def key(
        self, key: Callable[[Event[T_co]], Hashable] | Field, *, keys_max: int = KEYS_MAX
    ) -> Pattern[T_co]:
        """Give each value of *key* automata, timers and limits of its own.

        A key is a string, number, bytes, bool or a tuple of these.  ``None`` means that
        the event does not take part; it is counted as unkeyed.  Operators behind track
        *keys_max* keys; of more, the one unheard of for longest goes, which is recorded.
        """
        function = _function_of("key", key)
        check_has_event("key", self.node)
        check_whole("key", "keys_max", keys_max)
        return Pattern(nodes.KeyNode(self.node, function, keys_max))

    def crosses(
        self,
        value: Callable[[Event[T_co]], float | None] | Field,
        *,
        above: float | None = None,
        below: float | None = None,
        hysteresis: float = 0.0,
        initial: bool = False,
    ) -> Pattern[T_co]:
        """Fire when *value* comes to be more than *above* (or less than *below*).

        Only on the transition; again only after it was back beyond the *hysteresis*.  The
        first value of a key is no transition, unless *initial*.  What is no number is no
        value.
        """
        function = _function_of("crosses", value)
        check_has_event("crosses", self.node)
        if (above is None) is (below is None):
            raise ValueError(f"crosses(above={above!r}, below={below!r}): expected one of the two")
        threshold = above if above is not None else below
        for name, number in (
            ("above" if below is None else "below", threshold),
            ("hysteresis", hysteresis),
        ):
            if type(number) not in (int, float) or not isfinite(number):  # type: ignore[arg-type]
                raise ValueError(f"crosses({name}={number!r}): expected a finite number")
        if hysteresis < 0:
            raise ValueError(f"crosses(hysteresis={hysteresis!r}): expected at least 0")
        check_bool("crosses", "initial", initial)
        assert threshold is not None
        return Pattern(
            nodes.CrossesNode(self.node, function, threshold, below is None, hysteresis, initial)
        )

    def hold(self, *, for_: Seconds) -> Pattern[T_co]:
        """Fire when the condition before it has been true for *for_* seconds.

        The condition is the run of ``.where`` that stands nearest before it, keys aside.
        An event for which it is false ends the wait; a further one for which it is true
        changes nothing.  It fires once, and again only after it was false.
        """
        for_ns = duration_ns("hold", "for_", for_)
        check_hold(self.node)
        return Pattern(nodes.HoldNode(self.node, for_ns))

    def dedupe(
        self,
        key: Callable[[Event[T_co]], Hashable] | Field | None,
        ttl: Seconds,
        *,
        refresh: bool = False,
    ) -> Pattern[T_co]:
        """Let pass only the first event of those with an equal *key* within *ttl* seconds.

        Duplicates do not extend that time, unless *refresh*.
        """
        function = None if key is None else _function_of("dedupe", key)
        if function is not None:
            check_has_event("dedupe", self.node)
        check_bool("dedupe", "refresh", refresh)
        return Pattern(
            nodes.DedupeNode(self.node, function, duration_ns("dedupe", "ttl", ttl), refresh)
        )

    # ------------------------------------------------------------ pace

    def debounce(
        self,
        quiet: Seconds,
        max_wait: Seconds | None = None,
        edge: nodes.Edge = "trailing",
        *,
        partials_max: int = PARTIALS_MAX,
    ) -> Pattern[T_co]:
        """Fire once for a burst: when nothing has come for *quiet* seconds.

        At the latest *max_wait* seconds after its first event.  The firing has all of the
        burst.  ``edge="leading"`` fires with the first event instead; ``both`` fires with
        the first, and with the others at the end if there were any.
        """
        quiet_ns = duration_ns("debounce", "quiet", quiet)
        max_ns = None if max_wait is None else duration_ns("debounce", "max_wait", max_wait)
        check_choice("debounce", "edge", edge, "leading", "trailing", "both")
        check_whole("debounce", "partials_max", partials_max)
        return Pattern(nodes.DebounceNode(self.node, quiet_ns, max_ns, edge, partials_max))

    def throttle(self, period: Seconds, edge: nodes.Edge = "leading") -> Pattern[T_co]:
        """Fire at most once in *period* seconds; what is suppressed is lost, and counted.

        ``leading`` fires with the first event; ``trailing`` at the end of the period with
        the last; ``both`` does both.
        """
        period_ns = duration_ns("throttle", "period", period)
        check_choice("throttle", "edge", edge, "leading", "trailing", "both")
        return Pattern(nodes.ThrottleNode(self.node, period_ns, edge))

    def rate_limit(
        self,
        n: int,
        per: Seconds,
        burst: int | None = None,
        overflow: nodes.Overflow = "queue",
        *,
        partials_max: int = WAITING_MAX,
    ) -> Pattern[T_co]:
        """Fire *n* times in *per* seconds, evenly, after a burst of up to *burst* (*n*).

        ``queue`` loses nothing: what is too much waits for its turn, up to *partials_max*
        of a key.  ``drop`` loses it, ``latest`` lets only the newest wait.  It is the
        generic cell rate algorithm (GCRA, ITU-T I.371).
        """
        check_whole("rate_limit", "", n)
        burst = n if burst is None else burst
        check_whole("rate_limit", "burst", burst)
        check_choice("rate_limit", "overflow", overflow, "queue", "drop", "latest")
        check_whole("rate_limit", "partials_max", partials_max)
        per_ns = duration_ns("rate_limit", "per", per)
        return Pattern(nodes.RateLimitNode(self.node, n, per_ns, burst, overflow, partials_max))

    # ------------------------------------------------------------ several events

    def count(
        self,
        n: int,
        *,
        within: Seconds | None,
        mode: nodes.CountMode = "reset",
        partials_max: int = PARTIALS_MAX,
    ) -> Pattern[T_co]:
        """Fire when *n* have come within *within* seconds (half-open: not at exactly that).

        ``reset`` fires with the whole window, then begins anew; ``edge`` fires on reaching
        *n* and again only after the number has fallen below *n*; ``every`` fires for each
        that comes while there are at least *n*.  At most *partials_max* events are held.
        """
        check_whole("count", "", n)
        check_whole("count", "partials_max", partials_max)
        if n > partials_max:
            raise ValueError(f"count({n}): at most {partials_max} events are held for a key")
        check_choice("count", "mode", mode, "reset", "edge", "every")
        if within is None and mode == "edge":
            raise ValueError("count(within=None, mode='edge') fires once for ever; give within=")
        within_ns = None if within is None else duration_ns("count", "within", within)
        return Pattern(nodes.CountNode(self.node, n, within_ns, mode, partials_max))

    def batch(
        self, n: int | None = None, within: Seconds | None = None, bytes_max: int | None = None
    ) -> Pattern[T_co]:
        """Gather events; fire with *n* of them, with *bytes_max* bytes, or after *within* seconds.

        The time counts from the first event, the bytes are those of the stored data.
        """
        if n is None and within is None and bytes_max is None:
            raise ValueError("batch(): expected a number, within= or bytes_max=, or it never ends")
        if n is not None:
            check_whole("batch", "", n)
        if bytes_max is not None:
            check_whole("batch", "bytes_max", bytes_max)
        within_ns = None if within is None else duration_ns("batch", "within", within)
        return Pattern(nodes.BatchNode(self.node, n, within_ns, bytes_max))

    def tumbling(
        self,
        size: Seconds,
        *,
        tz: str = "UTC",
        emit_empty: bool = False,
        partials_max: int = WAITING_MAX,
    ) -> Pattern[T_co]:
        """Fire at the end of each window of *size* seconds with the events in it.

        Windows are aligned to the epoch; those of whole days to midnight in *tz*, a name
        such as ``Europe/Berlin``.  Empty ones fire only with *emit_empty*, from a key's
        first event on.
        """
        size_ns = duration_ns("tumbling", "size", size)
        node = nodes.WindowNode(self.node, size_ns, size_ns, tz, emit_empty, partials_max)
        return self._window("tumbling", node)

    def hopping(
        self,
        size: Seconds,
        every: Seconds,
        *,
        tz: str = "UTC",
        emit_empty: bool = False,
        partials_max: int = WAITING_MAX,
    ) -> Pattern[T_co]:
        """Fire at the end of each window of *size* seconds, of which one begins *every* seconds.

        Otherwise as `tumbling`.
        """
        size_ns = duration_ns("hopping", "size", size)
        every_ns = duration_ns("hopping", "every", every)
        node = nodes.WindowNode(self.node, size_ns, every_ns, tz, emit_empty, partials_max)
        return self._window("hopping", node)

    def _window(self, place: str, node: nodes.WindowNode) -> Pattern[T_co]:
        check_bool(place, "emit_empty", node.emit_empty)
        check_whole(place, "partials_max", node.partials_max)
        if node.size_ns > nodes.WINDOWS_MAX * node.every_ns:
            size, every = nodes.seconds(node.size_ns), nodes.seconds(node.every_ns)
            raise ValueError(
                f"{place}(size={size}, every={every}): each event would be in over "
                f"{nodes.WINDOWS_MAX} windows"
            )
        if node.tz != "UTC":
            from headrace.triggers.zones import check_zone

            check_zone(place, node.tz, node)
        return Pattern(node)

    def session(
        self, gap: Seconds, max: Seconds | None = None, *, partials_max: int = WAITING_MAX
    ) -> Pattern[T_co]:
        """Fire with all events that came less than *gap* seconds after each other.

        At the latest *max* seconds after the first of them.
        """
        gap_ns = duration_ns("session", "gap", gap)
        max_ns = None if max is None else duration_ns("session", "max", max)
        check_whole("session", "partials_max", partials_max)
        node = nodes.DebounceNode(
            self.node, gap_ns, max_ns, "trailing", partials_max, is_session=True
        )
        return Pattern(node)

    def aggregate(self, fold: Callable[[Sequence[Event[T_co]]], object]) -> Pattern[T_co]:
        """Let *fold* make a value of all events of a firing: ``firing.value``.

        Conditions behind see it as ``event.value``.  It is stored as plain data: a struct
        becomes a dict, a tuple a list, and keys of dicts become text.
        """
        check_function("aggregate", fold)
        check_aggregate(self.node)
        return Pattern(nodes.AggregateNode(self.node, fold))

    # ------------------------------------------------------------ event time

    def event_time(
        self,
        time: Callable[[Event[T_co]], float | datetime | None] | Field,
        *,
        lateness: Seconds = 0,
        idle: Seconds | None = None,
        late: nodes.Late = "drop",
        partials_max: int = PARTIALS_MAX,
    ) -> Pattern[T_co]:
        """Let what follows go by the time that *time* reads from the event, not by log time.

        Events are handed on in the order of their times, once no earlier ones are expected:
        once one of the same source came that is later by *lateness*.  An event that comes too
        late is left out of this rule and recorded as ``rule.late``, or with ``late="as_now"``
        counts as of now.  At most *partials_max* events wait; of more, the oldest goes.

        So only events let time go on, for timers behind it too.  A source that was not heard
        of for *idle* seconds is not waited for; while there is no other, time goes on by
        itself.

        Written on each ``on(…)`` of a rule, or on none, before anything but ``.where`` and
        ``.key``.  *time* gives seconds since the epoch or a datetime with a time zone.
        """
        function = _function_of("event_time", time)
        is_none = not isinstance(lateness, bool) and lateness == 0
        lateness_ns = 0 if is_none else duration_ns("event_time", "lateness", lateness)
        idle_ns = None if idle is None else duration_ns("event_time", "idle", idle)
        check_choice("event_time", "late", late, "drop", "as_now")
        check_whole("event_time", "partials_max", partials_max)
        check_event_time(self.node)
        node = nodes.EventTimeNode(self.node, function, lateness_ns, idle_ns, late, partials_max)
        return Pattern(node)

    def __repr__(self) -> str:
        """Return what the user wrote, as far as it can be said."""
        return self.node.text()


@overload
def on(subject: str) -> Pattern[Any]: ...
@overload
def on(subject: str, type: type[T]) -> Pattern[T]: ...
def on(subject: str, type: Any = Any) -> Pattern[Any]:
    """Match events on *subject*, which may have the wildcards ``*`` and ``>``.

    *type* is what their data is decoded as: anything that msgspec decodes.  An event whose
    data does not fit is kept and recorded as ``rule.mismatch``.

    Raises:
        ValueError: *subject* is no valid pattern; the message says where.
        TypeError: msgspec cannot decode *type*.
    """
    if not isinstance(subject, str):
        raise TypeError(f"on({subject!r}): expected a subject such as 'sensors.*.temperature'")
    check_pattern(subject)
    try:
        msgspec.msgpack.Decoder(type)
    except TypeError as error:
        raise TypeError(f"on({subject!r}, {type!r}): msgspec cannot decode it: {error}") from error
    return Pattern(nodes.FilterNode(subject, type))


def pattern_in(place: str, pattern: object) -> nodes.Node:
    """Return the node of *pattern*, an argument of *place*.

    Raises:
        TypeError: it is no pattern.
        ValueError: it has a condition that only a step of a sequence can ask.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"{place}({pattern!r}): expected a pattern such as on('a.b')")
    check_not_relative(place, pattern.node)
    return pattern.node


def _function_of(place: str, given: object) -> Callable[[Any], Any]:
    if isinstance(given, Field):
        return given.reader()
    check_function(place, given, also=" or a field such as field('sensor')")
    return given  # type: ignore[return-value]
