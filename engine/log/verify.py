"""Verification: read every byte of a log, change nothing, and say what is wrong with it.

That includes the large results that its records name, which are in files of their own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct

from headrace.engine.errors import LogCorrupt, LogUnusable
from headrace.engine.log import head as heads
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.blob_files import LISTED_MAX, Checklist, path_of
from headrace.engine.log.digest import new_digest
from headrace.engine.log.evidence import judge, scan_active
from headrace.engine.log.files import Files, SystemFiles, opened
from headrace.engine.log.folder import check_finished
from headrace.engine.log.frame import (
    SEAL,
    SEGMENT_HEADER_BYTES,
    ZLIB,
    Damage,
    Frame,
    Newer,
    records_of,
)
from headrace.engine.log.head import Head
from headrace.engine.log.lease import EVERYTHING, Lease
from headrace.engine.log.manifest import Segment
from headrace.engine.log.named import may_name, named_result
from headrace.engine.log.neighbours import check_follows, check_sealed
from headrace.engine.log.walker import check_kept, listed_now

PROGRESS_FRAMES: Final = 256
"""How many frames are checked between two reports of progress."""


class Fault(Struct, frozen=True):
    """Something that is not as it was written."""

    file: str
    offset: int
    """In bytes."""
    sequence: int
    """First record that is concerned; 0: not known."""
    acknowledged: bool
    """Whether records that somebody relies on are concerned."""
    reason: str
    run: int = 0
    """The run whose large result is concerned; 0: it is the log itself, or not known whose."""


class Report(Struct):
    """What a verification found."""

    ok: bool = True
    """Whether every acknowledged record is intact.  A torn last write is no fault."""
    records: int = 0
    """Intact ones."""
    first_sequence: int = 0
    last_sequence: int = 0
    durable_sequence: int = 0
    segments: int = 0
    size_bytes: int = 0
    torn_bytes: int = 0
    """An unfinished last write, which the next start will cut."""
    errors: list[Fault] = []
    errors_unlisted: int = 0
    """How many further records name large results that are missing or damaged."""
    results: int = 0
    """Large results that are needed, and intact."""
    result_bytes: int = 0
    unnamed_results: int | None = None
    """How many are stored that nobody names, which is no fault: a crash leaves such, and
    retention removes them.  ``None``: not known, since records are damaged."""


def verify(
    path: str | os.PathLike[str],
    *,
    held: Iterable[bytes] = (),
    files: Files | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Check every frame, record, digest and index of the log at *path*, and its large results.

    Takes no lock: a log that is being written is checked up to where it is.  *held* are
    digests of large results that the state needs though no record names them any more.
    *progress* is told how many bytes of how many are done; of large results how many there
    are is not known beforehand.

    Raises:
        LogUnusable: there is no log, or it may not be read.
        LogVersion: a newer headrace wrote it.
        SegmentGone: retention has removed meanwhile what was to be checked.  That takes a
            directory that may not be written, so that no lease could be had.
    """
    folder: str = os.path.abspath(path)  # noqa: PTH100  resolve() asks the disk
    try:
        verification = _Verification(files or SystemFiles(), folder, progress)
        verification.run(held)
    except OSError as error:
        raise LogUnusable(
            f"{folder}: expected an event log that can be read, found: {error}; check its mode"
        ) from error
    report = verification.report
    report.ok = not report.errors and not report.errors_unlisted
    return report


