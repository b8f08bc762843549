"""Which (source, id) were stored lately, so that a repeated delivery is not stored twice.

Part of the kernel's state: it survives restarts because it is folded from the log.
"""

from __future__ import annotations

from typing import Any, Final

from headrace.engine.table import OrderedTable, Writing

IDS_MAX: Final = 1_000_000


class Dedupe:
    """Sequence by (source, id), for `window_ns` of log time and at most `IDS_MAX` ids."""

    def __init__(self, *, ids_max: int = IDS_MAX) -> None:
        self.window_ns = 0
        """How long an id is remembered; 0: ids are not looked at."""
        self.evicted = 0
        """Ids that had to go before their time, because there were too many."""
        self._ids_max = ids_max
        # In the order of storing, which is the order of time.
        self._stored: OrderedTable[tuple[int, str], tuple[int, int]] = OrderedTable()

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, source: int, event_id: str, now_ns: int) -> int | None:
        """Return the sequence under which the id was stored within the window."""
        stored = self._stored.peek((source, event_id))
        if stored is None or now_ns - stored[1] >= self.window_ns:
            return None
        return stored[0]

    def store(self, source: int, event_id: str, sequence: int, at_ns: int) -> None:
        """Remember an id; forget those that are out of the window."""
        if self.window_ns == 0:
            return
        stored = self._stored
        stored.store((source, event_id), (sequence, at_ns))
        while (oldest := stored.first()) is not None and at_ns - oldest[1][1] >= self.window_ns:
            stored.pop(oldest[0])
        if len(stored) > self._ids_max and oldest is not None:
            stored.pop(oldest[0])
            self.evicted += 1

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        ids = [[source, name, *stored] for (source, name), stored in self._stored.items()]
        return [self.window_ns, self.evicted, ids]

    def write_out(self) -> Writing:
        """Begin to write out the ids; `window_ns` and `evicted` are for the caller to keep."""
        return self._stored.write_out(_packed)

    def load(self, entries: list[Any]) -> None:
        """Take in ids that were written out, after those that are there."""
        for source, name, sequence, at_ns in entries:
            self._stored.store((source, name), (sequence, at_ns))


def _packed(key: tuple[int, str], stored: tuple[int, int]) -> tuple[Any, None]:
    # That it names a sequence does not keep the record: only the number is handed out.
    return [*key, *stored], None
