"""`Stepper`: a kernel that goes through a log forwards and backwards, record by record.

Backwards means: from a state in memory, taken on the way, and forwards again from there.
Such states are few and bounded in bytes; where none is near, a snapshot of the log is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from headrace.engine.decider import Decider
from headrace.engine.errors import LogCorrupt, LogMismatch, SnapshotUnusable
from headrace.engine.inspect.walk import Decode, Walk
from headrace.engine.kernel import Kernel
from headrace.engine.log.reader import LogReader
from headrace.engine.record import Record, is_decision
from headrace.engine.restore import new_kernel
from headrace.engine.snapshot import Snapshot, load

KEPT_EVERY: Final = 500
"""Records after which a state is kept, or as many as the last one had entries."""
KEPT_MAX: Final = 64
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024


class Stepper:
    """Where somebody is in a log, with the state as it is after that record."""

    def __init__(
        self,
        reader: LogReader,
        make_decider: Callable[[], Decider],
        decode: Decode,
        *,
        at: int = 0,
    ) -> None:
        """Stand after the record *at*; 0: before the first one that there is a state for.

        *make_decider* gives rules without any state, anew for each way back.

        Raises:
            LogMismatch: the log has no state so early.
            LogCorrupt: damage is before that.
        """
        self._reader = reader
        self._make_decider = make_decider
        self._decode = decode
        self._kept: dict[int, list[bytes]] = {}
        self._next_kept = 0
        self._records: Generator[tuple[int, Record]] | None = None
        self.kernel: Kernel
        self.before: Callable[[int, Record], None] = lambda _sequence, _record: None
        """Whom to show each record before it is applied."""
        self._begin_at(at or reader.first_sequence - 1)

    @property
    def sequence(self) -> int:
        """The last record that was applied."""
        return self.kernel.sequence

    def forward(self) -> tuple[int, Record] | None:
        """Apply the next record and return it; ``None``: there is none.

        Raises:
            LogCorrupt: damage is next; the state is as it was.
            LogMismatch: the next record is missing.
        """
        if self._records is None:
            self._records = self._read()
        try:
            following = next(self._records, None)
        except LogCorrupt:
            self._records = None  # so that it is not taken for the end afterwards
            raise
        if following is None:
            self._records = None  # a log that is in use may have more later
            return None
        sequence, record = following
        if sequence != self.kernel.sequence + 1:
            raise LogMismatch(
                f"{self._reader.path}: expected record {self.kernel.sequence + 1}, found record "
                f"{sequence} next: those between are missing"
            )
        if sequence > self._next_kept and not is_decision(record):
            self._keep()
        self.before(sequence, record)
        self.kernel.fold(sequence, record)
        self.kernel.state.effects.clear()
        return sequence, record

    def close(self) -> None:
        """Let go of the log: what is half read holds its records there."""
        if self._records is not None:
            self._records.close()
            self._records = None

    def go_to(self, sequence: int) -> None:
        """Stand after the record *sequence*: backwards from a state that was kept.

        Raises:
            LogMismatch, LogCorrupt: as at the beginning, and as `forward`.
        """
        if sequence < self.kernel.sequence:
            self.close()
            self._back_before(sequence)
        while self.kernel.sequence < sequence and self.forward() is not None:
            pass

    def _read(self) -> Generator[tuple[int, Record]]:
        for first, batch in self._reader.read(after=self.kernel.sequence):
            for sequence, raw in enumerate(batch, first):
                yield sequence, self._decode(sequence, raw)

    def _begin_at(self, sequence: int) -> None:
        walk = Walk(self._reader, self._make_decider(), before=sequence, decode_record=self._decode)
        self.kernel = walk.kernel
        self._next_kept = self.kernel.sequence
        while self.kernel.sequence < sequence and self.forward() is not None:
            pass

    def _back_before(self, sequence: int) -> None:
        for near in sorted((kept for kept in self._kept if kept <= sequence), reverse=True):
            kernel = new_kernel(self._reader, self._make_decider())
            try:
                load(kernel, self._kept[near])
            except SnapshotUnusable:  # a rule had diverged by then: it has no state to load
                del self._kept[near]
                continue
            self.kernel = kernel
            return
        self._begin_at(sequence)

    def _keep(self) -> None:
        """Keep the present state, between two units, for a way back."""
        try:
            snapshot = Snapshot(self.kernel)
        except SnapshotUnusable:
            self._next_kept = 1 << 62  # records of a newer headrace: the log's own have to do
            return
        self._kept[self.kernel.sequence] = list(snapshot.parts())
        self._next_kept = self.kernel.sequence + max(KEPT_EVERY, snapshot.entries)
        while len(self._kept) > KEPT_MAX or self._size_bytes() > KEPT_BYTES_MAX:
            if len(self._kept) == 1:
                self._kept.clear()
                return
            del self._kept[self._least_missed()]

    def _size_bytes(self) -> int:
        return sum(len(part) for parts in self._kept.values() for part in parts)

    def _least_missed(self) -> int:
        """Return which one leaves the shortest gap; the nearest to here stay longest."""
        kept = sorted(self._kept)
        here = self.kernel.sequence

        def missed(place: int) -> float:
            older = kept[place - 1] if place else 0
            newer = kept[place + 1] if place + 1 < len(kept) else here
            return (newer - older) / (1 + abs(here - kept[place]))

        return kept[min(range(len(kept)), key=missed)]
