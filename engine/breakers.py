"""`Breakers`: which tasks' circuits are not closed, and when attempts failed lately.

Part of the kernel's state, so it changes by records only.  When a circuit opens is the
executor's matter, which knows what the task declares; it says so by a record.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

FAILURES_MAX: Final = 100
"""Times of failed attempts that are kept of one task: the newest."""
TASKS_MAX: Final = 10_000
"""Tasks of which such times are kept: those that failed last."""

Circuit = Literal["closed", "open", "half_open"]


class BreakerView(Struct, array_like=True, frozen=True):
    """The circuit of a task that is not closed."""

    task: str
    state: Circuit
    failures: int
    """Failed attempts that opened it."""
    until_ns: int
    """Log time until which no attempt begins; then one is tried."""


class Breakers:
    """Circuits by task."""

    def __init__(self) -> None:
        self.moved: dict[str, BreakerView] = {}
        """Those that are not closed."""
        self._failed: dict[str, list[int]] = {}
        """Log times of failed attempts, oldest first."""

    def note_failed(self, task: str, at_ns: int) -> None:
        """Note that an attempt of *task* failed; only those of a closed circuit count."""
        if task in self.moved:
            return
        times = self._failed.pop(task, None) or []
        times.append(at_ns)
        if len(times) > FAILURES_MAX:
            del times[0]
        self._failed[task] = times
        if len(self._failed) > TASKS_MAX:
            del self._failed[next(iter(self._failed))]

    def failures_since(self, task: str, since_ns: int) -> int:
        """Return how many attempts of *task* failed after *since_ns*, as far as is kept."""
        return sum(at_ns > since_ns for at_ns in self._failed.get(task, ()))

    def circuit(self, task: str) -> Circuit:
        """Return the state of the circuit of *task*."""
        moved = self.moved.get(task)
        return "closed" if moved is None else moved.state

    def move(self, view: BreakerView) -> None:
        """Let a circuit be as *view* says."""
        self._failed.pop(view.task, None)
        if view.state == "closed":
            self.moved.pop(view.task, None)
        else:
            self.moved[view.task] = view

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        return [
            [[v.task, v.state, v.failures, v.until_ns] for v in self.moved.values()],
            [[task, *times] for task, times in self._failed.items()],
        ]

    def load(self, dumped: list[Any]) -> None:
        """Take in what `dump` returned."""
        moved, failed = dumped
        self.moved = {fields[0]: BreakerView(*fields) for fields in moved}
        self._failed = {task: times for task, *times in failed}
