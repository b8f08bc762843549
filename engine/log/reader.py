"""`LogReader`: reads a log beside its writer, from any process, without a lock."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Self

from headrace.engine.errors import LogUnusable, SegmentGone
from headrace.engine.log import head as heads
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.blobs import FileBlobs
from headrace.engine.log.files import Files, SystemFiles
from headrace.engine.log.folder import check_finished, check_unborn
from headrace.engine.log.frame import (
    CLOSE,
    DATA,
    FRAME_HEADER_BYTES,
    SEAL,
    Damage,
    Newer,
    decode_frame,
)
from headrace.engine.log.head import Head
from headrace.engine.log.index import SparseIndex, first_time_ns, log_time_ns
from headrace.engine.log.lease import Lease
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.snapshots import FileSnapshots
from headrace.engine.log.walker import (
    OpenSegments,
    Place,
    fetch_records,
    read_batches,
    segment_of,
    step,
)


class LogReader:
    """The records of the log at *path*, also while another process writes it.

    It sees what the writer has acknowledged: of a log at level ``fsynced`` what HEAD or a
    later frame proves to be durable, of others every whole unit.  For one thread at a time.

    `read` and `follow` hold a lease for their length, so that retention leaves them what they
    have not read yet: a file of a few bytes in the log's directory, the only thing that a
    reader ever writes.  Without it (*lease* ``False``, or a directory that it may only read),
    and between two calls, what a reader needs may be removed: then it gets `SegmentGone`.

    Raises:
        LogUnusable: there is no log at *path*, or it may not be read.
        LogCorrupt: its list of segments is damaged, or was lost.
        LogVersion: a newer headrace wrote it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lease: bool = True, files: Files | None = None
    ) -> None:
        self.path: str = os.path.abspath(path)  # noqa: PTH100  resolve() asks the disk
        self._files = files or SystemFiles()
        self._lease = lease
        self.snapshots = FileSnapshots(self._files, self.path)
        """The snapshots of the state that the log leads to."""
        self.blobs = FileBlobs(self._files, self.path)
        """The results that are too large for a record."""
        self.manifest: Manifest = self._load_manifest()
        self._opened = OpenSegments(self._files, self.path)
        self._ahead = OpenSegments(self._files, self.path)
        self._frontier: segments.Walk | None = None
        self._base = self._end = self._whole = 0
        self._last = 0
        self._durable = 0
        self._left: Place | None = None
        self._seen = SparseIndex()
        self._seen_base = 0
        self._seen_upto = (0, 0)
        self.closed_cleanly = False
        """Whether the last frame is the mark of a writer that closed the log (see `refresh`)."""

    def _load_manifest(self) -> Manifest:
        files = self._files
        try:
            manifest = manifests.load(files, self.path)
            if manifest is None and files.kind(self.path) == "directory":
                names = files.listdir(self.path)
                check_finished(self.path, names)
                check_unborn(files, self.path, names)
        except OSError as error:
            raise LogUnusable(
                f"{self.path}: expected an event log that can be read, found: {error}; "
                "check the path and its mode"
            ) from error
        if manifest is None:
            raise LogUnusable(
                f"{self.path}: expected an event log, found no {manifests.NAME} there; "
                "check the path"
            )
        return manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def log_id(self) -> bytes:
        """16 random bytes that name this log for ever."""
        return self.manifest.log_id

    @property
    def first_sequence(self) -> int:
        """The oldest record that was kept when the list of segments was read last."""
        return self.manifest.first_sequence

    @property
    def last_sequence(self) -> int:
        """The last record that there was at the last `refresh` or `read`."""
        return self._last

    @property
    def committed_sequence(self) -> int:
        """As `last_sequence`: a reader sees nothing else."""
        return self._last

    @property
    def durable_sequence(self) -> int:
        """The last record that was known then to survive power loss."""
        return self._durable

    def refresh(self) -> int:
        """Look for new records and return the last one's sequence; 0: there is none.

        Raises:
            LogCorrupt: the log is damaged before its end.
            LogVersion: a newer headrace wrote what is new.
        """
        while True:
            try:
                return self._look()
            except SegmentGone:
                # Retention took the segment that was to be opened: the end is further on.
                self._frontier = None

    def _renew(self) -> None:
        """Read the list of segments anew; what it does not name any more is given back."""
        self.manifest = self._load_manifest()
        self._opened.close_below(self.first_sequence)
        if self._left is not None and self._left[0] < self.first_sequence:
            self._left = None

    def _look(self) -> int:
        head = heads.load(self._files, self.path)
        if head is not None and head.log_id != self.manifest.log_id:
            head = None
        walk = self._frontier
        if walk is None or (head is not None and self._base < head.base):
            self._renew()
            if head is not None and head.base < self.manifest.first_sequence:
                head = None  # an old one, which power loss has brought back
            # HEAD is a shortcut to the end of the log: nothing before it has to be walked over.
            if head is not None:
                self._durable = max(self._durable, head.next_sequence - 1)
                walk = self._enter(head.base, (head.next_sequence, head.offset))
                self.closed_cleanly = self._closes_at(head)
            else:
                walk = self._enter(self.manifest.segments[-1].base, (0, 0))
        self._advance(walk)
        if head is not None:
            self._durable = max(self._durable, head.next_sequence - 1)
            if (self._base, self._end) < (head.base, head.offset):
                found = "none, though HEAD says that there is one"
                path = self._ahead.path(self._base)
                raise segments.corrupt(
                    path, self._end, Damage("a whole frame", found), self._whole + 1
                )
        self._last = self._whole
        if self.manifest.config.get("durability", "fsynced") == "fsynced":
            self._last = min(self._whole, self._durable)
        return self._last

    def _closes_at(self, head: Head) -> bool:
        """Say whether the frame before the place that *head* names is a clean end's mark."""
        fd = self._ahead.fd(head.base)
        start = max(0, head.offset - FRAME_HEADER_BYTES)
        data = self._files.pread(fd, FRAME_HEADER_BYTES, start)
        try:
            frame = decode_frame(memoryview(data), start)
        except (Damage, Newer):
            return False
        return frame.kind == CLOSE and frame.crc == head.chain

    def _enter(self, base: int, place: tuple[int, int]) -> segments.Walk:
        walk = self._frontier = self._ahead.walk(base, place)
        self._ahead.close_below(base)
        self._base, self._end, self._whole = base, walk.offset, walk.sequence - 1
        return walk

    def _advance(self, walk: segments.Walk) -> None:
        """Walk on to the last whole unit."""
        walk.refresh()
        while True:
            try:
                frame = walk.next_frame()
            except Damage:
                # It is being written just now, or will be cut back.  HEAD knows where to
                # begin next time.
                self._frontier = None
                return
            except Newer as newer:
                path = self._ahead.path(self._base)
                raise segments.too_new(path, walk.offset, newer) from newer
            if frame is None:
                return
            self._durable = max(self._durable, frame.durable - 1)
            if self.closed_cleanly:
                # Its writer has changed, and with it perhaps the durability.
                self.manifest = self._load_manifest()
            self.closed_cleanly = frame.kind == CLOSE
            if frame.kind == SEAL:
                self._end = walk.offset
                # The next one is not made yet, or is gone already.
                if self._files.kind(self._ahead.path(frame.base)) == "missing":
                    self._frontier = None
                    return
                walk = self._enter(frame.base, (0, 0))
            elif not frame.more:
                self._end, self._whole = walk.offset, walk.sequence - 1

    def read(self, *, after: int = 0, upto: int | None = None) -> Iterator[tuple[int, list[bytes]]]:
        """Yield ``(sequence of the first, encoded records)`` after *after*, in order.

        *after* 0 begins with the oldest record that is kept.  Ends with *upto*, or with what
        there is when the first batch is asked for.

        Raises:
            SegmentGone: retention has removed what comes next.
            LogCorrupt: damage was met; everything yielded before it is intact.
            LogVersion: a newer headrace wrote what comes next.
        """
        if after < self.refresh():
            with self._leased(after) as lease:
                yield from self._batches(after, upto, lease)

    @contextlib.contextmanager
    def _leased(self, after: int) -> Generator[Lease]:
        """Hold a lease for what comes after *after*, and know what is kept."""
        wanted = max(after + 1, self.first_sequence)
        with Lease(self._files, self.path, wanted, wanted=self._lease) as lease:
            self._renew()
            self._check_kept(after)
            yield lease

    def _check_kept(self, after: int) -> None:
        first = self.first_sequence
        if 0 < after < first - 1:
            raise SegmentGone(self.path, wanted=after + 1, first_sequence=first)

    def _batches(
        self, after: int, upto: int | None, lease: Lease
    ) -> Iterator[tuple[int, list[bytes]]]:
        last = self.refresh()
        upto = last if upto is None else min(upto, last)

        def leave(place: Place) -> None:
            # Segments go as a whole, so that nothing is gained by saying more.
            lease.move(place[0])
            self._leave(place)

        while after < upto:
            opened = OpenSegments(self._files, self.path)
            try:
                start = self._locate(opened, after + 1)
                for first, records in read_batches(
                    opened, start, after=after, upto=upto, leave=leave
                ):
                    after = first + len(records) - 1
                    yield first, records
            except SegmentGone:
                # Perhaps only of the segment before what comes next.
                self._renew()
                self._check_kept(after)
            else:
                return
            finally:
                opened.close()

    def _leave(self, place: Place) -> None:
        """Remember where the next batch begins."""
        self._left = place

    def _locate(self, opened: OpenSegments, sequence: int) -> Place:
        """Return where to begin to look for *sequence*, which is there."""
        left = self._left
        # Who follows the log goes on where it left off, without an index.
        if left is not None and left[1][0] == sequence and not opened.packed(left[0]):
            return left
        entry = self._segment_of(sequence)
        if not entry.sealed and (entry.base != self._base or opened.packed(entry.base)):
            # It was finished meanwhile, and the way into the next one was found without a list.
            self._renew()
            entry = self._segment_of(sequence)
        if entry.sealed:
            return entry.base, opened.index(entry).place_of(sequence)
        self._look_over(opened, entry.base, sequence)
        return entry.base, self._seen.place_of(sequence)

    def _segment_of(self, sequence: int) -> Segment:
        entries = self.manifest.segments
        return entries[segment_of([entry.base for entry in entries], sequence)]

    def _look_over(self, opened: OpenSegments, base: int, sequence: int) -> None:
        """See to it that the index of the open segment *base*, which is ours, has *sequence*.

        On disk there is none yet; no frame is looked at twice.
        """
        if base != self._seen_base:
            self._seen, self._seen_base, self._seen_upto = SparseIndex(), base, (base, 0)
        if sequence < self._seen_upto[0]:
            return
        walk = opened.walk(base, self._seen_upto)
        while walk.sequence <= sequence:
            frame = step(opened, base, walk)
            if frame.kind == DATA:
                self._seen.add(frame.base, frame.offset, first_time_ns(frame.body))
        self._seen_upto = (walk.sequence, walk.offset)

    def follow(
        self, *, after: int = 0, wait: Callable[[], bool]
    ) -> Iterator[tuple[int, list[bytes]]]:
        """Yield as `read`, then whatever is added, until *wait* returns ``False``.

        *wait* is called when there is nothing new: it sleeps for as long as it likes.

        Raises:
            As `read`.
        """
        with self._leased(after) as lease:
            while True:
                for first, records in self._batches(after, None, lease):
                    after = first + len(records) - 1
                    yield first, records
                if not wait():
                    return

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """Return the encoded records at *sequences*; those that are not there are left out.

        Raises:
            LogCorrupt: damage was met.
        """
        wanted = set(sequences)
        while True:
            last = self.refresh()
            there = sorted(s for s in wanted if self.first_sequence <= s <= last)
            try:
                return fetch_records(self._opened, lambda s: self._locate(self._opened, s), there)
            except SegmentGone:
                self._renew()

    def sequence_at(self, at_ns: int) -> int:
        """Return the first record whose log time is at least *at_ns*.

        If there is none yet, the sequence that comes after the last one.
        """
        while True:
            try:
                return self._sequence_at(at_ns)
            except SegmentGone:
                self._renew()

    def _sequence_at(self, at_ns: int) -> int:
        last = self.refresh()
        opened = OpenSegments(self._files, self.path)
        try:
            start = self._place_before(opened, at_ns, last)
            for first, records in read_batches(
                opened, start, after=0, upto=last, chunk_bytes=segments.FETCH_BYTES
            ):
                for sequence, record in enumerate(records, first):
                    if log_time_ns(record) >= at_ns:
                        return sequence
        finally:
            opened.close()
        return last + 1

    def _place_before(self, opened: OpenSegments, at_ns: int, last: int) -> Place:
        """Return where to begin to look for the first record at or after *at_ns*."""
        open_base = self._segment_of(last).base
        if last >= open_base and not self._segment_of(last).sealed:
            # Its first frame tells whether the rest has to be looked over.
            self._look_over(opened, open_base, open_base)
            if 0 < self._seen.first_at_ns < at_ns:
                self._look_over(opened, open_base, last)
                return open_base, self._seen.place_before(at_ns)
        entries = self.manifest.segments
        place = bisect_left(entries, at_ns, key=_first_at_ns)
        entry = entries[max(0, place - 1)]
        if entry.sealed:
            return entry.base, opened.index(entry).place_before(at_ns)
        return entry.base, (0, 0)

    def close(self) -> None:
        """Give the files back."""
        self._opened.close()
        self._ahead.close()


def _first_at_ns(entry: Segment) -> int:
    # The open segment's is not known: it is after that of every finished one.
    return entry.first_at_ns if entry.sealed else 1 << 63
