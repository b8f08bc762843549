"""`EventLog`: the contract that every log implementation keeps.

Implemented by `MemoryLog` and `FileLog`; `tests/conformance/test_event_log.py` runs
against each of them.  The log stores bytes: what they mean is `headrace.engine.record`'s
subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

Durability = Literal["memory", "flushed", "fsynced"]


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
        """Why the log stopped for good (`DurabilityLost`, `LogFull`), or ``None``."""
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

    def commit(self) -> None:
        """Let everything that was appended so far be written, as one group if it fits."""
        ...

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """Yield ``(sequence of the first, encoded records)`` in order, up to the commit.

        Batches are cut, so that the first sequence yielded is *after* + 1 exactly (in a log
        that was salvaged: the first one that was found after it).

        Raises:
            LogCorrupt: damage was met; everything yielded before it is intact.
        """
        ...

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """Return the encoded records at *sequences*; those not committed are left out."""
        ...

    def close(self) -> None:
        """Write what was appended, mark a clean end, release the log.  Blocks; idempotent.

        Raises:
            The log's `failure`, if what was appended could not be written.
        """
        ...
