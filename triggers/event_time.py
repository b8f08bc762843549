"""`.event_time`: a rule whose events and timers go by the events' own times, not by log time.

On each chain of the rule stands an `EventTimeGate`.  What comes to it waits until the
watermark has passed its time, and goes on then with that as its time, in the order of (time,
sequence).  The stages behind have timers of the rule's own, which fire by the watermark too:
those due by the time of an event before that event (law L3).

All of it happens in the steps of the kernel's inputs.  An event is first judged against the
watermark of before it, then moves the watermark, then lets go what that has passed: so what
goes on is decided at the end of the event's step, and each event that goes on is a step of
its own (law L5).  Without events only idle sources move the watermark: by the one timer that
the clock has of the kernel.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from headrace.engine.clock import seconds_to_ns
from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import RuleEvicted, RuleLate, thaw
from headrace.engine.table import Table, Writing
from headrace.engine.timers import TimerId, Timers
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, Need, Recall, packed, unpacked
from headrace.triggers.stage import Moments, Place, Stage, TimedStage, asked
from headrace.triggers.watermark import Watermark

TIME_S_MAX: Final = 7_258_118_400
"""The year 2200, and as far before the epoch: the longest durations added to it are still
numbers of 64 bits, and milliseconds that were taken for seconds are beyond it."""
TIMERS_MAX: Final = 10_000
"""Timers of the rule that one step fires; of repeating ones that come after them each fires
once for all that are due.  Or a single event from the far future would have a watchdog fire
a thousand million times at once."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EXPECTED: Final = "expected seconds since the epoch or a datetime with a time zone"


class Stepwise(Protocol):
    """What has to be told where the step of one event or timer ends (law L5)."""

    def flush(self, out: list[Verdict]) -> None:
        """End the step."""
        ...


