"""`Walk`: a kernel that goes through a log record by record, from a snapshot before a place.

Only ever reads, also the log of an engine at work.  How far it has to fold is the way from
the nearest snapshot: one of those that a start would use, or one that was kept for looking
back (`headrace.engine.log.past`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from headrace.engine.decider import Decider
from headrace.engine.errors import LogCorrupt, LogMismatch, SnapshotUnusable
from headrace.engine.kernel import Kernel
from headrace.engine.log.files import Files, SystemFiles
from headrace.engine.log.reader import LogReader
from headrace.engine.log.snapshots import FileSnapshots, PastSnapshots
from headrace.engine.record import Record, decode, decode_all, is_decision
from headrace.engine.restore import new_kernel
from headrace.engine.snapshot import load

Decode = Callable[[int, bytes], Record]
"""Makes a record of its sequence and its bytes."""
Watch = Callable[[int, Record], None]
"""Whoever looks at each record, with the kernel as it was before it."""
SNAPSHOTS_TRIED_MAX: Final = 8
"""Of those before a place; each that cannot be used costs its reading."""


class Walk:
    """A kernel on its way through a log."""

    def __init__(
        self,
        reader: LogReader,
        decider: Decider,
        *,
        before: int,
        decode_record: Decode | None = None,
        files: Files | None = None,
    ) -> None:
        """Begin at the newest snapshot at or before the record *before* that can be used.

        If there is none, at the beginning of the log.

        Raises:
            LogMismatch: the beginning of the log is gone, and there is no such snapshot.
            SnapshotUnusable: it is gone, and those that there are cannot be used.
        """
        self.reader = reader
        self._decode: Decode = decode_record or _decoded
        self.problems: list[str] = []
        """Why snapshots that are nearer were not used."""
        self.damage: LogCorrupt | None = None
        """What it met: it has stopped before that."""
        self.kernel = self._loaded(decider, before, files or SystemFiles())
        self.begun_after = self.kernel.sequence
        """The sequence of the snapshot that it began at; 0: the log's beginning."""

    def _loaded(self, decider: Decider, before: int, files: Files) -> Kernel:
        reader = self.reader
        stores: list[FileSnapshots] = [reader.snapshots, PastSnapshots(files, reader.path)]
        found = sorted(
            ((s, store) for store in stores for s in store.sequences() if s <= before),
            key=lambda one: -one[0],
        )
        for sequence, store in found[:SNAPSHOTS_TRIED_MAX]:
            kernel = new_kernel(reader, decider)
            try:
                load(kernel, store.read(sequence, reader.fetch([sequence]).get(sequence)))
            except SnapshotUnusable as error:
                self.problems.append(str(error))
            else:
                return kernel
        first = next((first for first, _ in reader.read(upto=reader.first_sequence)), 1)
        if first > 1:
            expected = (
                f"{reader.path}: expected the log's records from 1 on, or a snapshot at or before "
                f"{before} to begin at, found those before {first} missing and "
            )
            if self.problems:
                raise SnapshotUnusable(f"{expected}none that can be used: {self.problems[0]}")
            raise LogMismatch(f"{expected}no such snapshot; choose a later place")
        return new_kernel(reader, decider)

    def to(self, sequence: int, watch: Watch | None = None) -> Kernel:
        """Fold up to and with the record *sequence*, or up to damage; return the kernel.

        *watch* is shown each record before it is applied.  What a unit leads to beyond
        *sequence* has not happened yet.
        """
        kernel = self.kernel
        for first, batch in self._batches(sequence):
            records = decode_all(batch, first=first, one=self._decode)
            if watch is None:
                kernel.fold_all(first, records)
            else:
                for number, record in enumerate(records, first):
                    watch(number, record)
                    kernel.fold(number, record)
            self.kernel.state.effects.clear()  # nobody carries them out
        return self.kernel

    def record(self, sequence: int) -> Record | None:
        """Return the record at *sequence*; ``None``: there is none."""
        raw = self.reader.fetch([sequence]).get(sequence)
        return None if raw is None else self._decode(sequence, raw)

    def end_of_unit(self, sequence: int) -> int:
        """Return the last record of the unit that the input at *sequence* begins."""
        for first, batch in self.reader.read(after=sequence):
            for number, raw in enumerate(batch, first):
                if not is_decision(self._decode(number, raw)):
                    return sequence
                sequence = number
        return sequence

    def steps(self, upto: int) -> Iterator[tuple[int, Record]]:
        """Yield each record up to *upto* once it is applied."""
        for first, batch in self._batches(upto):
            for number, raw in enumerate(batch, first):
                record = self._decode(number, raw)
                self.kernel.fold(number, record)
                yield number, record
            self.kernel.state.effects.clear()

    def _batches(self, upto: int) -> Iterator[tuple[int, list[bytes]]]:
        after = self.kernel.sequence
        if after >= upto or self.damage is not None:
            return
        try:
            for first, batch in self.reader.read(after=after, upto=upto):
                if first != self.kernel.sequence + 1:
                    raise LogMismatch(
                        f"{self.reader.path}: expected record {self.kernel.sequence + 1}, found "
                        f"record {first} next: those between are missing, and without them "
                        "there is no state; read it with `headrace log cat`"
                    )
                yield first, batch
        except LogCorrupt as damage:
            self.damage = damage


def _decoded(_sequence: int, raw: bytes) -> Record:
    return decode(raw)
