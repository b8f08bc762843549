"""Salvage: copy what is intact of a damaged log into a new one, and say what is missing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct

from headrace.engine.clock import Clock, SystemClock
from headrace.engine.errors import (
    BlobUnusable,
    LogCorrupt,
    LogUnusable,
    LogVersion,
    SnapshotUnusable,
)
from headrace.engine.log import blob_files
from headrace.engine.log import head as heads
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.blob_files import LISTED_MAX
from headrace.engine.log.file import SEGMENT_BYTES_MAX, draw_id
from headrace.engine.log.files import Files, SystemFiles, read_all, remove_tree, replace
from headrace.engine.log.folder import prepare
from headrace.engine.log.frame import (
    DATA,
    FORMAT,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Damage,
    Newer,
    decode_frame,
    decode_segment_header,
    records_of,
)
from headrace.engine.log.group import Group
from headrace.engine.log.lock import Lock
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.named import named_result
from headrace.engine.log.recovery import begin, recover
from headrace.engine.log.segment import Gap
from headrace.engine.log.snapshots import FileSnapshots, name_of
from headrace.engine.log.store import Store

T = TypeVar("T")

_MAGIC = FRAME_MAGIC.to_bytes(4, "little")


class Lost(Struct, frozen=True):
    """A large result that a record names, and that was not found, or is damaged."""

    sequence: int
    """The record; 0: none that was found names it."""
    run: int
    """The run that it is of; 0: not known."""
    reason: str


class Salvage(Struct):
    """What a salvage found."""

    records: int = 0
    """Copied, under the sequences that they had."""
    first_sequence: int = 1
    """The oldest record that the log had kept; what is before it was removed on purpose."""
    gaps: list[Gap] = []
    """What was not found.  Each stands in the new log too."""
    snapshots: list[int] = []
    """Sequences of the snapshots that were copied: they are whole, and their record was found."""
    left_out: list[str] = []
    """Why other snapshots were not."""
    doubts: list[str] = []
    """What may be wrong with those that were copied."""
    results: int = 0
    """Large results that were copied: all that are whole."""
    lost: list[Lost] = []
    """Those that were not."""
    lost_unlisted: int = 0
    """How many more there are, beyond `LISTED_MAX`; some may count twice."""
    log_id: bytes = b""
    """Of the new log."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.gaps and not self.lost and not self.lost_unlisted

    @property
    def obstacle(self) -> Gap | None:
        """What is missing behind its last snapshot; ``None``: an engine can start from it."""
        upto = max(self.snapshots, default=0)
        removed = Gap(1, self.first_sequence - 1, "removed by retention")
        return next((gap for gap in (removed, *self.gaps) if gap.last > upto), None)


def salvage(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    files: Files | None = None,
    clock: Clock | None = None,
    new_id: Callable[[], bytes] | None = None,
) -> Salvage:
    """Copy every intact frame of the log at *source* to a new log at *target*.

    Sequences stay as they are: other records refer to them.  The source is only read.  What
    the log removed on purpose (retention) is not missing: the new log begins there too.
    Large results that are whole are copied, whoever may need them, and so are holds, and
    snapshots that are whole and whose own record was found.

    After an error nothing is left at *target*, as far as the disk lets it be removed; what is
    left then, or after a crash at any moment, is no log and says so.

    Raises:
        LogUnusable: *source* cannot be read, or *target* is there already.
        LogFull, DurabilityLost: *target* could not be written.
    """
    disk = files or SystemFiles()
    old: str = os.path.abspath(source)  # noqa: PTH100  resolve() asks the disk
    new: str = os.path.abspath(target)  # noqa: PTH100  as above
    try:
        if disk.kind(new) != "missing":
            raise LogUnusable(f"{new}: expected a new path, found something there; choose another")
        if not _segments_in(disk.listdir(old)):
            raise LogUnusable(f"{old}: expected an event log, found no segment; check the path")
        return _make(disk, old, new, clock=clock or SystemClock(), log_id=(new_id or draw_id)())
    except OSError as error:
        raise LogUnusable(
            f"{old}: expected to copy it to {new}, found: {error}; check both and try again"
        ) from error


class _Origin:
    """What is known of the damaged log."""

    def __init__(self, files: Files, folder: str) -> None:
        self.files = files
        self.folder = folder
        self.snapshots = FileSnapshots(files, folder)
        self.records: dict[int, bytes | None] = dict.fromkeys(self.snapshots.sequences())
        """The records at which there are snapshots, once they were found."""
        self.manifest: Manifest | None = None
        with contextlib.suppress(LogCorrupt, LogVersion):
            self.manifest = manifests.load(files, folder)


