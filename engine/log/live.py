"""Reading a log in the process that writes it, while its writer works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from headrace.engine.errors import SegmentGone
from headrace.engine.log.files import Files
from headrace.engine.log.group import Group
from headrace.engine.log.lease import Lease
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
        self._near: tuple[int, list[bytes]] = (1, [])
        """The frame that was fetched from last: the next one asks for its neighbour, as a rule."""

    def read(self, *, after: int, upto: int) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the records after *after* up to *upto*; retention leaves them meanwhile."""
        # In this order: what is not among the groups any more is in the file by then.
        queued = list(self._queue)
        written = min(self._store.written_sequence, upto)
        if after < written:
            wanted = max(after + 1, self._store.manifest.first_sequence)
            with Lease(self._files, self._folder, wanted) as lease:
                yield from self._written(lease, after=after, upto=written)
        for group in queued:
            cut = cut_batch(group.first, group.records, after=max(after, written), upto=upto)
            if cut is not None:
                yield cut

    def _written(self, lease: Lease, *, after: int, upto: int) -> Iterator[tuple[int, list[bytes]]]:
        first = self._store.manifest.first_sequence
        if 0 < after < first - 1:
            raise SegmentGone(self._folder, wanted=after + 1, first_sequence=first)
        opened = OpenSegments(self._files, self._folder)
        try:
            yield from read_batches(
                opened,
                self._locate(opened, max(after + 1, first)),
                after=after,
                upto=upto,
                leave=lambda place: lease.move(place[0]),
            )
        finally:
            opened.close()

    def fetch(self, sequences: Iterable[int], *, upto: int) -> dict[int, bytes]:
        """Return the records at *sequences*, up to *upto*; those that are gone are left out."""
        queued = list(self._queue)
        written = self._store.written_sequence
        wanted = sorted({s for s in sequences if s <= upto})
        found = self._fetch_written([s for s in wanted if s <= written])
        for group in queued:
            for sequence in wanted:
                if sequence > written and 0 <= sequence - group.first < len(group.records):
                    found[sequence] = group.records[sequence - group.first]
        return found

    def _keep(self, first: int, records: list[bytes]) -> None:
        self._near = (first, records)

    def _fetch_written(self, wanted: list[int]) -> dict[int, bytes]:
        while True:
            first = self._store.manifest.first_sequence
            # What retention has removed would keep its room for as long as it is open.
            self._opened.close_below(first)
            base, near = self._near
            found = {s: near[s - base] for s in wanted if s >= first and 0 <= s - base < len(near)}
            rest = [s for s in wanted if s >= first and s not in found]
            if not rest:
                return found
            try:
                return found | fetch_records(
                    self._opened,
                    lambda sequence: self._locate(self._opened, sequence),
                    rest,
                    keep=self._keep,
                )
            except SegmentGone:
                continue  # just now

    def _locate(self, opened: OpenSegments, sequence: int) -> Place:
        # The writer may go on to a new segment at any time.  It lists the old one first, so
        # that what is not of the active segment is in the list.
        active = self._store.active
        if sequence >= active.base and not opened.packed(active.base):
            return active.base, active.index.place_of(sequence)
        entries = self._store.manifest.segments
        entry = entries[segment_of([e.base for e in entries], sequence)]
        return entry.base, opened.index(entry).place_of(sequence)

    def close(self) -> None:
        """Give the files back."""
        self._opened.close()
