"""`MemoryLog`: an event log for tests, demos and dry runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from headrace.engine.errors import (
    EventRefused,
    LogClosed,
    LogError,
    LogFull,
    LogLocked,
    SnapshotUnusable,
)
from headrace.engine.log.blobs import MemoryBlobs
from headrace.engine.log.frame import RECORD_BYTES_MAX

READ_COUNT: Final = 1000
"""How many records `MemoryLog.read` yields at once."""


def check_sizes(unit: Sequence[bytes]) -> int:
    """Return how many bytes *unit* has.

    Raises:
        ValueError: it is empty.
        EventRefused: a record is too long.
    """
    if not unit:
        raise ValueError("a unit has at least one record")
    size_bytes = sum(map(len, unit))
    if size_bytes > RECORD_BYTES_MAX and (longest := max(map(len, unit))) > RECORD_BYTES_MAX:
        raise EventRefused(
            f"expected a record of at most {RECORD_BYTES_MAX} bytes, found one of {longest}; "
            "store large data elsewhere and let the event name it"
        )
    return size_bytes


class MemorySnapshot:
    """A snapshot that is being written."""

    def __init__(self, kept: dict[int, tuple[list[bytes], int, bytes]], sequence: int) -> None:
        self._kept = kept
        self._sequence = sequence
        self._parts: list[bytes] = []

    def write(self, parts: list[bytes]) -> None:
        """See `SnapshotWriter`."""
        self._parts += parts

    def finish(self, *, oldest_sequence: int, record: bytes) -> None:
        """See `SnapshotWriter`."""
        self._kept[self._sequence] = (self._parts, oldest_sequence, record)

    def abort(self) -> None:
        """See `SnapshotWriter`."""
        self._parts = []


class MemorySnapshots:
    """The snapshots of a `MemoryLog`.  See `SnapshotStore`."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[list[bytes], int, bytes]] = {}

    def copy(self, upto: int) -> MemorySnapshots:
        """Return what a crash after record *upto* would leave."""
        made = MemorySnapshots()
        made._kept = {sequence: kept for sequence, kept in self._kept.items() if sequence <= upto}
        return made

    def sequences(self) -> list[int]:
        """See `SnapshotStore`."""
        return sorted(self._kept, reverse=True)

    def begin(self, sequence: int) -> MemorySnapshot:
        """See `SnapshotStore`."""
        return MemorySnapshot(self._kept, sequence)

    def read(self, sequence: int, record: bytes | None) -> Iterator[bytes]:
        """See `SnapshotStore`."""
        parts, _, made_with = self._kept[sequence]
        if record != made_with:
            raise SnapshotUnusable(f"expected the log that snapshot {sequence} was made of")
        yield from parts

    def discard(self, sequence: int) -> None:
        """See `SnapshotStore`."""
        self._kept.pop(sequence, None)

    def prune(self) -> None:
        """See `SnapshotStore`."""
        for sequence in self.sequences()[2:]:
            del self._kept[sequence]

    def needs(self) -> dict[int, int]:
        """See `SnapshotStore`."""
        return {sequence: min(sequence, oldest) for sequence, (_, oldest, _) in self._kept.items()}


class MemoryLog:
    """An `EventLog` that forgets everything with its process.

    What is committed stays when it is closed, so it can be opened again: a restart.  `copy`
    is what a crash would have left at any point.
    """

    def __init__(self, log_id: bytes | None = None) -> None:
        """Begin empty.  *log_id* is random if it is not given."""
        self._log_id = log_id or os.urandom(16)
        self._records: list[bytes] = []
        self._committed = 0
        self._pending_bytes = 0
        self._notify: Callable[[], None] | None = None
        self.failure: LogError | None = None
        """See `EventLog`.  A test may set it to see what its loss does."""
        self.snapshots = MemorySnapshots()
        """See `EventLog`."""
        self.blobs = MemoryBlobs()
        """See `EventLog`."""

    @property
    def log_id(self) -> bytes:
        """See `EventLog`."""
        return self._log_id

    @property
    def next_sequence(self) -> int:
        """See `EventLog`."""
        return len(self._records) + 1

    @property
    def committed_sequence(self) -> int:
        """See `EventLog`."""
        return self._committed

    @property
    def durable_sequence(self) -> int:
        """See `EventLog`: 0, since nothing here survives."""
        return 0

    @property
    def pending_bytes(self) -> int:
        """See `EventLog`."""
        return self._pending_bytes

    def copy(self, upto: int | None = None) -> MemoryLog:
        """Return a closed log with the records up to *upto*: as a crash would leave it.

        Without *upto*, with those that are committed.
        """
        upto = self._committed if upto is None else upto
        if not 0 <= upto <= len(self._records):
            raise ValueError(f"upto must be 0 to {len(self._records)}, not {upto}")
        made = MemoryLog(self._log_id)
        made._records = self._records[:upto]
        made._committed = upto
        made.snapshots = self.snapshots.copy(upto)
        made.blobs.stored = dict(self.blobs.stored)
        return made

    def open(self, notify: Callable[[], None]) -> None:
        """See `EventLog`."""
        if self._notify is not None:
            raise LogLocked(
                "MemoryLog: expected a log that nobody writes, found it open already; give each "
                "engine its own, or close the first one"
            )
        self._notify = notify
        self.failure = None

    def append(self, unit: Sequence[bytes]) -> None:
        """See `EventLog`."""
        if self._notify is None:
            self._check_open()
        if self.failure is not None:
            raise self.failure
        if len(unit) == 1 and (size_bytes := len(unit[0])) <= RECORD_BYTES_MAX:  # as most
            self._pending_bytes += size_bytes
        else:
            self._pending_bytes += check_sizes(unit)
        self._records += unit

    def append_each(self, records: Sequence[bytes]) -> None:
        """See `EventLog`."""
        if records:
            self.append(records)

    def _check_open(self) -> Callable[[], None]:
        if self._notify is None:
            raise LogClosed("MemoryLog: expected an open log; open it first")
        return self._notify

    def commit(self) -> None:
        """See `EventLog`.  Everything is committed at once."""
        notify = self._check_open()
        if self._committed < len(self._records) and self.failure is None:
            self._committed = len(self._records)
            self._pending_bytes = 0
            notify()

    def sync(self, sequence: int) -> None:
        """See `EventLog`."""
        self._check_open()
        if self.failure is not None and self._committed < sequence:
            raise self.failure

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `EventLog`.  Works on a closed log too."""
        committed = self._committed
        for start in range(after, committed, READ_COUNT):
            yield start + 1, self._records[start : min(start + READ_COUNT, committed)]

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """See `EventLog`.  Works on a closed log too."""
        return {
            sequence: self._records[sequence - 1]
            for sequence in sequences
            if 1 <= sequence <= self._committed
        }

    def disk_room(self) -> None:
        """See `EventLog`: as much as the machine has."""

    def retain(self, from_sequence: int) -> None:
        """See `EventLog`: it keeps everything."""

    def resume(self) -> bool:
        """See `EventLog`.  There is always room again."""
        self._check_open()
        if self.failure is not None:
            if not isinstance(self.failure, LogFull):
                raise self.failure
            self._forget()
            self.failure = None
        return True

    def _forget(self) -> None:
        del self._records[self._committed :]
        self._pending_bytes = 0

    def close(self) -> None:
        """See `EventLog`."""
        if self._notify is None:
            return
        try:
            if self.failure is not None and self._committed < len(self._records):
                raise self.failure
            self.commit()
        finally:
            self._forget()
            self._notify = None