class _Verification:
    """One pass over a log."""

    def __init__(self, files: Files, folder: str, progress: Callable[[int, int], None]) -> None:
        self._files = files
        self._folder = folder
        self._progress = progress
        self._total_bytes = 0
        self._checklist = Checklist(files, folder)
        self._missed: set[bytes] = set()
        """Digests of the large results that are listed as faults."""
        self.report = Report()

    def run(self, held: Iterable[bytes]) -> None:
        with Lease(self._files, self._folder, EVERYTHING) as lease:
            for digest in held:
                self._check_result(digest, 0, 0)
            damaged = len(self.report.errors)
            self._run(lease)
        if all(fault.run for fault in self.report.errors[damaged:]):
            self.report.unnamed_results = self._checklist.unseen()

    def _run(self, lease: Lease) -> None:
        # HEAD first, so that what is written meanwhile can only be more than it says.
        head = heads.load(self._files, self._folder)
        try:
            manifest = manifests.load(self._files, self._folder)
            if manifest is None:
                raise self._no_manifest(head)
        except LogCorrupt as error:
            self._add(error)
            return
        *sealed, last = manifest.segments
        report = self.report
        report.first_sequence = manifest.first_sequence
        report.last_sequence = manifest.first_sequence - 1
        self._total_bytes = sum(entry.file.size_bytes for entry in sealed)
        previous: Segment | None = None
        for entry in sealed:
            lease.move(entry.base)
            try:
                self._check_sealed(entry, previous)
            except LogCorrupt as error:
                check_kept(self._files, self._folder, entry.base)
                self._add(error)
            previous = entry
        lease.move(last.base)
        try:
            self._check_last(last, head, previous)
        except LogCorrupt as error:
            check_kept(self._files, self._folder, last.base)
            self._add(error)

    def _no_manifest(self, head: Head | None) -> LogCorrupt | LogUnusable:
        names = self._files.listdir(self._folder)
        check_finished(self._folder, names)
        if head is None and not any(map(segments.base_of, names)):
            return LogUnusable(f"{self._folder}: expected an event log, found none; check the path")
        path = f"{self._folder}/{manifests.NAME}"
        return LogCorrupt(path, 0, expected="the list of segments", found="no such file")

    def _add(self, error: LogCorrupt) -> None:
        reason = f"expected {error.expected}, found {error.found}"
        first = error.first_sequence
        fault = Fault(error.path, error.offset_bytes, first, acknowledged=True, reason=reason)
        self.report.errors.append(fault)

    def _check_sealed(self, entry: Segment, previous: Segment | None) -> None:
        try:
            check_sealed(self._files, self._folder, entry, previous)
            self._check_sealed_frames(entry)
        except (LogCorrupt, FileNotFoundError):
            now = listed_now(self._files, self._folder, entry)
            if now.packed == entry.packed:
                raise
            # Compression has put another file in its place meanwhile.
            check_sealed(self._files, self._folder, now, previous)
            self._check_sealed_frames(now)

    def _check_sealed_frames(self, entry: Segment) -> None:
        """Read a finished segment, and compare it with what its last frame and MANIFEST say."""
        path, file = f"{self._folder}/{entry.file_name}", entry.file
        with opened(self._files, path, os.O_RDONLY) as fd:
            seal = segments.read_seal(self._files, fd, path, file.seal_offset)
            digest = new_digest()
            digest.update(self._files.pread(fd, SEGMENT_HEADER_BYTES, 0))
            unseen = deque(seal.index)
            for frame in self._frames(fd, path, entry.base, file.size_bytes):
                if unseen and unseen[0][:2] == (frame.base, frame.offset):
                    unseen.popleft()
                if frame.kind == SEAL:
                    break
                digest.update(frame.raw)
        self.report.segments += 1
        for what, expected, found in (
            ("digest", file.digest.hex(), digest.hexdigest()),
            ("digest of the last frame", seal.digest.hex(), digest.hexdigest()),
            ("index entries without a frame", "0", str(len(unseen))),
        ):
            if expected != found:
                raise LogCorrupt(
                    path,
                    file.seal_offset,
                    expected=f"{what} {expected}",
                    found=found,
                    first_sequence=entry.base,
                    last_sequence=entry.next_sequence - 1,
                )

    def _frames(self, fd: int, path: str, base: int, limit_offset: int) -> Iterator[Frame]:
        """Yield the frames of a segment, checked, and count their records.

        Raises:
            LogCorrupt: one is damaged.
        """
        report = self.report
        chain = segments.read_header(self._files, fd, path).crc
        walk = segments.Walk(
            self._files, fd, offset=SEGMENT_HEADER_BYTES, sequence=base, chain=chain
        )
        report.size_bytes += SEGMENT_HEADER_BYTES
        place = (walk.offset, walk.sequence)
        try:
            for number, frame in enumerate(walk.frames(limit_offset)):
                records = records_of(frame)
                if records and (frame.codec & ZLIB or may_name(frame.body)):
                    self._check_results(base, frame.base, records)
                place = (walk.offset, walk.sequence)
                report.records += frame.count
                report.size_bytes += len(frame.raw)
                report.last_sequence = walk.sequence - 1
                report.durable_sequence = max(report.durable_sequence, frame.durable - 1)
                if number % PROGRESS_FRAMES == 0:
                    self._progress(report.size_bytes + report.result_bytes, self._total_bytes)
                yield frame
        except Damage as damage:
            raise segments.corrupt(path, place[0], damage, place[1]) from damage
        except Newer as newer:
            raise segments.too_new(path, place[0], newer) from newer

    def _check_results(self, base: int, first: int, records: list[bytes]) -> None:
        """Check the large results that *records* of the segment *base* name."""
        for sequence, record in enumerate(records, first):
            named = named_result(record)
            if named is not None and not self._check_result(named.digest, sequence, named.run):
                # Unless it went with its record, just now, since there was no lease.
                check_kept(self._files, self._folder, base)

    def _check_result(self, digest: bytes, sequence: int, run: int) -> bool:
        """Check a large result that is needed; say whether it is whole."""
        report = self.report
        found, size_bytes = self._checklist.check(digest)
        if not found:
            if size_bytes:
                report.results += 1
                report.result_bytes += size_bytes
                self._progress(report.size_bytes + report.result_bytes, self._total_bytes)
        elif digest not in self._missed:  # the end of a run and the event about it are two
            if len(self._missed) < LISTED_MAX:
                self._missed.add(digest)
                whose = f"the result of run {run}" if run else "a result that the state refers to"
                reason = f"expected {whose}, found {found}"
                path = path_of(self._folder, digest)
                fault = Fault(path, 0, sequence, acknowledged=True, reason=reason, run=run)
                report.errors.append(fault)
            else:
                report.errors_unlisted += 1
        return not found

    def _check_last(self, entry: Segment, head: Head | None, previous: Segment | None) -> None:
        """Read the segment that is being written, and those after it that are not listed yet."""
        files, folder, report = self._files, self._folder, self.report
        if head is not None:
            report.durable_sequence = max(report.durable_sequence, head.next_sequence - 1)
        while True:
            report.segments += 1
            scan = scan_active(files, folder, entry, head, os.O_RDONLY)
            active = scan.active
            try:
                size = files.size(active.fd)
                self._total_bytes += size
                if previous is not None:
                    header = segments.read_header(files, active.fd, active.path)
                    check_follows(active.path, header, previous)
                for _ in self._frames(active.fd, active.path, entry.base, active.offset):
                    pass
                following = f"{folder}/{segments.name_of(active.sequence)}"
                more = active.sealed and scan.tear is None and files.kind(following) == "file"
                if not more:
                    judge(scan, head)
                    report.torn_bytes = size - active.offset
            finally:
                active.close()
            if not more:
                break
            previous, entry = active.entry(), Segment(active.sequence, entry.log_id)
        self._progress(report.size_bytes + report.result_bytes, self._total_bytes)
