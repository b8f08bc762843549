"""Reading a log in the process that writes it, while its writer works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from headrace.engine.log.files import Files
from headrace.engine.log.group import Group
from headrace.engine.log.store import Store
from headrace.engine.log.walker import (
    OpenSegments,
    Place,
    cut_batch,
    fetch_records,
    read_batches,
    segment_of,
)


class LiveReading:
    """The records of an open log: those in its files, and those that still wait in its queue."""

    def __init__(self, files: Files, folder: str, store: Store, queue: deque[Group]) -> None:
        """Read what *store* has written and what is in the writer's *queue*."""
        self._files = files
        self._folder = folder
        self._store = store
        self._queue = queue
        self._opened = OpenSegments(files, folder)

    def read(self, *, after: int, upto: int) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the records after *after* up to *upto*."""
        # In this order: what is not among the groups any more is in the file by then.
        queued = list(self._queue)
        written = min(self._store.written_sequence, upto)
        if after < written:
            opened = OpenSegments(self._files, self._folder)
            try:
                start = self._locate(opened, after + 1)
                yield from read_batches(opened, start, after=after, upto=written)
            finally:
                opened.close()
        for group in queued:
            cut = cut_batch(group.first, group.records, after=max(after, written), upto=upto)
            if cut is not None:
                yield cut

    def fetch(self, sequences: Iterable[int], *, upto: int) -> dict[int, bytes]:
        """Return the records at *sequences*, up to *upto*."""
        queued = list(self._queue)
        written = self._store.written_sequence
        first = self._store.manifest.first_sequence
        wanted = sorted({s for s in sequences if first <= s <= upto})
        found = fetch_records(
            self._opened,
            lambda sequence: self._locate(self._opened, sequence),
            [s for s in wanted if s <= written],
        )
        for group in queued:
            for sequence in wanted:
                if sequence > written and 0 <= sequence - group.first < len(group.records):
                    found[sequence] = group.records[sequence - group.first]
        return found

    def _locate(self, opened: OpenSegments, sequence: int) -> Place:
        # The writer may go on to a new segment at any time.  It lists the old one first, so
        # that what is not of the active segment is in the list.
        active = self._store.active
        if sequence >= active.base:
            return active.base, active.index.place_of(sequence)
        entries = self._store.manifest.segments
        entry = entries[segment_of([e.base for e in entries], sequence)]
        return entry.base, opened.index(entry).place_of(sequence)

    def close(self) -> None:
        """Give the files back."""
        self._opened.close()
