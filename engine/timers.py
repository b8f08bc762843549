"""The kernel's timers: armed, moved and fired in the order of law L3."""

from __future__ import annotations

from typing import Any, Final

from headrace.engine.calendar import Calendar
from headrace.engine.record import thaw
from headrace.engine.table import Table, Writing

NEVER_NS: Final = 2**64
TimerId = tuple[str, int, Any]
"""``(owner, slot, key)``, as in the record `TimerFired`."""


LEFT_SPARE: Final = 1000
"""Entries of disarmed timers beyond the number of the armed ones, before they are taken out."""


class Timers:
    """A set of timers, at most one per id, that hands out the earliest.

    The order is (due, order of arming).  Moving a timer to a later time, which a watchdog
    does on each event, only overwrites a dict entry: its place in the calendar stays what it was
    and is put right when it comes up.
    """

    def __init__(self) -> None:
        # Due time, order of arming, and the due time of its one entry in the calendar.
        self._armed: Table[TimerId, tuple[int, int, int]] = Table()
        # The entries of timers that were disarmed before these came up.
        self._left: dict[TimerId, int] = {}
        self._calendar = Calendar()
        self._order = 0
        self.bound_ns = NEVER_NS
        """No timer is due before this: so that most events need not look for one."""
        self.moved = False
        """Whether the first may be due earlier than before; whoever acts on it puts it back."""

    def __len__(self) -> int:
        return len(self._armed)

    def arm(self, timer: TimerId, due_ns: int) -> None:
        """Let *timer* fire at *due_ns*; if it was armed, it moves."""
        self._order += 1
        before = self._armed.peek(timer)
        if before is not None:
            entry_ns: int | None = before[2]
        else:
            entry_ns = self._left.pop(timer, None) if self._left else None
        if entry_ns is None or due_ns < entry_ns:
            entry_ns = due_ns
            self._calendar.put((due_ns, self._order, timer))
            self.moved = True
        self._armed.store(timer, (due_ns, self._order, entry_ns))
        if due_ns < self.bound_ns:  # noqa: PLR1730 (a call is dear: this is done for each event)
            self.bound_ns = due_ns

    def disarm(self, timer: TimerId) -> None:
        """Forget *timer*; nothing happens if it was not armed."""
        found = self._armed.pop(timer)
        if found is not None:
            top = self._calendar.top()
            if top is not None and top[1] == found[1]:
                self._calendar.pop()  # as of each that has fired
            else:
                self._left[timer] = found[2]
                if len(self._left) > len(self._armed) + LEFT_SPARE:
                    # So many are disarmed long before they are due: it would not stop growing.
                    self._calendar.remove(self._left)
                    self._left = {}

    def due_ns(self, timer: TimerId) -> int | None:
        """Return when *timer* is due, or ``None`` if it is not armed."""
        armed = self._armed.peek(timer)
        return None if armed is None else armed[0]

    def first(self) -> tuple[int, TimerId] | None:
        """Return ``(due_ns, timer)`` of the timer that fires next; it stays armed."""
        calendar, armed = self._calendar, self._armed
        while (entry := calendar.first()) is not None:
            due_ns, order, timer = entry
            found = armed.peek(timer)
            if found is None:
                calendar.pop()
                if self._left.get(timer) == due_ns:
                    del self._left[timer]
            elif found[1] == order:
                self.bound_ns = due_ns
                return due_ns, timer
            else:
                calendar.pop()
                if found[2] == due_ns:  # else an earlier entry took its place
                    calendar.put((found[0], found[1], timer))
                    armed.store(timer, (found[0], found[1], found[0]))
        self.bound_ns = NEVER_NS
        return None

    def disarm_owner(self, owner: str) -> None:
        """Forget all timers of *owner*."""
        for timer in [timer for timer, _ in self._armed.items() if timer[0] == owner]:
            self.disarm(timer)

    def dump(self) -> list[Any]:
        """Return the whole state as plain data: ``[order, [[timer, due_ns, order], …]]``."""
        armed = sorted(self._armed.items(), key=lambda item: item[1])
        return [self._order, [[*timer, due_ns, order] for timer, (due_ns, order, _) in armed]]

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
            self._armed.store(timer, (due_ns, nth, due_ns))
            self._calendar.put((due_ns, nth, timer))
            self.bound_ns = min(self.bound_ns, due_ns)

    def loaded(self, order: int) -> None:
        """Go on from where `order` was *order*."""
        self._order = order
        self.moved = True


def _packed(timer: TimerId, armed: tuple[int, int, int]) -> tuple[Any, None]:
    return [*timer, armed[0], armed[1]], None