def _make(files: Files, old: str, new: str, *, clock: Clock, log_id: bytes) -> Salvage:
    origin = _Origin(files, old)
    prepare(files, new)
    with contextlib.ExitStack() as opened:
        lock = Lock(files, new)
        opened.callback(lock.release)
        try:
            store = _begin(origin, new, clock=clock, log_id=log_id)
            opened.callback(store.close)
            found = Salvage(log_id=log_id, first_sequence=store.manifest.first_sequence)
            results = _Results(files, old, new, found)
            results.copy()
            _copy(origin, store, found, results)
            results.note_unnamed()
            store.finish()
            for sequence in sorted(origin.records):
                _copy_snapshot(origin, sequence, new, found)
        except BaseException:
            _discard(files, new)
            raise
        # Until now it said of itself that it is none.
        config = {"salvaged_from": old}
        store.catalog.change(lambda made: msgspec.structs.replace(made, config=config))
    return found


def _discard(files: Files, new: str) -> None:
    """Remove a salvage that was cut short, as far as the disk still lets it be removed."""
    with contextlib.suppress(OSError):
        for name in files.listdir(new):
            if name != manifests.NAME:
                remove_tree(files, f"{new}/{name}")
        # MANIFEST last: it says that this is no log.
        files.sync_directory(new)
        if manifests.NAME in files.listdir(new):
            files.unlink(f"{new}/{manifests.NAME}")
        files.rmdir(new)


def _begin(origin: _Origin, new: str, *, clock: Clock, log_id: bytes) -> Store:
    """Make *new* a log without records that begins where the other one does."""
    files, now_ns, theirs = origin.files, clock.wall_ns(), origin.manifest
    first = theirs.first_sequence if theirs else 1
    made = Manifest(
        FORMAT,
        log_id,
        now_ns,
        first,
        [Segment(first, log_id)],
        config={manifests.SALVAGING: origin.folder},
        holds=theirs.holds if theirs else {},
    )
    begin(files, new, made)
    recovered = recover(
        files, new, strict=True, now_ns=now_ns, new_id=lambda: log_id, config=made.config
    )
    return Store(
        files,
        new,
        recovered,
        segment_bytes_max=SEGMENT_BYTES_MAX,
        reserve_bytes=0,
        clock=clock,
    )


class _Results:
    """The large results of a log that is salvaged."""

    def __init__(self, files: Files, old: str, new: str, found: Salvage) -> None:
        self._files = files
        self._old = old
        self._new = new
        self._found = found
        self._damaged: dict[bytes, str] = {}
        """Why those were left out that no record has named yet."""
        self._lost: set[bytes] = set()

    def copy(self) -> None:
        """Copy all that are whole, durably."""
        files, blobs = self._files, f"{self._new}/{blob_files.NAME}"
        parts = self._listed(lambda: list(blob_files.parts_of(files, self._old)), self._old)
        if not parts:
            return
        files.mkdir(blobs)
        for part in parts:
            files.mkdir(made := f"{blobs}/{part.rpartition('/')[2]}")
            for digest in self._listed(partial(blob_files.digests_in, files, part), part):
                self._copy(digest)
            files.sync_directory(made)
        files.sync_directory(blobs)
        files.sync_directory(self._new)

    def _listed(self, names: Callable[[], list[T]], path: str) -> list[T]:
        """Return what *names* gives; nothing, and note it, if the old disk does not give it."""
        try:
            return names()
        except OSError as error:
            reason = f"{path}: expected a directory of large results, found {error}"
            self._found.lost.append(Lost(0, 0, reason))
            return []

    def _copy(self, digest: bytes) -> None:
        # Looked at alone first, so that what fails afterwards is the new log's disk.
        reason, _ = blob_files.fault_in(self._files, self._old, digest)
        if not reason:
            try:
                blob_files.copy_checked(self._files, self._old, self._new, digest)
                self._found.results += 1
            except BlobUnusable:
                reason = "other bytes at each look"
        if reason and len(self._damaged) < LISTED_MAX:
            self._damaged[digest] = reason
        elif reason:
            self._found.lost_unlisted += 1

    def check(self, first: int, records: list[bytes]) -> None:
        """Note what is missing of that which *records* name."""
        for sequence, record in enumerate(records, first):
            named = named_result(record)
            if named is None or named.digest in self._lost:
                continue
            if self._files.kind(blob_files.path_of(self._new, named.digest)) != "file":
                self._damaged.pop(named.digest, None)
                reason, _ = blob_files.fault_in(self._files, self._old, named.digest)
                self._note(named.digest, sequence, named.run, reason)

    def note_unnamed(self) -> None:
        """Note what is damaged and was named by no record that was found."""
        for digest, reason in self._damaged.items():
            self._note(digest, 0, 0, reason)

    def _note(self, digest: bytes, sequence: int, run: int, reason: str) -> None:
        if len(self._lost) >= LISTED_MAX:
            self._found.lost_unlisted += 1
            return
        self._lost.add(digest)
        path = blob_files.path_of(self._old, digest)
        found = reason or "that its directory cannot be listed"
        reason = f"{path}: expected a result that was stored there, found {found}"
        self._found.lost.append(Lost(sequence, run, reason))


