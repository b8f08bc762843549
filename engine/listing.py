"""`ListWriting`: writes out entries that never change, piecemeal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from msgspec import Raw

STEP_BYTES: Final = 256 * 1024

E = TypeVar("E")


class ListWriting(Generic[E]):
    """`headrace.engine.table.Writing` of entries that are replaced, and never changed."""

    def __init__(self, entries: Iterable[E], pack: Callable[[E], Raw]) -> None:
        """Take the list of *entries* as it is now."""
        self.oldest: int | None = None
        self._entries = iter(list(entries))
        self._pack = pack

    def step(self, count: int) -> list[Any]:
        """See `Writing`."""
        packed: list[Raw] = []
        size_bytes = 0
        for entry in islice(self._entries, count):
            packed.append(self._pack(entry))
            size_bytes += memoryview(packed[-1]).nbytes
            if size_bytes > STEP_BYTES:
                break  # others want their turn
        return packed

    def stop(self) -> None:
        """See `Writing`."""

    def settle(self, count: int) -> bool:
        """See `Writing`."""
        return True
