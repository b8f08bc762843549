"""`Table`: a dict whose entries can be written out piecemeal while it goes on changing.

For snapshots of a kernel with a million keys, which must not hold up the event loop.  The
idea is that of a copy on write: what is there when the writing begins is set aside and
changes no more; an entry that is touched before it was visited is encoded first, and moves
to the entries that live.  Afterwards the two are made one again, piecemeal too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Raw

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENCODE: Final = msgspec.msgpack.Encoder().encode

Pack = Callable[[K, V], tuple[Any, int | None]]
"""Turns an entry into plain data and the oldest sequence that it refers to, if any."""


class Writing(Protocol):
    """A part of the state that is being written out."""

    oldest: int | None
    """The oldest sequence that the entries written so far refer to."""

    def step(self, count: int) -> list[Any]:
        """Return the next entries, about *count*, as they were at the beginning; none: done."""
        ...

    def stop(self) -> None:
        """Write nothing more: the rest is not wanted."""
        ...

    def settle(self, count: int) -> bool:
        """Tidy up after the last step, about *count* entries; say whether all is done."""
        ...


class Table(Generic[K, V]):
    """A dict without an order.  Values are never ``None``.

    `live` may be read and changed directly where it has the key; see the methods for what
    to do if it has not.
    """

    __slots__ = ("_writing", "live")

    def __init__(self) -> None:
        self.live: dict[K, V] = self._make()
        self._writing: TableWriting[K, V] | None = None

    @staticmethod
    def _make() -> dict[Any, Any]:
        return {}

    def __len__(self) -> int:
        return len(self.live) + (0 if self._writing is None else len(self._writing))

    def peek(self, key: K) -> V | None:
        """Return the value of *key*, not to be changed, or ``None``."""
        value = self.live.get(key)
        if value is None and self._writing is not None:
            return self._writing.peek(key)
        return value

    def store(self, key: K, value: V) -> None:
        """Set the value of *key*."""
        if self._writing is not None:
            self._writing.recall(key)
        self.live[key] = value

    def pop(self, key: K) -> V | None:
        """Remove *key*; return what it had, or ``None``."""
        value = self.live.pop(key, None)
        if value is None and self._writing is not None:
            return self._writing.recall(key)
        return value

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield all entries, oldest first if there is an order; no change meanwhile."""
        if self._writing is not None:
            yield from self._writing.left()
        yield from self.live.items()

    def clear(self) -> None:
        """Remove all.  What is being written out is written as it was."""
        self.live.clear()
        self._writing = None

    def write_out(self, pack: Pack[K, V]) -> TableWriting[K, V]:
        """Begin to write out the entries as they are now.

        To be called again only once the `Writing` has settled.
        """
        assert self._writing is None, "one at a time"
        writing = self._writing = TableWriting(self, self.live, pack)
        self.live = self._make()
        return writing

    def take_oldest(self) -> tuple[K, V]:
        """Take any entry out of `live`; in a table with an order the oldest."""
        return self.live.popitem()

    def is_written_by(self, writing: TableWriting[K, V]) -> bool:
        """Say whether *writing* still has entries of this table."""
        return self._writing is writing

    def settle_on(self, older: dict[K, V]) -> None:
        """Go on with *older*, which has all entries by now."""
        self.live = older
        self._writing = None


class OrderedTable(Table[K, V]):
    """A table in the order in which entries were stored or touched last."""

    __slots__ = ()
    # Narrower than in `Table`, though it can be set: `_make` is the only one that makes it.
    live: OrderedDict[K, V]  # pyright: ignore[reportIncompatibleVariableOverride]

    @staticmethod
    def _make() -> OrderedDict[Any, Any]:
        # Not a dict: finding the first entry of one takes as long as the number of entries
        # that were deleted before it.
        return OrderedDict()

    def touch(self, key: K) -> V | None:
        """Return the value of *key*, to be changed, and make it the newest; or ``None``."""
        live = self.live
        value = live.get(key)
        if value is not None:
            live.move_to_end(key)
        elif self._writing is not None:
            value = self._writing.recall(key)
            if value is not None:
                live[key] = value
        return value

    def store(self, key: K, value: V) -> None:
        """Set the value of *key* and make it the newest."""
        if self._writing is not None:
            self._writing.recall(key)
        live = self.live
        live[key] = value
        live.move_to_end(key)

    def first(self) -> tuple[K, V] | None:
        """Return the oldest entry, not to be changed, or ``None``."""
        if self._writing is not None:
            first = self._writing.first()
            if first is not None:
                return first
        for key, value in self.live.items():
            return key, value
        return None

    def take_oldest(self) -> tuple[K, V]:
        """See `Table`."""
        return self.live.popitem(last=False)


class TableWriting(Generic[K, V]):
    """The entries that a table had at the beginning, while they are written out."""

    def __init__(self, table: Table[K, V], older: dict[K, V], pack: Pack[K, V]) -> None:
        self.oldest: int | None = None
        self._table = table
        self._older = older
        self._pack = pack
        self._entries = iter(older.items())
        self._front = iter(older.items())
        self._head: tuple[K, V] | None = None  # where that is
        # Keys that are in the table's `live`, or gone, by now, with the entry that they were.
        self._moved: dict[K, Raw] = {}
        self._is_written = False

    def __len__(self) -> int:
        return len(self._older) - len(self._moved)

    def peek(self, key: K) -> V | None:
        """Return what *key* has here, or ``None``."""
        return None if key in self._moved else self._older.get(key)

    def recall(self, key: K) -> V | None:
        """Take *key* out and return what it had, for it is about to change; or ``None``."""
        if self._is_written:
            return None if key in self._moved else self._older.pop(key, None)
        value = self.peek(key)
        if value is not None:
            self._moved[key] = Raw(ENCODE(self._packed(key, value)))
        return value

    def _packed(self, key: K, value: V) -> Any:
        entry, oldest = self._pack(key, value)
        if oldest is not None and (self.oldest is None or oldest < self.oldest):
            self.oldest = oldest
        return entry

    def first(self) -> tuple[K, V] | None:
        """Return the oldest entry that is left here, or ``None``."""
        older, moved = self._older, self._moved
        if not self._is_written:
            while self._head is None or self._head[0] in moved:
                self._head = next(self._front, None)
                if self._head is None:
                    return None
            return self._head
        while older:
            key, value = next(iter(older.items()))
            if key not in moved:
                return key, value
            del older[key], moved[key]
        return None

    def left(self) -> Iterator[tuple[K, V]]:
        """Yield the entries that are left here, oldest first."""
        moved = self._moved
        return (entry for entry in self._older.items() if entry[0] not in moved)

    def step(self, count: int) -> list[Any]:
        """See `Writing`."""
        moved, packed = self._moved, self._packed
        entries: list[Any] = []
        for key, value in self._entries:
            raw = moved.get(key)
            entries.append(packed(key, value) if raw is None else raw)
            if len(entries) >= count:
                return entries
        if not entries:
            self._is_written = True
        return entries

    def stop(self) -> None:
        """See `Writing`."""
        self._is_written = True

    def settle(self, count: int) -> bool:
        """See `Writing`."""
        assert self._is_written, "first all steps"
        older, moved, table = self._older, self._moved, self._table
        if not table.is_written_by(self):
            return True  # it has been cleared meanwhile
        while moved and count > 0:
            key, _ = moved.popitem()
            del older[key]
            count -= 1
        while table.live and count > 0:
            key, value = table.take_oldest()
            older[key] = value
            count -= 1
        if moved or table.live:
            return False
        table.settle_on(older)
        return True
