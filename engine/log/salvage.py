"""Salvage: copy what is intact of a damaged log into a new one, and say what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from headrace.engine.clock import Clock, SystemClock
from headrace.engine.errors import LogCorrupt, LogUnusable, LogVersion
from headrace.engine.log import head as heads
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.file import SEGMENT_BYTES_MAX, draw_id
from headrace.engine.log.files import Files, SystemFiles, read_all
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
from headrace.engine.log.recovery import recover
from headrace.engine.log.segment import Gap
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
    log_id: bytes = b""
    """Of the new log."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.gaps


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
    the log removed on purpose (retention) is noted in the new log, and not missing.

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
        recovered = recover(
            disk,
            new,
            strict=True,
            now_ns=clock.wall_ns(),
            new_id=new_id or draw_id,
            config={"salvaged_from": old},
        )
        store = Store(
            disk,
            new,
            recovered,
            segment_bytes_max=SEGMENT_BYTES_MAX,
            reserve_bytes=0,
            clock=clock,
        )
        found = Salvage(log_id=recovered.manifest.log_id)
        _copy(disk, old, store, found)
        store.finish()
        store.close()
        lock.release()
    except OSError as error:
        raise LogUnusable(
            f"{old}: expected to copy it to {new}, found: {error}; check both and try again"
        ) from error
    return found


def _copy(files: Files, folder: str, store: Store, found: Salvage) -> None:
    found.first_sequence = expected = _first_kept(files, folder)
    if expected > 1:
        store.write_gap(Gap(1, expected - 1, "removed by retention"))

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


def _first_kept(files: Files, folder: str) -> int:
    """Return where the log begins, as far as its list of segments can still be read."""
    try:
        manifest = manifests.load(files, folder)
    except (LogCorrupt, LogVersion):
        return 1
    return 1 if manifest is None else manifest.first_sequence


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
