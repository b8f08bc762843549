"""The automata: one stage per operator of a pattern, with its state by key.

A stage takes a `Hit` and hands on none, one or more to the next one; the last is a
`Sink`, which turns it into a verdict.  Time comes with the hits and with timers that the
kernel hands back, so a fold of the log rebuilds every state exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec import Struct

from headrace.engine.decider import Matched, RunMode, Verdict
from headrace.engine.event import Event
from headrace.engine.record import RuleError, RuleEvicted, text_for_record, thaw
from headrace.engine.table import OrderedTable, Writing
from headrace.engine.timers import Timers
from headrace.triggers.pattern import (
    KEY_EXPECTED,
    KEYS_MAX,
    PARTIALS_MAX,
    CountNode,
    is_key,
    plain_key,
)

EVENTS_MAX: Final = 10_000
"""Sequences that a firing names; of more the first and the latest."""
ERROR_CHARS_MAX: Final = 500


class Hit(Struct, frozen=True, gc=False):
    """A pattern, or a part of one, that was met."""

    event: Event[Any] | None
    """The event that met it; ``None`` for a timer."""
    key: Any
    at_ns: int
    events: tuple[int, ...]
    """Sequences of all events in it, oldest first."""
    trace: int
    hops: int
    due_ns: int | None = None
    branches: tuple[int, ...] | None = None


class Stage(Protocol):
    """One operator at work."""

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """Take *hit*; append verdicts to *out*."""
        ...


class TimedStage(Stage, Protocol):
    """A stage that has timers."""

    def missed(self, due_ns: int, until_ns: int) -> int:
        """Return how many due times from *due_ns* on, before *until_ns*, lead to no firing.

        It is asked of a timer that was due in a downtime, which ended at *until_ns*.
        """
        ...

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """Take a timer of this stage that was due."""
        ...

    def start(self, at_ns: int) -> None:
        """Arm what is to be armed when the rule is activated."""
        ...


class Sink:
    """The end of a pattern: what arrives is a match of the rule."""

    def __init__(self, rule: str, mode: RunMode) -> None:
        self._rule = rule
        self._mode: RunMode = mode

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        branches = None if hit.branches is None else list(hit.branches)
        out.append(
            Matched(
                self._rule,
                hit.key,
                _capped(hit.events),
                self._mode,
                hit.due_ns,
                branches,
                hit.trace,
                hit.hops,
            )
        )


def _capped(events: tuple[int, ...]) -> list[int]:
    """Return the first and the latest of very many: a firing is one record."""
    if len(events) <= EVENTS_MAX:
        return list(events)
    return [events[0], *events[1 - EVENTS_MAX :]]


def where_holds(
    rule: str, condition: Callable[[Any], object], event: Event[Any], out: list[Verdict]
) -> bool:
    """Ask *condition*; one that raises is a recorded error and no match (law L4)."""
    try:
        return bool(condition(event))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (user code: law L4)
        out.append(RuleError(rule, event.sequence, "where", last_line(error)))
        return False


def key_of(rule: str, key: Callable[[Any], Any], event: Event[Any], out: list[Verdict]) -> Any:
    """Ask *key*; one that raises or gives no usable key is a recorded error, and ``None``."""
    try:
        value = key(event)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (user code: law L4)
        out.append(RuleError(rule, event.sequence, "key", last_line(error)))
        return None
    if value is None or is_key(value):
        kind = type(value)
        return value if kind is str or kind is int else plain_key(value)
    text = f"TypeError: the key is of type {type(value).__name__}; {KEY_EXPECTED}"
    out.append(RuleError(rule, event.sequence, "key", text))
    return None


def last_line(error: BaseException) -> str:
    """Return the last line of *error*'s traceback, at most 500 characters."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (user code: its __str__)
        text = "(its text cannot be had)"
    return text_for_record(f"{type(error).__name__}: {text}", ERROR_CHARS_MAX)


