"""The end of a log: whether damage there is a torn write or the loss of what was promised.

A crash leaves at most the unfinished end of the last writes, which nobody was told about.
Anything else is damage to records that somebody relies on.  The two look alike, so the
decision is made by evidence: HEAD, and the `durable` of every frame that is still whole,
say up to where records had been acknowledged.  Damage before that is `LogCorrupt` and
nothing is touched; damage after it is saved aside, cut and reported.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from msgspec import Struct

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import segment as segments
from headrace.engine.log.active import ActiveSegment
from headrace.engine.log.files import READ_BYTES_MAX, Files
from headrace.engine.log.frame import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    Damage,
    Frame,
    Newer,
    frame_size,
)
from headrace.engine.log.head import Head
from headrace.engine.log.manifest import Segment
from headrace.engine.log.neighbours import open_active

_MAGIC_BYTES: Final = FRAME_MAGIC.to_bytes(4, "little")


class Tear(Struct, frozen=True):
    """An unfinished end of the last segment."""

    offset: int
    """Where the last finished unit ends."""
    reason: str
    proven: int
    """First sequence not proven to be durable by what stands after the tear."""


class Scan(Struct):
    """What the walk over the last segment found."""

    active: ActiveSegment
    proven: int
    """First sequence not proven to be durable by the frames."""
    head_matches: bool
    """Whether the place that HEAD names is a border between two frames, with its chain."""
    tear: Tear | None


def scan_active(
    files: Files, folder: str, entry: Segment, head: Head | None, flags: int = os.O_RDWR
) -> Scan:
    """Walk over the segment that *entry* names, to its end or its first damage.

    Raises:
        LogCorrupt: its header is damaged, or it is another segment.
        LogVersion: a newer headrace wrote it.
    """
    active = open_active(files, folder, entry, flags)
    with contextlib.ExitStack() as undo:
        undo.callback(active.close)
        scan = _scan(files, active, head)
        undo.pop_all()
    return scan


def _scan(files: Files, active: ActiveSegment, head: Head | None) -> Scan:
    chain_at = {active.offset: active.chain}
    proven = active.sequence
    tear: Tear | None = None
    walk = segments.Walk(
        files, active.fd, offset=active.offset, sequence=active.sequence, chain=active.chain
    )
    unfinished: list[tuple[Frame, int]] = []
    try:
        for frame in walk.frames():
            unfinished.append((frame, walk.sequence))
            if frame.more:
                continue
            for part, sequence in unfinished:
                active.absorb(part, sequence)
            unfinished.clear()
            proven = max(proven, frame.durable)
            if head is not None and walk.offset == head.offset:
                chain_at[walk.offset] = frame.crc
        size = files.size(active.fd)
        if walk.offset < size or unfinished:
            what = "bytes after the last frame" if active.sealed else "an unfinished unit"
            tear = _tear(files, active, what)
    except Damage as damage:
        tear = _tear(files, active, f"{damage.found} instead of {damage.expected}")
    except Newer as newer:
        raise segments.too_new(active.path, walk.offset, newer) from newer
    matches = head is None or chain_at.get(head.offset) == head.chain
    return Scan(active, proven, matches, tear)


def _tear(files: Files, active: ActiveSegment, reason: str) -> Tear:
    return Tear(active.offset, reason, _proven_after(files, active))


def _proven_after(files: Files, active: ActiveSegment) -> int:
    """Return the first sequence not proven durable by whole frame headers after the damage."""
    proven = 0
    offset = active.offset
    while len(data := files.pread(active.fd, READ_BYTES_MAX, offset)) >= FRAME_HEADER_BYTES:
        at = data.find(_MAGIC_BYTES)
        while 0 <= at <= len(data) - FRAME_HEADER_BYTES:
            durable = _durable_at(data[at : at + FRAME_HEADER_BYTES], active.sequence)
            proven = max(proven, durable)
            at = data.find(_MAGIC_BYTES, at + 1)
        offset += len(data) - FRAME_HEADER_BYTES + 1
    return proven


def _durable_at(header: bytes, sequence: int) -> int:
    """Return what a frame header says to be durable; 0 if it is none of after *sequence*."""
    try:
        frame_size(header)
    except Damage:
        return 0
    base = int.from_bytes(header[12:20], "little")
    durable = int.from_bytes(header[20:28], "little")
    return durable if sequence <= base and durable <= base else 0


def judge(scan: Scan, head: Head | None) -> Tear | None:
    """Decide whether the end of the last segment is as it was left, torn, or damaged.

    Returns what is to be cut, if anything.

    Raises:
        LogCorrupt: records that were acknowledged are missing or damaged.
    """
    active, tear = scan.active, scan.tear
    proven = max(scan.proven, tear.proven if tear else 0)
    if head is not None:
        proven = max(proven, head.next_sequence)
    beyond = head is not None and (head.base, head.offset) > (active.base, active.offset)
    if active.sequence < proven or beyond:
        raise LogCorrupt(
            active.path,
            active.offset,
            expected="intact records, since they were acknowledged",
            found=tear.reason if tear else "the end of the file",
            first_sequence=active.sequence if active.sequence < proven else 0,
            last_sequence=proven - 1 if active.sequence < proven else 0,
        )
    if head is not None and head.base == active.base and not scan.head_matches:
        raise LogCorrupt(
            active.path,
            head.offset,
            expected=f"a frame that ends here, with checksum {head.chain:#010x}, as HEAD says",
            found="another one",
        )
    return tear