def _copy(origin: _Origin, store: Store, found: Salvage, results: _Results) -> None:
    """Copy the records, and note those at which there are snapshots."""
    files, folder, noted = origin.files, origin.folder, origin.records
    expected = found.first_sequence
    passed_over = ""

    def missing(upto: int, reason: str) -> None:
        gap = Gap(expected, upto, reason)
        found.gaps.append(gap)
        store.write_gap(gap)

    for base, name in _segments_in(files.listdir(folder)):
        path = f"{folder}/{name}"
        data = read_all(files, path)
        foreign = _foreign(path, data, base, origin.manifest)
        if foreign:
            passed_over = foreign
            continue
        for first, records, reason in _intact(path, data):
            if first > expected:
                missing(first - 1, reason or passed_over or "no segment")
                expected, passed_over = first, ""
            # A frame may come twice, e.g. in a segment that was copied by hand.
            fresh = records[expected - first :]
            if fresh:
                noted |= {s: r for s, r in enumerate(fresh, expected) if s in noted}
                size_bytes = sum(map(len, fresh))
                store.write([Group(expected, fresh, [len(fresh)], size_bytes)])
                results.check(expected, fresh)
                found.records += len(fresh)
                expected += len(fresh)
    head = heads.load(files, folder)
    if head is not None and head.next_sequence > expected:
        reason = passed_over or "the log ends before what HEAD says to be durable"
        missing(head.next_sequence - 1, reason)


def _foreign(path: str, data: bytes, base: int, theirs: Manifest | None) -> str:
    """Return what is wrong with a segment that another log wrote; empty: nothing is known."""
    if theirs is None:
        return ""
    listed = next((entry.log_id for entry in theirs.segments if entry.base == base), None)
    try:
        log_id = decode_segment_header(data).log_id
    except (Damage, Newer):
        return ""
    if log_id == (listed or theirs.log_id):
        return ""
    expected = (listed or theirs.log_id).hex()
    return f"{path} byte 0: expected a segment of log {expected}, found one of {log_id.hex()}"


def _copy_snapshot(origin: _Origin, sequence: int, new: str, found: Salvage) -> None:
    """Copy the snapshot at *sequence*, if it can be used with the record that was found there."""
    try:
        for _ in origin.snapshots.read(sequence, origin.records[sequence]):
            pass  # it is checked on the way
        oldest = origin.snapshots.end(sequence).oldest_sequence
    except SnapshotUnusable as error:
        found.left_out.append(str(error))
        return
    found.doubts += [
        f"the state at {sequence} may refer to the records {gap.first} to {gap.last}, which are "
        "missing: a run that needs one of them will fail"
        for gap in found.gaps
        if oldest <= gap.last and gap.first <= sequence
    ]
    name = name_of(sequence)
    replace(origin.files, new, name, read_all(origin.files, f"{origin.folder}/{name}"))
    found.snapshots.append(sequence)


def _segments_in(names: Iterable[str]) -> list[tuple[int, str]]:
    """Return base and name of the segments among *names*, in order."""
    found = {base: name for name in names if (base := segments.packed_base_of(name)) is not None}
    # Of one that was being compressed there are two; this one was there first.
    found |= {base: name for name in names if (base := segments.base_of(name)) is not None}
    return sorted(found.items())


def _intact(path: str, data: bytes) -> Iterator[tuple[int, list[bytes], str]]:
    """Yield the intact frames of a segment: first sequence, records, and what came before."""
    view = memoryview(data)
    offset, reason = SEGMENT_HEADER_BYTES, ""
    while 0 <= offset < len(data):
        try:
            frame = decode_frame(view[offset:], offset)
            records = records_of(frame) if frame.kind == DATA else []
        except (Damage, Newer) as error:
            reason = reason or f"{path} byte {offset}: {error}"
            offset = data.find(_MAGIC, offset + 1)
            continue
        if records:
            yield frame.base, records, reason
            reason = ""
        offset = frame.end