class Where:
    """`.where` behind an operator; directly behind `on` it is part of the entry."""

    def __init__(self, rule: str, condition: Callable[[Any], object], then: Stage) -> None:
        self._rule = rule
        self.condition = condition
        self.then = then

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        assert hit.event is not None, "refused when defined"
        if where_holds(self._rule, self.condition, hit.event, out):
            self.then.push(hit, out)


class Key:
    """`.key` behind an operator; directly behind `on` it is part of the entry."""

    def __init__(
        self, rule: str, key: Callable[[Any], Any], then: Stage, unkeyed: Callable[[], None]
    ) -> None:
        self._rule = rule
        self.key = key
        self.then = then
        self._unkeyed = unkeyed

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        assert hit.event is not None, "refused when defined"
        key = key_of(self._rule, self.key, hit.event, out)
        if key is None:
            self._unkeyed()
            return
        keyed = Hit(
            hit.event, key, hit.at_ns, hit.events, hit.trace, hit.hops, hit.due_ns, hit.branches
        )
        self.then.push(keyed, out)


class _Window(Struct, gc=False):
    hits: deque[tuple[int, tuple[int, ...]]]
    """``(at_ns, sequences)``, oldest first."""
    armed: bool = True


class Count:
    """`.count`: a sliding window by key.  Amortised O(1) a hit."""

    def __init__(self, rule: str, node: CountNode, then: Stage) -> None:
        self._rule = rule
        self._n = node.n
        self._within_ns = node.within_ns
        self._mode = node.mode
        self._then = then
        # Ordered by the latest hit, so that the first is the one to evict.
        self._windows: OrderedTable[Any, _Window] = OrderedTable()

    def __len__(self) -> int:
        return len(self._windows)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        windows = self._windows
        window = windows.touch(hit.key)
        if window is None:
            self._forget(hit.at_ns)
            if len(windows) >= KEYS_MAX and (oldest := windows.first()) is not None:
                windows.pop(oldest[0])
                out.append(RuleEvicted(self._rule, oldest[0], "key"))
            window = _Window(deque())
            windows.store(hit.key, window)
        hits = window.hits
        if self._within_ns is not None:
            after_ns = hit.at_ns - self._within_ns
            while hits and hits[0][0] <= after_ns:
                hits.popleft()
        if len(hits) < self._n:
            window.armed = True
        if len(hits) >= PARTIALS_MAX:
            hits.popleft()
            out.append(RuleEvicted(self._rule, hit.key, "event"))
        hits.append((hit.at_ns, hit.events))
        if len(hits) >= self._n and (window.armed or self._mode == "every"):
            self._fire(hit, window, out)

    def _forget(self, at_ns: int) -> None:
        """Drop the keys whose window is empty by now: they are no state any more (law L6)."""
        windows, within_ns = self._windows, self._within_ns
        while within_ns is not None and (oldest := windows.first()) is not None:
            if oldest[1].hits[-1][0] > at_ns - within_ns:
                break
            windows.pop(oldest[0])

    def _fire(self, hit: Hit, window: _Window, out: list[Verdict]) -> None:
        window.armed = False
        if self._mode == "reset":
            self._windows.pop(hit.key)
        events = tuple(sequence for _, sequences in window.hits for sequence in sequences)
        self._then.push(
            Hit(
                hit.event,
                hit.key,
                hit.at_ns,
                events,
                hit.trace,
                hit.hops,
                hit.due_ns,
                hit.branches,
            ),
            out,
        )

    def clear(self) -> None:
        """Begin empty."""
        self._windows.clear()

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        return [_packed_window(*entry)[0] for entry in self._windows.items()]

    def write_out(self) -> Writing:
        """Begin to write the state out."""
        return self._windows.write_out(_packed_window)

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        for key, hits, armed in entries:
            kept = deque((at_ns, tuple(sequences)) for at_ns, sequences in hits)
            self._windows.store(thaw(key), _Window(kept, armed))


def _packed_window(key: Any, window: _Window) -> tuple[Any, int | None]:
    hits = list(window.hits)
    # Not the first: of windows in a window, the one that was full first may be the younger.
    oldest = min((min(sequences) for _, sequences in hits if sequences), default=None)
    return [key, hits, window.armed], oldest


