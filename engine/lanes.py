"""`Lanes`: a queue that is fair to keys: one item of each key in turn, oldest first."""

from __future__ import annotations

from collections import deque
from typing import Any


class Lanes:
    """Items by lane; `pop` goes round the lanes that have any.  Each call is O(1)."""

    def __init__(self) -> None:
        self._lanes: dict[Any, deque[int]] = {}
        self._turn: deque[Any] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, lane: Any, item: int) -> None:
        """Add *item* at the end of *lane*."""
        self._count += 1
        queue = self._lanes.get(lane)
        if queue is None:
            self._lanes[lane] = deque((item,))
            self._turn.append(lane)
        else:
            queue.append(item)

    def peek(self) -> int:
        """Return what `pop` would take.

        Raises:
            IndexError: there is none.
        """
        return self._lanes[self._turn[0]][0]

    def push_first(self, lane: Any, item: int) -> None:
        """Add *item* again, at the beginning of *lane*, which has its turn next."""
        self._count += 1
        queue = self._lanes.get(lane)
        if queue is None:
            self._lanes[lane] = deque((item,))
            self._turn.appendleft(lane)
        else:
            queue.appendleft(item)

    def pop(self) -> int:
        """Take the oldest item of the lane whose turn it is.

        Raises:
            IndexError: there is none.
        """
        lane = self._turn.popleft()
        self._count -= 1
        queue = self._lanes[lane]
        item = queue.popleft()
        if queue:
            self._turn.append(lane)
        else:
            del self._lanes[lane]
        return item

    def discard(self, lane: Any, item: int) -> bool:
        """Take *item* out of *lane*; say whether it was there."""
        queue = self._lanes.get(lane)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        self._count -= 1
        if not queue:
            del self._lanes[lane]
            self._turn.remove(lane)
        return True
