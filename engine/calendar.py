"""`Calendar`: a queue of what is due, earliest first, for a million entries.

A calendar queue (Brown, "Calendar queues", CACM 1988) with three fixed widths: entries lie
unsorted in buckets of about 18 minutes, which are dealt out to buckets of a second and of a
millisecond when their time comes near; what is nearest is sorted.  So an entry costs a few
list operations however many there are, where one in a heap costs a dozen comparisons that
all miss the processor's cache: see `benchmarks/triggers.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from typing import Any, Final

Entry = tuple[int, int, Any]
"""``(due_ns, order, what)``; no two have the same order."""

WIDTHS: Final = (40, 30, 20)
"""Bits of the nanoseconds of a bucket, at each level."""
SMALL: Final = 256
"""Entries that are not worth dealing out."""


class _Level:
    """The buckets of one width that lie before `end_ns`."""

    __slots__ = ("bits", "buckets", "end_ns", "numbers")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.end_ns = 0
        self.buckets: dict[int, list[Entry]] = {}
        self.numbers: list[int] = []  # of the buckets that there are, as a heap

    def add(self, entry: Entry) -> None:
        number = entry[0] >> self.bits
        bucket = self.buckets.get(number)
        if bucket is None:
            self.buckets[number] = [entry]
            heapq.heappush(self.numbers, number)
        else:
            bucket.append(entry)

    def remove(self, gone: Container[Any]) -> None:
        kept = {}
        for number, bucket in self.buckets.items():
            if left := [entry for entry in bucket if entry[2] not in gone]:
                kept[number] = left
        self.buckets, self.numbers = kept, list(kept)
        heapq.heapify(self.numbers)


class Calendar:
    """Entries by time.  What was taken out last does not bound what may be put in."""

    def __init__(self) -> None:
        self._coarse, self._middle, self._fine = map(_Level, WIDTHS)
        self._near: list[Entry] = []  # sorted, the earliest last
        self._near_end_ns = 0
        self._late: list[Entry] = []  # a heap: what was put in before `_near_end_ns`

    def __len__(self) -> int:
        levels = (self._coarse, self._middle, self._fine)
        there = sum(len(bucket) for level in levels for bucket in level.buckets.values())
        return there + len(self._near) + len(self._late)

    def put(self, entry: Entry) -> None:
        """Put *entry* in."""
        due_ns = entry[0]
        if due_ns < self._near_end_ns:
            heapq.heappush(self._late, entry)
        elif due_ns < self._fine.end_ns:
            self._fine.add(entry)
        elif due_ns < self._middle.end_ns:
            self._middle.add(entry)
        else:
            self._coarse.add(entry)

    def first(self) -> Entry | None:
        """Return the earliest entry; it stays."""
        near, late = self._near, self._late
        if not near and not late:
            if not self._advance():
                return None
            near = self._near
        if not late or (near and near[-1] < late[0]):
            return near[-1]
        return late[0]

    def top(self) -> Entry | None:
        """Return the earliest entry if it is near already; else ``None``."""
        near, late = self._near, self._late
        if not near:
            return late[0] if late else None
        return near[-1] if not late or near[-1] < late[0] else late[0]

    def pop(self) -> None:
        """Take out what `first` has just returned."""
        near, late = self._near, self._late
        if not late or (near and near[-1] < late[0]):
            near.pop()
        else:
            heapq.heappop(late)

    def remove(self, gone: Container[Any]) -> None:
        """Take out all entries of what is *gone*.  Looks at each entry that there is."""
        for level in (self._coarse, self._middle, self._fine):
            level.remove(gone)
        self._near = [entry for entry in self._near if entry[2] not in gone]
        self._late = [entry for entry in self._late if entry[2] not in gone]
        heapq.heapify(self._late)

    def _advance(self) -> bool:
        """Bring what is due next near; say whether there is anything."""
        coarse, middle, fine = self._coarse, self._middle, self._fine
        while not self._near:
            if fine.numbers:
                self._bring_near(fine)
            elif middle.numbers:
                self._deal_out(middle, fine)
            elif coarse.numbers:
                self._deal_out(coarse, middle)
            else:
                return False
        return True

    def _bring_near(self, level: _Level) -> None:
        number = heapq.heappop(level.numbers)
        self._near = level.buckets.pop(number)
        self._near.sort(reverse=True)
        self._near_end_ns = (number + 1) << level.bits

    def _deal_out(self, level: _Level, finer: _Level) -> None:
        """Deal the earliest bucket of *level* out to *finer* ones; a small one is near at once."""
        number = level.numbers[0]
        bucket = level.buckets[number]
        finer.end_ns = (number + 1) << level.bits
        if len(bucket) <= SMALL:
            self._bring_near(level)
            self._fine.end_ns = self._near_end_ns
            return
        heapq.heappop(level.numbers)
        del level.buckets[number]
        for entry in bucket:
            finer.add(entry)
