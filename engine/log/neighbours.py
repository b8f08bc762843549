"""Segments in their row: each must follow the one before it, and a new one comes after the last."""

from __future__ import annotations

import os

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import segment as segments
from headrace.engine.log.active import ActiveSegment
from headrace.engine.log.files import Files, opened
from headrace.engine.log.frame import SEGMENT_HEADER_BYTES, SegmentHeader
from headrace.engine.log.manifest import Segment


def open_active(files: Files, folder: str, entry: Segment, flags: int = os.O_RDWR) -> ActiveSegment:
    """Open the segment that *entry* names, at its beginning.

    Raises:
        LogCorrupt: it is missing, its header is damaged, or it is another segment.
        LogVersion: a newer headrace wrote it.
    """
    path = f"{folder}/{segments.name_of(entry.base)}"
    try:
        with opened(files, path, os.O_RDONLY) as fd:
            header = segments.read_header(files, fd, path)
            raw = files.pread(fd, SEGMENT_HEADER_BYTES, 0)
    except FileNotFoundError as error:
        raise LogCorrupt(
            path,
            0,
            expected="a segment of the log",
            found="no such file",
            first_sequence=entry.base,
        ) from error
    if header.log_id != entry.log_id or header.base != entry.base:
        raise LogCorrupt(
            path,
            0,
            expected=f"record {entry.base} of log {entry.log_id.hex()}",
            found=f"record {header.base} of log {header.log_id.hex()}",
        )
    return ActiveSegment(
        files,
        folder,
        base=entry.base,
        log_id=entry.log_id,
        header=raw,
        created_ns=header.created_ns,
        chain=header.crc,
        flags=flags,
    )


def next_segment(
    files: Files, folder: str, log_id: bytes, active: ActiveSegment, *, now_ns: int
) -> ActiveSegment:
    """Make the segment after the sealed one *active*, and open it.

    Raises:
        OSError: it could not be made; it can be tried again.
    """
    assert active.sealed
    segments.create(
        files,
        folder,
        log_id=log_id,
        base=active.sequence,
        created_ns=now_ns,
        previous=active.chain,
    )
    return open_active(files, folder, Segment(active.sequence, log_id))


def check_sealed(files: Files, folder: str, entry: Segment, previous: Segment | None) -> None:
    """Check a finished segment without reading it: its size, its header, its neighbours.

    Raises:
        LogCorrupt: something does not fit.
    """
    path = f"{folder}/{entry.file_name}"

    def corrupt(offset: int, expected: str, found: str) -> LogCorrupt:
        return LogCorrupt(
            path,
            offset,
            expected=expected,
            found=found,
            first_sequence=entry.base,
            last_sequence=entry.next_sequence - 1,
        )

    try:
        with opened(files, path, os.O_RDONLY) as fd:
            size = files.size(fd)
            header = segments.read_header(files, fd, path)
    except FileNotFoundError as error:
        raise corrupt(0, "a segment of the log", "no such file") from error
    expected = entry.file.size_bytes
    if size != expected:
        raise corrupt(min(size, expected), f"{expected} bytes", f"{size}")
    if (header.log_id, header.base) != (entry.log_id, entry.base):
        raise corrupt(
            0,
            f"record {entry.base} of log {entry.log_id.hex()}",
            f"record {header.base} of log {header.log_id.hex()}",
        )
    if previous is not None:
        check_follows(path, header, previous)


def check_follows(path: str, header: SegmentHeader, previous: Segment) -> None:
    """Check that the segment with *header* is the one after *previous*.

    Raises:
        LogCorrupt: it is not.
    """
    if (header.base, header.previous) != (previous.next_sequence, previous.chain):
        raise LogCorrupt(
            path,
            0,
            expected=f"record {previous.next_sequence} after checksum {previous.chain:#010x}",
            found=f"record {header.base} after {header.previous:#010x}",
            first_sequence=header.base,
        )
