"""How many events and failures came when: counts in bins that grow wider with the range."""

from __future__ import annotations

from typing import Final

BINS_MAX: Final = 8192
WIDTH_NS_MIN: Final = 1_000_000


class Heat:
    """Counts by bin of time.  Only bins with something in them take room.

    So a log of a year that is busy for a minute a day keeps a fine resolution.
    """

    def __init__(self) -> None:
        self.width_ns = WIDTH_NS_MIN
        self.events: dict[int, int] = {}
        """By the number of the bin, from the epoch on."""
        self.failures: dict[int, int] = {}

    def add_event(self, at_ns: int) -> None:
        """Count an event."""
        place = at_ns // self.width_ns
        found = self.events.get(place)
        if found is not None:
            self.events[place] = found + 1
            return
        self.events[place] = 1
        if len(self.events) > BINS_MAX:
            self._widen()

    def add_failure(self, at_ns: int) -> None:
        """Count a failed attempt."""
        place = at_ns // self.width_ns
        self.failures[place] = self.failures.get(place, 0) + 1
        if len(self.failures) > BINS_MAX:
            self._widen()

    def _widen(self) -> None:
        self.width_ns *= 2
        self.events, self.failures = _halved(self.events), _halved(self.failures)


def _halved(counts: dict[int, int]) -> dict[int, int]:
    halved: dict[int, int] = {}
    for place, count in counts.items():
        halved[place // 2] = halved.get(place // 2, 0) + count
    return halved