class Silent:
    """`silent`: a timer by key that each hit moves on."""

    def __init__(
        self,
        place: tuple[str, int],
        timers: Timers,
        then: Stage,
        *,
        for_ns: int,
        repeats: bool,
        expect: tuple[Any, ...],
    ) -> None:
        self._rule, self._slot = place
        self._timers = timers
        self._then = then
        self._for_ns = for_ns
        self._repeats = repeats
        self._expect = expect
        # Key → (sequences, trace, hops) of its last hit, ordered by that.
        self._watched: OrderedTable[Any, tuple[tuple[int, ...], int, int]] = OrderedTable()

    def __len__(self) -> int:
        return len(self._watched)

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""
        for key in self._expect:
            self._watched.store(key, ((), 0, 0))
            self._timers.arm((self._rule, self._slot, key), at_ns + self._for_ns)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        watched = self._watched
        if len(watched) >= KEYS_MAX and watched.peek(hit.key) is None:
            oldest = watched.first()
            assert oldest is not None
            watched.pop(oldest[0])
            self._timers.disarm((self._rule, self._slot, oldest[0]))
            out.append(RuleEvicted(self._rule, oldest[0], "key"))
        watched.store(hit.key, (hit.events, hit.trace, hit.hops))
        self._timers.arm((self._rule, self._slot, hit.key), hit.at_ns + self._for_ns)

    def missed(self, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        return (until_ns - 1 - due_ns) // self._for_ns if self._repeats else 0

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        last = self._watched.peek(key) if self._repeats else self._watched.pop(key)
        assert last is not None, "a timer is of a key that is watched"
        events, trace, hops = last
        if self._repeats:
            next_ns = due_ns + (missed + 1) * self._for_ns
            self._timers.arm((self._rule, self._slot, key), next_ns)
        self._then.push(Hit(None, key, due_ns, events, trace, hops, due_ns), out)

    def clear(self) -> None:
        """Begin empty; the timers are the rule's to disarm."""
        self._watched.clear()

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        return [_packed_last(*entry)[0] for entry in self._watched.items()]

    def write_out(self) -> Writing:
        """Begin to write the state out; its timers are written with all others."""
        return self._watched.write_out(_packed_last)

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        for key, events, trace, hops in entries:
            self._watched.store(thaw(key), (tuple(events), trace, hops))


def _packed_last(key: Any, last: tuple[tuple[int, ...], int, int]) -> tuple[Any, int | None]:
    return [key, *last], min(last[0], default=None)


class AnyOf:
    """`any_of`: collects what its branches make of one event, and hands on one hit."""

    def __init__(self, then: Stage) -> None:
        self._then = then
        behind = then
        while isinstance(behind, Where):
            behind = behind.then
        self._is_rekeyed = isinstance(behind, Key)  # so the branches' own keys do not count
        self._hits: list[tuple[int, Hit]] = []

    def collect(self, branch: int, hit: Hit) -> None:
        """Note that *branch* was met."""
        self._hits.append((branch, hit))

    def flush(self, out: list[Verdict]) -> None:
        """Hand on what was collected: one hit for each key that the branches named."""
        if not self._hits:
            return
        hits, self._hits = self._hits, []
        by_key: dict[Any, list[tuple[int, Hit]]] = {}
        for branch, hit in hits:
            key = None if self._is_rekeyed else hit.key
            by_key.setdefault(key, []).append((branch, hit))
        for key, met in by_key.items():
            first = met[0][1]
            events = first.events
            if len(met) > 1:
                events = tuple(sorted({sequence for _, hit in met for sequence in hit.events}))
            branches = tuple(sorted({branch for branch, _ in met}))
            self._then.push(
                Hit(
                    first.event,
                    key,
                    first.at_ns,
                    events,
                    first.trace,
                    max(hit.hops for _, hit in met),
                    first.due_ns,
                    branches,
                ),
                out,
            )


class Branch:
    """The end of one branch of an `AnyOf`."""

    def __init__(self, join: AnyOf, number: int) -> None:
        self._join = join
        self._number = number

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        self._join.collect(self._number, hit)