class EventTimeGate:
    """`.event_time` in one chain: here its events wait for their time."""

    def __init__(self, clock: EventClock, node: n.EventTimeNode, then: Stage, number: int) -> None:
        self._clock = clock
        self._time = node.time
        self._number = number
        self.then = then
        self.need = Need.LAST
        self._keeps_event = then.need is not Need.NONE

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`; an event of which there is no time is an error, and out of the rule."""
        event = hit.event
        answered, at_ns = asked(self._clock.rule, "event_time", self._time_ns, event, out)
        if not answered:
            return
        taken_ns = self._clock.take(event, at_ns, out)
        if taken_ns is not None:
            # It is of the one event that came in.
            seen = hit.seen if self._keeps_event else ()
            made = Hit(hit.key, taken_ns, hit.events, seen, hit.trace, hit.hops)
            self._clock.let_wait(self._number, event.sequence, made)

    def _time_ns(self, event: Event[Any]) -> int:
        return time_ns_of(self._time(event))


class EventClock:
    """What drives one rule by event time."""

    def __init__(
        self,
        place: Place,
        node: n.EventTimeNode,
        timed: Sequence[TimedStage],
        steps: Sequence[Stepwise],
    ) -> None:
        """Stand at *place*, whose timers are the kernel's.

        *timed* are the stages with timers by slot, *steps* what has to be told of the end of
        a step: this first, then the joins; both are filled later.
        """
        self.rule = place.rule
        self.moments = Moments(-(2**63))
        """What stages behind are told: starts of the engine are no moments of event time."""
        self._place = place
        self._is_timed = node.idle_ns is not None
        self._drops_late = node.late == "drop"
        self._partials_max = node.partials_max
        self._timed = timed
        self._steps = steps
        self._gates: list[EventTimeGate] = []
        self._watermark = Watermark(node.lateness_ns, node.idle_ns)
        self._waiting = Waiting(place.recall)
        self._own = OwnTimers(place.rule)
        # Of the step of one event: its source and log time, the newest time that the gates
        # read of it, who of them let it wait by its time, and for which times it is late.
        self._heard: tuple[str, int, int] | None = None
        self._arrived: dict[tuple[int, int], list[tuple[int, Hit]]] = {}
        self._late: set[int] = set()

    @property
    def timers(self) -> Timers:
        """The rule's own timers, for the stages behind the gates."""
        return self._own.timers

    @property
    def parts(self) -> list[Any]:
        """What is written to snapshots."""
        return [self._watermark, self._waiting, self._own]

    def gate(self, node: n.EventTimeNode, then: Stage) -> EventTimeGate:
        """Return the gate of one chain."""
        gate = EventTimeGate(self, node, then, len(self._gates))
        self._gates.append(gate)
        return gate

    # ------------------------------------------------------------ the step of an event

    def take(self, event: Event[Any], at_ns: int, out: list[Verdict]) -> int | None:
        """Note the time of an event; return that at which it goes on, or ``None``.

        Several gates may take the same event, each at its own time.
        """
        heard = self._heard
        newest_ns = at_ns if heard is None else max(at_ns, heard[2])
        self._heard = (event.source, event.recorded_at_ns, newest_ns)
        watermark_ns = self._watermark.at_ns
        if watermark_ns is None or at_ns > watermark_ns:
            return at_ns
        if at_ns not in self._late:
            self._late.add(at_ns)
            if self._drops_late:
                out.append(RuleLate(self.rule, event.sequence, at_ns, watermark_ns))
            else:
                self._place.note("late_as_now")
        return None if self._drops_late else watermark_ns

    def let_wait(self, gate: int, sequence: int, hit: Hit) -> None:
        """Let *hit* wait at *gate* for its time."""
        self._arrived.setdefault((hit.at_ns, sequence), []).append((gate, hit))

    def flush(self, out: list[Verdict]) -> None:
        """End the step of one event: move the watermark, and let go what it has passed."""
        if self._heard is None:
            return
        source, log_ns, newest_ns = self._heard
        self._heard = None
        self._late.clear()
        self._watermark.hear(source, newest_ns, log_ns)
        if self._arrived:
            arrived, self._arrived = self._arrived, {}
            for turn, hits in arrived.items():
                self._waiting.add(turn, tuple(hits))
        self._let_go(out)
        # Only now: what its own event lets go need not wait.
        while len(self._waiting) > self._partials_max:
            (_, hit), *_ = self._waiting.pop_first()
            out.append(RuleEvicted(self.rule, hit.key, "event"))
        self._arm()

    def _let_go(self, out: list[Verdict]) -> None:
        """Let all that is due by the watermark happen, in its order."""
        watermark_ns = self._watermark.at_ns
        assert watermark_ns is not None
        left = TIMERS_MAX
        while (turn := self._waiting.first()) is not None and turn[0] <= watermark_ns:
            left = self._fire_own(turn[0], left, out)
            for gate, hit in self._waiting.pop_first():
                self._gates[gate].then.push(hit, out)
            self._end_step(out)
        self._fire_own(watermark_ns, left, out)

    def _fire_own(self, until_ns: int, left: int, out: list[Verdict]) -> int:
        """Fire the rule's timers that are due by *until_ns*; at *left* 0 they catch up."""
        while (first := self._own.first()) is not None and first[0] <= until_ns:
            due_ns, timer = first
            self._own.timers.disarm(timer)
            _, slot, key = timer
            stage, missed = self._timed[slot], 0
            if left > 0:
                left -= 1
            else:
                missed = stage.missed(key, due_ns, until_ns + 1)
            stage.fire(key, due_ns=due_ns, missed=missed, out=out)
            self._end_step(out)
        return left

    def _end_step(self, out: list[Verdict]) -> None:
        for join in self._steps[1:]:
            join.flush(out)

    # ------------------------------------------------------------ the kernel's timer

    def _arm(self) -> None:
        """Have the kernel wake the watermark for its next step without an event."""
        if not self._is_timed:
            return
        firsts = (self._waiting.first(), self._own.first())
        next_ns = min((first[0] for first in firsts if first is not None), default=None)
        due_ns = self._watermark.wake_ns(next_ns)
        if due_ns is None:
            self._place.disarm(None)
        elif due_ns != self._place.due_ns(None):
            self._place.arm(None, due_ns)

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        return 0

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`: no event came, and the watermark moves all the same."""
        self._watermark.wake(due_ns, self._place.moments.started_ns)
        self._let_go(out)
        self._arm()


# ---------------------------------------------------------------- its state


class Waiting:
    """What waits for the watermark, by (event time, sequence) and then by gate."""

    def __init__(self, recall: Recall) -> None:
        self._recall = recall
        self._table: Table[tuple[int, int], tuple[tuple[int, Hit], ...]] = Table()
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, turn: tuple[int, int], hits: tuple[tuple[int, Hit], ...]) -> None:
        """Let the hits of one event wait for their turn."""
        heapq.heappush(self._heap, turn)
        self._table.store(turn, hits)

    def first(self) -> tuple[int, int] | None:
        """Return whose turn is next."""
        return self._heap[0] if self._heap else None

    def pop_first(self) -> tuple[tuple[int, Hit], ...]:
        """Remove the first and return its hits, each with the number of its gate."""
        hits = self._table.pop(heapq.heappop(self._heap))
        assert hits is not None
        return hits

    def clear(self) -> None:
        """Begin empty."""
        self._heap.clear()
        self._table.clear()

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        return [_packed_turn(*entry)[0] for entry in sorted(self._table.items(), key=_turn_of)]

    def write_out(self) -> Writing:
        """See `KeyedStage`."""
        return self._table.write_out(_packed_turn)

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        for at_ns, sequence, hits in entries:
            self.add((at_ns, sequence), tuple(map(self._unpacked, hits)))

    def _unpacked(self, fields: list[Any]) -> tuple[int, Hit]:
        gate, key, hit = fields
        return gate, unpacked(hit, thaw(key), self._recall)


def _turn_of(entry: tuple[tuple[int, int], object]) -> tuple[int, int]:
    return entry[0]


def _packed_turn(
    turn: tuple[int, int], hits: Iterable[tuple[int, Hit]]
) -> tuple[list[Any], int | None]:
    return [*turn, [[gate, hit.key, packed(hit)] for gate, hit in hits]], turn[1]


class OwnTimers:
    """The rule's own timers, as a part of its state."""

    def __init__(self, rule: str) -> None:
        self.timers = Timers()
        self._rule = rule
        self._loaded_order: int | None = None  # of entries that were not put in order yet

    def __len__(self) -> int:
        return 0  # their keys count in the stages

    def first(self) -> tuple[int, TimerId] | None:
        """Return ``(due_ns, timer)`` of the one that fires next; it stays armed."""
        if self._loaded_order is not None:
            self.timers.loaded(self._loaded_order)
            self._loaded_order = None
        return self.timers.first()

    def clear(self) -> None:
        """Begin empty."""
        self.first()
        self.timers.disarm_owner(self._rule)

    def dump(self) -> list[Any]:
        """Return the timers in their order; how often one was armed before is no state."""
        _, timers = self.timers.dump()
        return [timer[1:-1] for timer in timers]

    def write_out(self) -> Writing:
        """See `KeyedStage`."""
        return self.timers.write_out()

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        self.timers.load(entries)
        # Put in order once, by the first who asks: they come in many parts.
        self._loaded_order = max([self._loaded_order or 0, *(order for *_, order in entries)])


# ---------------------------------------------------------------- times


def time_ns_of(value: object) -> int:
    """Return a time that a user's function gave, exactly, in nanoseconds since the epoch.

    Raises:
        TypeError, ValueError: it is none; says what was expected.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{_EXPECTED}, found {value} without one; give it a tzinfo=")
        at_ns = (value - _EPOCH) // timedelta(microseconds=1) * 1000
        if abs(at_ns) <= TIME_S_MAX * 1_000_000_000:
            return at_ns
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        found = "None" if value is None else f"one of type {type(value).__name__}"
        raise TypeError(f"{_EXPECTED}, found {found}")
    elif abs(value) <= TIME_S_MAX:  # never so for what is not a number
        return seconds_to_ns(value)
    raise ValueError(
        f"{_EXPECTED}, found {value}, which is not within the years 1740 to 2200; if it counts "
        f"milliseconds, divide it by 1000"
    )
