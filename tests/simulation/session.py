"""Drives an `EventLog` as an engine does, one group after the other."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from headrace.engine.clock import SystemClock
from headrace.engine.log.protocol import EventLog

WAIT_S_MAX = 30.0


def record(number: int, *, at_ns: int | None = None, size_bytes: int = 0) -> bytes:
    """Return an encoded input that can be told from others by *number*."""
    at_ns = 1_700_000_000_000_000_000 + number if at_ns is None else at_ns
    return msgspec.msgpack.encode((1, at_ns, "plant.7.temperature", number, b"x" * size_bytes))


def records(first: int, last: int) -> list[bytes]:
    """Return the records number *first* to *last*."""
    return [record(number) for number in range(first, last + 1)]


class SameDay(SystemClock):
    """A clock that always gives logs the same date, so that one story leaves the same bytes."""

    @staticmethod
    def wall_ns() -> int:
        """See `Clock`."""
        return 1_700_000_000_000_000_000


class Session:
    """An open log and what was acknowledged to its user."""

    def __init__(self, log: EventLog) -> None:
        """Open *log*."""
        self.log = log
        self._changed = threading.Condition()
        log.open(self._notify)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, sequence: int) -> None:
        """Return once *sequence* is committed; raise the log's failure if it never will be."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.log.committed_sequence >= sequence or self.log.failure is not None,
                timeout=WAIT_S_MAX,
            )
        assert done, "the log neither committed nor failed"
        if self.log.committed_sequence < sequence:
            assert self.log.failure is not None
            raise self.log.failure

    def put(self, *units: Sequence[bytes]) -> int:
        """Append *units*, commit them as one group, and wait.  Returns the last sequence."""
        for unit in units:
            self.log.append(unit)
        self.log.commit()
        last = self.log.next_sequence - 1
        self.wait(last)
        return last


def contents(log: EventLog, after: int = 0) -> list[bytes]:
    """Return the records of *log*, checking that their sequences have no gap."""
    found: list[bytes] = []
    for first, batch in log.read(after=after):
        assert first == after + len(found) + 1
        found.extend(batch)
    return found
