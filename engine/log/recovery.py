"""Recovery: from a directory as a crash left it to a log that can be appended to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import head as heads
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.active import ActiveSegment
from headrace.engine.log.compression import remove_replaced
from headrace.engine.log.evidence import Scan, Tear, judge, scan_active
from headrace.engine.log.files import READ_BYTES_MAX, Files, opened, write_all
from headrace.engine.log.folder import check_unborn
from headrace.engine.log.frame import CLOSE, FORMAT, SEGMENT_HEADER_BYTES
from headrace.engine.log.head import Head
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.neighbours import check_follows, check_sealed, next_segment
from headrace.engine.log.retention import remove_orphans


class Recovery(Struct, frozen=True):
    """What opening a log found, for people and for health checks."""

    created: bool
    """Whether there was no log before."""
    clean: bool
    """Whether its last writer closed it."""
    last_sequence: int
    segments: int
    torn_bytes: int = 0
    """How much of an unfinished last write was cut; none of it had been acknowledged."""
    torn_path: str | None = None
    """Where the cut bytes were saved."""
    torn_reason: str | None = None
    """What was wrong with them."""
    notes: tuple[str, ...] = ()
    """Other things that are not as they were left."""


class Opened(Struct):
    """A recovered log: all that a writer needs to go on."""

    manifest: Manifest
    active: ActiveSegment
    generation: int
    """Of the newest HEAD."""
    recovery: Recovery


def recover(
    files: Files,
    folder: str,
    *,
    strict: bool,
    now_ns: int,
    new_id: Callable[[], bytes],
    config: dict[str, Any],
) -> Opened:
    """Bring the log in *folder* into order, or begin a new one.  The caller holds the lock.

    Afterwards everything that was kept is durable, and MANIFEST says *config*.

    Raises:
        LogCorrupt: acknowledged records are damaged; nothing was cut.  With *strict* also
            if the end is torn.
        LogVersion: a newer headrace wrote the log.
    """
    names = files.listdir(folder)
    for name in names:
        if name.endswith(".tmp"):
            files.unlink(f"{folder}/{name}")
    bases = sorted(base for name in names if (base := segments.base_of(name)) is not None)
    manifest = _durable_list(files, folder, salvaging=manifests.SALVAGING in config)
    created = manifest is None
    if manifest is None:
        check_unborn(files, folder, names)
        manifest = Manifest(FORMAT, log_id := new_id(), now_ns, 1, [Segment(1, log_id)])
        begin(files, folder, manifest)
        bases = [1]
    head, notes = _head_of(files, folder, manifest, expected=not created)
    sealed = _check_listed(files, folder, manifest, bases)
    scan = _last_segment(files, folder, manifest, sealed=sealed, bases=bases, head=head)
    active = scan.active
    with contextlib.ExitStack() as undo:
        undo.callback(active.close)
        torn = _mend(files, folder, scan, head, strict=strict)
        clean = active.last_kind == CLOSE and not torn.bytes
        if active.sealed:
            sealed.append(active.entry())
            active = next_segment(files, folder, manifest.log_id, active, now_ns=now_ns)
            undo.close()
            undo.callback(active.close)
        listed = msgspec.structs.replace(
            manifest, segments=[*sealed, active.entry()], config=config
        )
        if listed != manifest:
            manifests.store(files, folder, listed)
        undo.pop_all()
    recovery = Recovery(
        created=created,
        clean=clean or created,
        last_sequence=active.sequence - 1,
        segments=len(listed.segments),
        torn_bytes=torn.bytes,
        torn_path=torn.path,
        torn_reason=torn.reason,
        notes=notes,
    )
    return Opened(listed, active, head.generation if head else 0, recovery)


def _durable_list(files: Files, folder: str, *, salvaging: bool) -> Manifest | None:
    """Return MANIFEST, if there is one, once power loss cannot bring back the one before it.

    It may be the work of a process that was killed before it was durable, and what is done
    from now on must not outlive it.
    """
    manifest = manifests.load(files, folder, salvaging=salvaging)
    files.sync_directory(folder)
    return manifest


class _Torn(Struct, frozen=True):
    """What was cut off the end of a log."""

    bytes: int = 0
    path: str | None = None
    reason: str | None = None


def _mend(files: Files, folder: str, scan: Scan, head: Head | None, *, strict: bool) -> _Torn:
    """Cut a torn end off the last segment, and make durable what is left.

    Raises:
        LogCorrupt: acknowledged records are damaged, or with *strict* the end is torn.
    """
    torn = _Torn()
    tear = judge(scan, head)
    if tear is not None:
        if strict:
            raise _not_clean(scan.active, tear)
        path, size_bytes = save_torn(files, folder, scan.active, tear)
        torn = _Torn(size_bytes, path, tear.reason)
    # What was written but perhaps not synced counts from now on: others will act on it.
    files.fdatasync(scan.active.fd)
    return torn


def _not_clean(active: ActiveSegment, tear: Tear) -> LogCorrupt:
    return LogCorrupt(
        active.path,
        tear.offset,
        expected="a log that was closed, since strict was asked for",
        found=f"a torn write ({tear.reason})",
        first_sequence=active.sequence,
    )


def begin(files: Files, folder: str, manifest: Manifest) -> None:
    """Make *folder* the log without records that *manifest*, of one segment, tells of.

    Raises:
        OSError: that failed.
    """
    # MANIFEST comes second, so that one without a segment always means a loss.
    segments.create(
        files,
        folder,
        log_id=manifest.log_id,
        base=manifest.first_sequence,
        created_ns=manifest.created_ns,
        previous=0,
    )
    manifests.store(files, folder, manifest)


def _head_of(
    files: Files, folder: str, manifest: Manifest, *, expected: bool
) -> tuple[Head | None, tuple[str, ...]]:
    """Return HEAD, if it is there and this log's, and what is to be said about it."""
    head = heads.load(files, folder)
    if head is None:
        return None, ("HEAD was missing or damaged",) if expected else ()
    if head.log_id != manifest.log_id:
        return None, (f"HEAD was that of another log ({head.log_id.hex()})",)
    return head, ()


