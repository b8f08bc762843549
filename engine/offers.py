"""Offers: events that were put into the log while no engine ran, and are still to be stored.

An `EventOffered` says that somebody wants an event stored; nothing reacts to it.  The next
engine stores each as an ordinary `EventStored`, which names the offer that it pays, and the
rules see that.  What is owed is part of the kernel's state, so a crash between two payments
neither loses an event nor stores one twice.
"""

from __future__ import annotations

from collections import deque
from typing import Any


class Offers:
    """The offers that are owed to the log, oldest first: sequences, the log has the rest."""

    def __init__(self) -> None:
        self.owed: deque[int] = deque()
        self._ids: dict[tuple[str, str], int] = {}  # of those that have one, by (source, id)

    def __len__(self) -> int:
        return len(self.owed)

    @property
    def oldest(self) -> int | None:
        """The oldest record that is still needed, or ``None``."""
        return self.owed[0] if self.owed else None

    def find(self, source: str, event_id: str) -> int | None:
        """Return the offer with this id that is owed, or ``None``."""
        return self._ids.get((source, event_id))

    def owe(self, sequence: int, source: str, event_id: str | None) -> None:
        """Put the offer at *sequence* in the queue, unless one with its id is there already."""
        if event_id is not None:
            if (source, event_id) in self._ids:
                return
            self._ids[(source, event_id)] = sequence
        self.owed.append(sequence)

    def paid(self, sequence: int, source: str, event_id: str | None) -> None:
        """Note that the offer at *sequence*, the oldest, was stored as an event."""
        if self.owed and self.owed[0] == sequence:
            self.owed.popleft()
            if event_id is not None:
                self._ids.pop((source, event_id), None)

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        return [list(self.owed), [[*key, sequence] for key, sequence in self._ids.items()]]

    def load(self, dumped: list[Any]) -> None:
        """Take in what `dump` returned."""
        owed, ids = dumped
        self.owed = deque(owed)
        self._ids = {(source, event_id): sequence for source, event_id, sequence in ids}
