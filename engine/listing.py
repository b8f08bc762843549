"""`ListWriting`: writes out entries that never change, piecemeal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Generic, TypeVar

E = TypeVar("E")


class ListWriting(Generic[E]):
    """`headrace.engine.table.Writing` of entries that are replaced, and never changed."""

    def __init__(self, entries: Iterable[E], pack: Callable[[E], Any]) -> None:
        """Take the list of *entries* as it is now."""
        self.oldest: int | None = None
        self._entries = iter(list(entries))
        self._pack = pack

    def step(self, count: int) -> list[Any]:
        """See `Writing`."""
        return [self._pack(entry) for entry in islice(self._entries, count)]

    def stop(self) -> None:
        """See `Writing`."""

    def settle(self, count: int) -> bool:
        """See `Writing`."""
        return True