def _check_listed(
    files: Files, folder: str, manifest: Manifest, bases: Iterable[int]
) -> list[Segment]:
    """Check the finished segments and return them.

    Raises:
        LogCorrupt: one is missing, damaged, or not of the list.
    """
    path = f"{folder}/{manifests.NAME}"
    *sealed, last = manifest.segments
    if last.sealed or not all(entry.sealed for entry in sealed):
        raise LogCorrupt(path, 0, expected="one open segment, the last", found="others")
    if manifest.segments[0].base != manifest.first_sequence:
        found = f"{manifest.segments[0].base}"
        raise LogCorrupt(path, 0, expected=f"record {manifest.first_sequence} first", found=found)
    previous: Segment | None = None
    for entry in sealed:
        check_sealed(files, folder, entry, previous)
        previous = entry
    listed = {entry.base for entry in manifest.segments}
    for base in bases:
        if manifest.first_sequence <= base < last.base and base not in listed:
            extra = f"{folder}/{segments.name_of(base)}"
            raise LogCorrupt(extra, 0, expected="a segment of MANIFEST's list", found="another")
    # Retention lists what is kept, then deletes; it did not come to the second.
    remove_orphans(files, folder, manifest.first_sequence)
    remove_replaced(files, folder, manifest, files.listdir(folder))
    return sealed


def _last_segment(
    files: Files,
    folder: str,
    manifest: Manifest,
    *,
    sealed: list[Segment],
    bases: list[int],
    head: Head | None,
) -> Scan:
    """Walk over the last segment; those that MANIFEST did not come to list are added to *sealed*.

    Raises:
        LogCorrupt: a segment does not follow the one before it.
    """
    entry = manifest.segments[-1]
    while True:
        scan = scan_active(files, folder, entry, head)
        after = [base for base in bases if base > entry.base]
        with contextlib.ExitStack() as undo:
            undo.callback(scan.active.close)
            with opened(files, scan.active.path, os.O_RDONLY) as fd:
                header = segments.read_header(files, fd, scan.active.path)
            if sealed:
                check_follows(scan.active.path, header, sealed[-1])
            elif header.previous and manifest.first_sequence == 1 and manifest.parent is None:
                first = Segment(0, entry.log_id, next_sequence=entry.base)
                check_follows(scan.active.path, header, first)
            following = f"{folder}/{segments.name_of(after[0])}" if after else ""
            if not after or _is_empty(files, following):
                # An empty one was made by a rotation that went no further: it is made again.
                undo.pop_all()
                return scan
            if not scan.active.sealed or scan.tear or after[0] != scan.active.sequence:
                raise LogCorrupt(
                    scan.active.path,
                    scan.active.offset,
                    expected=f"the end of a segment, since {following} follows it",
                    found=scan.tear.reason if scan.tear else "none",
                    first_sequence=scan.active.sequence,
                    last_sequence=after[0] - 1,
                )
            sealed.append(scan.active.entry())
        entry = Segment(after[0], manifest.log_id)


def _is_empty(files: Files, path: str) -> bool:
    with opened(files, path, os.O_RDONLY) as fd:
        return files.size(fd) <= SEGMENT_HEADER_BYTES


def save_torn(files: Files, folder: str, active: ActiveSegment, tear: Tear) -> tuple[str, int]:
    """Copy what is after *tear* to a file of its own, durably, and cut it off.

    Returns the path of the copy and how many bytes it has.
    """
    name = f"{segments.name_of(active.base)}.torn-{tear.offset}"
    taken = set(files.listdir(folder))
    target, copies = name, 1
    while target in taken:
        copies += 1
        target = f"{name}-{copies}"
    offset = tear.offset
    with opened(files, f"{folder}/{target}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        while data := files.pread(active.fd, READ_BYTES_MAX, offset):
            write_all(files, fd, data, offset - tear.offset)
            offset += len(data)
        files.fsync(fd)
    files.rename(f"{folder}/{target}.tmp", f"{folder}/{target}")
    files.sync_directory(folder)
    files.truncate(active.fd, tear.offset)
    files.fsync(active.fd)
    return f"{folder}/{target}", offset - tear.offset
