"""`Lanes`: a queue that is fair to keys: one item of each key in turn, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
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

    def push_all(self, lane: Any, items: Sequence[int]) -> None:
        """Add *items*, of which there are some, at the end of *lane*."""
        self._count += len(items)
        queue = self._lanes.get(lane)
        if queue is None:
            self._lanes[lane] = deque(items)
            self._turn.append(lane)
        else:
            queue.extend(items)

    @property
    def turn(self) -> Any:
        """The lane whose turn it is.

        Raises:
            IndexError: there is none.
        """
        return self._turn[0]

    def turns(self) -> Iterator[tuple[Any, int]]:
        """Yield each lane with its oldest item, the one first whose turn it is."""
        for lane in self._turn:
            yield lane, self._lanes[lane][0]

    def peek(self) -> int:
        """Return what `pop` would take.

        Raises:
            IndexError: there is none.
        """
        return self._lanes[self._turn[0]][0]

    def set_aside(self) -> deque[int]:
        """Take the whole lane out whose turn it is, and return its items.

        Raises:
            IndexError: there is none.
        """
        items = self._lanes.pop(self._turn.popleft())
        self._count -= len(items)
        return items

    def put_back(self, lane: Any, items: deque[int]) -> None:
        """Add a lane again that was set aside; it has its turn next."""
        assert items, lane
        assert lane not in self._lanes, lane
        self._count += len(items)
        self._lanes[lane] = items
        self._turn.appendleft(lane)

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
        return self._pop(self._turn.popleft())

    def pop_of(self, lane: Any) -> int:
        """Take the oldest item of *lane*, as if it was its turn; near the front that is cheap."""
        self._turn.remove(lane)
        return self._pop(lane)

    def _pop(self, lane: Any) -> int:
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
