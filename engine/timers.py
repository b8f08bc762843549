"""The kernel's timers: armed, moved and fired in the order of law L3."""

from __future__ import annotations

import heapq
from typing import Any

from headrace.engine.record import thaw
from headrace.engine.table import Table, Writing

TimerId = tuple[str, int, Any]
"""``(owner, slot, key)``, as in the record `TimerFired`."""


class Timers:
    """A set of timers, at most one per id, that hands out the earliest.

    The order is (due, order of arming).  Moving a timer to a later time, which a watchdog
    does on each event, only overwrites a dict entry: its heap entry stays where it is and
    is put right when it comes up.  Arm O(log n), re-arm later O(1), fire O(log n).
    """

    def __init__(self) -> None:
        self._armed: Table[TimerId, tuple[int, int]] = Table()
        self._queued: dict[TimerId, int] = {}  # the due time of an id's one live heap entry
        self._heap: list[tuple[int, int, TimerId]] = []
        self._order = 0
        self.moved = False
        """Whether the first may be due earlier than before; whoever acts on it puts it back."""

    def __len__(self) -> int:
        return len(self._armed)

    def arm(self, timer: TimerId, due_ns: int) -> None:
        """Let *timer* fire at *due_ns*; if it was armed, it moves."""
        self._order += 1
        self._armed.store(timer, (due_ns, self._order))
        queued_ns = self._queued.get(timer)
        if queued_ns is None or due_ns < queued_ns:
            self._queued[timer] = due_ns
            heapq.heappush(self._heap, (due_ns, self._order, timer))
            self.moved = True

    def disarm(self, timer: TimerId) -> None:
        """Forget *timer*; nothing happens if it was not armed."""
        self._armed.pop(timer)

    def due_ns(self, timer: TimerId) -> int | None:
        """Return when *timer* is due, or ``None`` if it is not armed."""
        armed = self._armed.peek(timer)
        return None if armed is None else armed[0]

    def first(self) -> tuple[int, TimerId] | None:
        """Return ``(due_ns, timer)`` of the timer that fires next; it stays armed."""
        while self._heap:
            due_ns, order, timer = self._heap[0]
            armed = self._armed.peek(timer)
            if armed == (due_ns, order):
                return due_ns, timer
            heapq.heappop(self._heap)
            if self._queued.get(timer) != due_ns:
                continue  # an earlier entry took its place, or it came up before
            if armed is None:
                del self._queued[timer]
            else:
                self._queued[timer] = armed[0]
                heapq.heappush(self._heap, (armed[0], armed[1], timer))
        return None

    def disarm_owner(self, owner: str) -> None:
        """Forget all timers of *owner*."""
        for timer in [timer for timer, _ in self._armed.items() if timer[0] == owner]:
            self.disarm(timer)

    def dump(self) -> list[Any]:
        """Return the whole state as plain data: ``[order, [[timer, due_ns, order], …]]``."""
        armed = sorted(self._armed.items(), key=lambda item: item[1])
        return [self._order, [[*timer, due_ns, order] for timer, (due_ns, order) in armed]]

    @property
    def order(self) -> int:
        """How many times a timer was armed."""
        return self._order

    def write_out(self) -> Writing:
        """Begin to write out the timers; `order` is for the caller to keep."""
        return self._armed.write_out(_packed)

    def load(self, entries: list[Any]) -> None:
        """Take in timers that were written out; `loaded` comes after the last of them."""
        for owner, slot, key, due_ns, nth in entries:
            timer = (owner, slot, thaw(key))
            self._armed.store(timer, (due_ns, nth))
            self._queued[timer] = due_ns
            self._heap.append((due_ns, nth, timer))

    def loaded(self, order: int) -> None:
        """Go on from where `order` was *order*."""
        heapq.heapify(self._heap)
        self._order = order
        self.moved = True


def _packed(timer: TimerId, armed: tuple[int, int]) -> tuple[Any, None]:
    return [*timer, *armed], None
