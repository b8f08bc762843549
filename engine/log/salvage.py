"""Salvage: copy what is intact of a damaged log into a new one, and say what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from headrace.engine.clock import Clock, SystemClock
from headrace.engine.errors import LogCorrupt, LogUnusable, LogVersion, SnapshotUnusable
from headrace.engine.log import head as heads
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.file import SEGMENT_BYTES_MAX, draw_id
from headrace.engine.log.files import Files, SystemFiles, read_all, replace
from headrace.engine.log.folder import prepare
from headrace.engine.log.frame import (
    DATA,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Damage,
    Newer,
    decode_frame,
    records_of,
)
from headrace.engine.log.group import Group
from headrace.engine.log.lock import Lock
from headrace.engine.log.reader import LogReader
from headrace.engine.log.recovery import begin, recover
from headrace.engine.log.segment import Gap
from headrace.engine.log.snapshots import FileSnapshots, name_of
from headrace.engine.log.store import Store

_MAGIC = FRAME_MAGIC.to_bytes(4, "little")


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
    log_id: bytes = b""
    """Of the new log."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.gaps

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
    Snapshots that are whole, and whose own record was found, are copied, and so are holds.

    Raises:
        LogUnusable: *source* cannot be read, or *target* is there already.
    """
    disk = files or SystemFiles()
    clock = clock or SystemClock()
    old: str = os.path.abspath(source)  # noqa: PTH100  resolve() asks the disk
    new: str = os.path.abspath(target)  # noqa: PTH100  as above
    try:
        if disk.kind(new) != "missing":
            raise LogUnusable(f"{new}: expected a new path, found something there; choose another")
        if not _segments_in(disk.listdir(old)):
            raise LogUnusable(f"{old}: expected an event log, found no segment; check the path")
        prepare(disk, new)
        lock = Lock(disk, new)
        store, found = _begin(disk, old, new, clock=clock, log_id=(new_id or draw_id)())
        _copy(disk, old, store, found)
        store.finish()
        _copy_snapshots(disk, old, new, found)
        store.close()
        lock.release()
    except OSError as error:
        raise LogUnusable(
            f"{old}: expected to copy it to {new}, found: {error}; check both and try again"
        ) from error
    return found


def _begin(
    files: Files, old: str, new: str, *, clock: Clock, log_id: bytes
) -> tuple[Store, Salvage]:
    """Make *new* a log that begins where *old* does, as far as its list can still be read."""
    try:
        manifest = manifests.load(files, old)
    except (LogCorrupt, LogVersion):
        manifest = None
    first = manifest.first_sequence if manifest else 1
    begin(files, new, log_id=log_id, now_ns=clock.wall_ns(), first_sequence=first)
    recovered = recover(
        files,
        new,
        strict=True,
        now_ns=clock.wall_ns(),
        new_id=lambda: log_id,
        config={"salvaged_from": old},
    )
    store = Store(
        files,
        new,
        recovered,
        segment_bytes_max=SEGMENT_BYTES_MAX,
        reserve_bytes=0,
        clock=clock,
    )
    if manifest is not None and manifest.holds:
        holds = manifest.holds
        store.catalog.change(lambda made: msgspec.structs.replace(made, holds=holds))
    return store, Salvage(log_id=log_id, first_sequence=first)


def _copy(files: Files, folder: str, store: Store, found: Salvage) -> None:
    expected = found.first_sequence

    def missing(upto: int, reason: str) -> None:
        gap = Gap(expected, upto, reason)
        found.gaps.append(gap)
        store.write_gap(gap)

    for name in _segments_in(files.listdir(folder)):
        path = f"{folder}/{name}"
        for first, records, reason in _intact(path, read_all(files, path)):
            if first > expected:
                missing(first - 1, reason or "no segment")
                expected = first
            # A frame may come twice, e.g. in a segment that was copied by hand.
            fresh = records[expected - first :]
            if fresh:
                size_bytes = sum(map(len, fresh))
                store.write([Group(expected, fresh, [len(fresh)], size_bytes)])
                found.records += len(fresh)
                expected += len(fresh)
    head = heads.load(files, folder)
    if head is not None and head.next_sequence > expected:
        missing(head.next_sequence - 1, "the log ends before what HEAD says to be durable")


def _copy_snapshots(files: Files, old: str, new: str, found: Salvage) -> None:
    """Copy the snapshots that can be used with the records that were found."""
    theirs = FileSnapshots(files, old)
    with LogReader(new, files=files, lease=False) as reader:
        for sequence in sorted(theirs.sequences()):
            record = reader.fetch([sequence]).get(sequence)
            try:
                for _ in theirs.read(sequence, record):
                    pass  # it is checked on the way
                oldest = theirs.end(sequence).oldest_sequence
            except SnapshotUnusable as error:
                found.left_out.append(str(error))
                continue
            for gap in found.gaps:
                if oldest <= gap.last and gap.first <= sequence:
                    found.doubts.append(
                        f"the state at {sequence} may refer to the records {gap.first} to "
                        f"{gap.last}, which are missing: a run that needs one of them will fail"
                    )
            name = name_of(sequence)
            replace(files, new, name, read_all(files, f"{old}/{name}"))
            found.snapshots.append(sequence)


def _segments_in(names: Iterable[str]) -> list[str]:
    """Return the names of the segments among *names*, in order."""
    found = {base: name for name in names if (base := segments.packed_base_of(name)) is not None}
    # Of one that was being compressed there are two; this one was there first.
    found |= {base: name for name in names if (base := segments.base_of(name)) is not None}
    return [found[base] for base in sorted(found)]


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
