"""`.tumbling` and `.hopping`: windows that are aligned to the epoch, or to local midnights."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.record import RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, joined, oldest_of, packed, slim, unpacked
from headrace.triggers.stage import Place, Stage, TimerStage


class Grid(Protocol):
    """Where windows begin and end."""

    def end_after(self, at_ns: int, *, skipped: int = 0) -> tuple[int, int]:
        """Return the window ``[start, end)`` with the first end after *at_ns*.

        Or the one *skipped* windows later.
        """
        ...

    def count(self, after_ns: int, before_ns: int) -> int:
        """Return how many windows end after *after_ns*, where one ends, and before *before_ns*."""
        ...


class EpochGrid:
    """Windows ``[k * every, k * every + size)``."""

    def __init__(self, size_ns: int, every_ns: int) -> None:
        self._size_ns = size_ns
        self._every_ns = every_ns

    def end_after(self, at_ns: int, *, skipped: int = 0) -> tuple[int, int]:
        """See `Grid`."""
        start_ns = ((at_ns - self._size_ns) // self._every_ns + 1 + skipped) * self._every_ns
        return start_ns, start_ns + self._size_ns

    def count(self, after_ns: int, before_ns: int) -> int:
        """See `Grid`."""
        return max(0, (before_ns - 1 - after_ns) // self._every_ns)


class DayGrid:
    """The same in local days of a zone, which need not have 24 hours."""

    def __init__(self, size_days: int, every_days: int, tz: str) -> None:
        from headrace.triggers.zones import Days

        self._size = size_days
        self._every = every_days
        self._days = Days(tz)

    def end_after(self, at_ns: int, *, skipped: int = 0) -> tuple[int, int]:
        """See `Grid`."""
        days = self._days
        start = ((days.day_of(at_ns) - self._size) // self._every + 1) * self._every
        while days.start_ns(start + self._size) <= at_ns:  # a day that a zone has left out
            start += self._every
        window = days.start_ns(start), days.start_ns(start + self._size)
        for _ in range(skipped):
            window = self.end_after(window[1])
        return window

    def count(self, after_ns: int, before_ns: int) -> int:
        """See `Grid`."""
        count = 0
        while (after_ns := self.end_after(after_ns)[1]) < before_ns:
            count += 1
        return count


def grid_of(node: n.WindowNode) -> Grid:
    """Return where the windows of *node* lie."""
    if node.tz == "UTC":
        return EpochGrid(node.size_ns, node.every_ns)
    from headrace.triggers.zones import DAY_NS

    return DayGrid(node.size_ns // DAY_NS, node.every_ns // DAY_NS, node.tz)


class _Windows(Struct, gc=False):
    start_ns: int
    """Of the window that ends next: there is a timer at its end."""
    hits: list[Hit]
    """All that are in it or in a later one, oldest first."""


class Windows(TimerStage[_Windows]):
    """The state of a key is what is in windows that have not ended: each event once."""

    def __init__(self, place: Place, node: n.WindowNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        self._grid = grid_of(node)
        self._emit_empty = node.emit_empty
        self._partials_max = node.partials_max
        self.need = then.need

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        key = hit.key
        windows = self._table.touch(key)
        if windows is None:
            start_ns, end_ns = self._grid.end_after(hit.at_ns)
            if start_ns > hit.at_ns and not self._emit_empty:
                return  # between two windows
            windows = _Windows(start_ns, [])
            self.keep(key, windows, out)
            self._place.arm(key, end_ns)
        if len(windows.hits) >= self._partials_max:
            del windows.hits[0]
            out.append(RuleEvicted(self._rule, key, "event"))
        windows.hits.append(slim(hit, self.need))

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`: of windows in which nothing is, one stands for all."""
        windows = self._table.peek(key)
        assert windows is not None, "a timer is of a key that has windows"
        if not self._emit_empty:
            return 0
        start_ns, _ = self._grid.end_after(due_ns)
        if windows.hits and windows.hits[-1].at_ns >= start_ns:
            return 0  # each window with something in it fires by itself
        return self._grid.count(due_ns, until_ns)

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`: a window ends."""
        windows = self._table.peek(key)
        assert windows is not None, "a timer is of a key that has windows"
        start_ns = windows.start_ns
        inside = [hit for hit in windows.hits if start_ns <= hit.at_ns < due_ns]
        self._go_on(key, windows, due_ns, missed)
        if inside:
            made = joined(inside, last=inside[-1], at_ns=due_ns, due_ns=due_ns)
            self._then.push(made, out)
        elif self._emit_empty:
            self._then.push(Hit(key, due_ns, (), (), 0, 0, due_ns), out)

    def _go_on(self, key: Any, windows: _Windows, due_ns: int, missed: int) -> None:
        """Arm the end of the next window; drop what is in none any more."""
        start_ns, end_ns = self._grid.end_after(due_ns, skipped=missed)
        left = [hit for hit in windows.hits if hit.at_ns >= start_ns]
        if left or self._emit_empty:
            self._table.store(key, _Windows(start_ns, left))
            self._place.arm(key, end_ns)
        else:
            self._table.pop(key)

    def packed(self, key: Any, state: _Windows) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, state.start_ns, list(map(packed, state.hits))], oldest_of(state.hits)

    def unpacked(self, key: Any, fields: list[Any]) -> _Windows:
        """See `KeyedStage`."""
        start_ns, hits = fields
        return _Windows(start_ns, [unpacked(hit, key, self._place.recall) for hit in hits])
