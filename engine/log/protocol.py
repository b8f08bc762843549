"""`EventLog`: the contract that every log implementation keeps.

Implemented by `MemoryLog` and `FileLog`; `tests/conformance/test_event_log.py` runs
against each of them.  The log stores bytes: what they mean is `headrace.engine.record`'s
subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

from headrace.engine.log.blobs import Blobs

Durability = Literal["memory", "flushed", "fsynced"]


class SnapshotWriter(Protocol):
    """A snapshot that is being written.  Its methods may block: for a worker thread."""

    def write(self, parts: list[bytes]) -> None:
        """Add *parts*.

        Raises:
            OSError: the disk failed, as from `finish`; `abort` tidies up.
        """
        ...

    def finish(self, *, oldest_sequence: int, record: bytes) -> None:
        """Make the snapshot durable.

        *oldest_sequence* is the oldest record that it refers to; *record* is the log's at
        its sequence, by which it is known that both belong together.
        """
        ...

    def abort(self) -> None:
        """Leave nothing behind."""
        ...


class SnapshotStore(Protocol):
    """Where the snapshots of a log are kept: shortcuts, never needed while the log is whole."""

    def sequences(self) -> list[int]:
        """Return the sequences of all snapshots that are there, newest first."""
        ...

    def begin(self, sequence: int) -> SnapshotWriter:
        """Begin to write the snapshot at *sequence*."""
        ...

    def read(self, sequence: int, record: bytes | None) -> Iterator[bytes]:
        """Yield the parts of the snapshot at *sequence*; *record* is the log's at that place.

        Raises:
            SnapshotUnusable: it is damaged, or was made of another log.
        """
        ...

    def discard(self, sequence: int) -> None:
        """Note that a snapshot is of no use, so that it is the first to be removed."""
        ...

    def prune(self) -> None:
        """Remove all but the two newest that are of use."""
        ...

    def needs(self) -> dict[int, int]:
        """Return the sequence of each snapshot with the oldest record that it needs."""
        ...


class EventLog(Protocol):
    """Where records are kept: append-only, one writer, sequences 1, 2, 3 … without gaps.

    The half that appends never suspends and never blocks: it belongs to the event loop.
    Making records durable happens elsewhere (for `FileLog` in its writer thread), and
    `notify` says that something has changed.  A *unit* is all there or not at all after
    a crash, and units keep the order in which they were appended.
    """

    @property
    def log_id(self) -> bytes:
        """16 random bytes that name this log for ever; a fork has its own."""
        ...

    @property
    def next_sequence(self) -> int:
        """The sequence that the next appended record will get.  1 in an empty log."""
        ...

    @property
    def committed_sequence(self) -> int:
        """The last sequence that has reached the log's own durability level."""
        ...

    @property
    def durable_sequence(self) -> int:
        """The last sequence known to survive power loss (0: none; a `MemoryLog` says 0)."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Bytes that were appended and have not reached the log's level."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Why the log takes no records (`DurabilityLost`, `LogFull`), or ``None``."""
        ...

    @property
    def snapshots(self) -> SnapshotStore:
        """The snapshots of the state that this log leads to."""
        ...

    @property
    def blobs(self) -> Blobs:
        """The results that are too large for a record."""
        ...

    def open(self, notify: Callable[[], None]) -> None:
        """Take the log as its only writer, recover it, and be ready to append.

        *notify* is called, from any thread, after `committed_sequence` has risen or
        `failure` was set.  It must neither block nor raise.

        Raises:
            LogLocked: another writer holds it.
            LogCorrupt: acknowledged records are damaged; the log is as it was.
            LogVersion: a newer headrace wrote it.
            LogUnusable: the path cannot be read or written, or holds something else.
        """
        ...

    def append(self, unit: Sequence[bytes]) -> None:
        """Append the encoded records of one unit.  They get the next sequences, in order.

        Each record is one whole msgpack value: nothing checks it, and a frame that holds
        something else cannot be read.

        Returns at once; nothing is durable yet and nothing may be written before `commit`.

        Raises:
            LogClosed: the log is not open.
            EventRefused: a record is longer than 1 MiB; nothing was appended.
            The log's `failure`, if it has one; nothing was appended.
        """
        ...

    def append_each(self, records: Sequence[bytes]) -> None:
        """Append encoded records, each as a unit of its own: as `append` of each, but faster.

        Raises:
            As `append`; if a record is too long, nothing was appended.
        """
        ...

    def commit(self) -> None:
        """Let everything that was appended so far be written, as one group if it fits."""
        ...

    def sync(self, sequence: int) -> None:
        """Return once the record at *sequence* survives all that the log can survive.

        Below level ``fsynced`` that is later than its commit; a `MemoryLog` has no more to
        give.  The record has to be committed, or on its way.  Blocks: for a worker thread.

        Raises:
            LogClosed: the log is not open, or was closed meanwhile.
            The log's `failure`, if it failed before.
        """
        ...

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """Yield ``(sequence of the first, encoded records)`` in order, up to the commit.

        Batches are cut, so that the first sequence yielded is *after* + 1 exactly (in a log
        that was salvaged: the first one that was found after it).  *after* 0 begins with the
        oldest record that is kept: record 1, unless retention has removed it.

        Raises:
            SegmentGone: retention has removed the record after *after*.
            LogCorrupt: damage was met; everything yielded before it is intact.
        """
        ...

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """Return the encoded records at *sequences*.

        Those that are not committed, and those that retention has removed, are left out.
        """
        ...

    def disk_room(self) -> tuple[int, int] | None:
        """Return how many bytes are free, and how many there are, where the log is kept.

        ``None``: that is not known.

        Raises:
            OSError: it cannot be found out.
        """
        ...

    def retain(self, from_sequence: int) -> object:
        """Remove old records, if the log was told to; none from *from_sequence* on.

        Blocks: for a worker thread, while the log goes on.
        """
        ...

    def resume(self) -> bool:
        """Try to go on after `LogFull`; say whether the log takes records again.

        What was appended and not committed is gone, and its sequences are given again: the
        caller's state has to be that of `next_sequence`.  At level ``memory`` that goes back
        to what was written.  Blocks for a moment, not for as long as the disk is full.

        Raises:
            LogClosed: the log is not open.
            DurabilityLost: the log has failed for good.
        """
        ...

    def close(self) -> None:
        """Write what was appended, mark a clean end, release the log.  Blocks; idempotent.

        Raises:
            The log's `failure`, if what was appended could not be written.
        """
        ...
