"""`Ready`: the runs that may begin, by priority, and within one fair to keys.

A run gains one level for each `AGING_S` that it waits, so that nothing starves: of the runs
whose turn it is within their level the one goes first that is highest by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from headrace.engine.clock import NS
from headrace.engine.lanes import Lanes

AGING_S: Final = 5.0
"""Waiting that counts as much as one level of priority."""
AGING_NS: Final = round(AGING_S * NS)


class Ready:
    """Items by lane and level; without levels it costs as much as `Lanes`."""

    def __init__(self) -> None:
        self._lanes = Lanes()
        """Level 0, where nearly all are."""
        self._levels: dict[int, Lanes] = {0: self._lanes}
        self._places: dict[int, tuple[int, int]] = {}
        """The level of an item, and since when it waits, if there are levels."""

    def __len__(self) -> int:
        if len(self._levels) == 1:
            return len(self._lanes)
        return sum(map(len, self._levels.values()))

    @property
    def has_levels(self) -> bool:
        """Whether items need to say since when they wait."""
        return len(self._levels) > 1

    def add_level(self, level: int) -> None:
        """Let there be items of *level*."""
        if level not in self._levels:
            self._levels[level] = Lanes()
            # Highest first: of equals that one goes first.
            self._levels = dict(sorted(self._levels.items(), reverse=True))

    def push(self, lane: Any, item: int, level: int = 0, since_ns: int = 0) -> None:
        """Add *item* at the end of *lane* of *level*; it waits since *since_ns*."""
        if len(self._levels) > 1:
            self._places[item] = level, since_ns
        self._levels[level].push(lane, item)

    def push_all(self, lane: Any, items: Sequence[int]) -> None:
        """Add *items* at the end of *lane*, as long as there are no levels."""
        self._lanes.push_all(lane, items)

    def pop(self) -> int | None:
        """Take the item whose turn it is, if there is any."""
        if len(self._levels) == 1:
            return self._lanes.pop() if self._lanes else None
        best, best_ns = self._lanes, None
        for level, lanes in self._levels.items():
            if lanes:
                # By how much the age of each differs does not depend on the time.
                ahead_ns = level * AGING_NS - self._places.get(lanes.peek(), (0, 0))[1]
                if best_ns is None or ahead_ns > best_ns:
                    best, best_ns = lanes, ahead_ns
        if not best:
            return None
        item = best.pop()
        self._places.pop(item, None)
        return item

    def discard(self, lane: Any, item: int) -> bool:
        """Take *item* out of *lane*; say whether it was there."""
        level, _ = self._places.pop(item, (0, 0))
        return self._levels[level].discard(lane, item)
