"""Segment files: their names, how one is made, how one is walked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from headrace.engine.errors import LogCorrupt, LogVersion
from headrace.engine.log.files import Files, opened, write_all
from headrace.engine.log.frame import (
    FRAME_HEADER_BYTES,
    NOTE,
    SEAL,
    SEGMENT_HEADER_BYTES,
    Damage,
    Frame,
    Newer,
    SegmentHeader,
    decode_frame,
    decode_segment_header,
    encode_segment_header,
    frame_size,
)
from headrace.engine.log.index import Entry

SUFFIX: Final = ".hrl"
PACKED_SUFFIX: Final = ".hrz"
"""Of a compressed segment, which has taken the place of the one that was written."""

SCAN_BYTES: Final = 1024 * 1024
"""How much is read at once when a segment is walked."""

FETCH_BYTES: Final = 16 * 1024
"""How much is read at once when one record is looked for."""


class Seal(Struct, array_like=True, frozen=True):
    """The body of a segment's last frame.  Fields are only ever appended, with a default."""

    count: int
    """How many records the segment holds."""
    first_at_ns: int
    last_at_ns: int
    index: list[Entry]
    digest: bytes
    """blake2b, 16 bytes, of everything before this frame."""


class PackedSeal(Seal, frozen=True):
    """The body of a compressed segment's last frame; its digest and index are its own."""

    chain: int = 0
    """Checksum of the last frame of the segment that was compressed: the next one names it."""


class Gap(Struct, array_like=True, frozen=True, tag="gap"):
    """The body of a `NOTE` frame: records that a salvage did not find.

    The frame's base is the first of them, and the frame after it begins after the last.
    """

    first: int
    last: int
    reason: str


_decode_seal = msgspec.msgpack.Decoder(PackedSeal).decode
decode_gap = msgspec.msgpack.Decoder(Gap).decode
encode_body = msgspec.msgpack.Encoder().encode


def name_of(base: int) -> str:
    """Return the file name of the segment whose first record is *base*."""
    return f"{base:020d}{SUFFIX}"


def base_of(name: str, suffix: str = SUFFIX) -> int | None:
    """Return the base that the file name *name* states, or ``None`` if it is no segment."""
    stem = name.removesuffix(suffix)
    if len(stem) == 20 and stem.isascii() and stem.isdigit() and name.endswith(suffix):
        return int(stem)
    return None


def packed_name_of(base: int) -> str:
    """Return the file name of the compressed segment whose first record is *base*."""
    return f"{base:020d}{PACKED_SUFFIX}"


def packed_base_of(name: str) -> int | None:
    """Return as `base_of`, for the name of a compressed segment."""
    return base_of(name, PACKED_SUFFIX)


def create(
    files: Files, folder: str, *, log_id: bytes, base: int, created_ns: int, previous: int
) -> int:
    """Make an empty segment in *folder*, durably, and return the chain that it begins."""
    header, chain = encode_segment_header(
        log_id=log_id, base=base, created_ns=created_ns, previous=previous
    )
    path = f"{folder}/{name_of(base)}"
    with opened(files, f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        write_all(files, fd, header, 0)
        files.fsync(fd)
    files.rename(f"{path}.tmp", path)
    files.sync_directory(folder)
    return chain


def read_header(files: Files, fd: int, path: str) -> SegmentHeader:
    """Return the header of the open segment *path*.

    Raises:
        LogCorrupt: it is damaged.
        LogVersion: a newer headrace wrote it.
    """
    try:
        return decode_segment_header(files.pread(fd, SEGMENT_HEADER_BYTES, 0))
    except Damage as damage:
        raise LogCorrupt(path, 0, expected=damage.expected, found=damage.found) from damage
    except Newer as newer:
        raise too_new(path, 0, newer) from newer


def corrupt(path: str, offset: int, damage: Damage, sequence: int) -> LogCorrupt:
    """Return *damage* with its place."""
    return LogCorrupt(
        path, offset, expected=damage.expected, found=damage.found, first_sequence=sequence
    )


def too_new(path: str, offset: int, newer: Newer) -> LogVersion:
    """Return the error for bytes of a later format."""
    return LogVersion(
        f"{path} byte {offset}: expected format 1, found {newer}: it was written by a newer "
        "headrace; update headrace to open this log"
    )


class Walk:
    """Goes from frame to frame of one open segment and checks each against the one before.

    `offset`, `sequence` (the next one expected) and `chain` say where it is: between two
    frames, always.  After `Damage` they say where the damage begins.
    """

    def __init__(
        self,
        files: Files,
        fd: int,
        *,
        offset: int,
        sequence: int,
        chain: int | None,
        chunk_bytes: int = SCAN_BYTES,
    ) -> None:
        """Begin at *offset*; *chain* ``None`` believes what the first frame says of it."""
        self._files = files
        self._fd = fd
        self._chunk_bytes = chunk_bytes
        self._window = memoryview(b"")
        self._window_offset = 0
        self.offset = offset
        self.sequence: int = sequence
        self.chain: int | None = chain

    def _bytes_at(self, offset: int, size: int) -> memoryview:
        """Return what there is from *offset* on: *size* bytes or more, unless the file ends."""
        start = offset - self._window_offset
        if start >= 0 and start + size <= len(self._window):
            return self._window[start:]
        wanted = max(size, self._chunk_bytes)
        data = self._files.pread(self._fd, wanted, offset)
        while len(data) < size:
            # A read may be short without being at the end, e.g. over a network.
            part = self._files.pread(self._fd, wanted - len(data), offset + len(data))
            if not part:
                break
            data += part
        self._window, self._window_offset = memoryview(data), offset
        return self._window

    def next_frame(self, limit_offset: int | None = None) -> Frame | None:
        """Return the next frame, or ``None`` at the end of the file or at *limit_offset*.

        Raises:
            Damage: the bytes are no frame, or not the one that belongs here.
            Newer: the frame is of a later headrace.
        """
        if limit_offset is not None and self.offset >= limit_offset:
            return None
        data = self._bytes_at(self.offset, FRAME_HEADER_BYTES)
        if not data:
            return None
        size = frame_size(data)
        if len(data) < size:
            data = self._bytes_at(self.offset, size)
        frame = decode_frame(data, self.offset)
        if self.chain is not None and frame.previous != self.chain:
            expected = f"the frame that follows checksum {self.chain:#010x}"
            raise Damage(expected, f"the one that follows {frame.previous:#010x}")
        if frame.base != self.sequence:
            raise Damage(f"a frame of record {self.sequence}", f"one of record {frame.base}")
        self.offset = frame.end
        self.sequence = frame.base + frame.count
        self.chain = frame.crc
        if frame.kind == NOTE:
            self.sequence = _after_note(frame)
        return frame

    def frames(self, limit_offset: int | None = None) -> Iterator[Frame]:
        """Yield the frames up to the end of the file, to *limit_offset*, or to a SEAL.

        Raises:
            Damage, Newer: as `next_frame`.
        """
        while (frame := self.next_frame(limit_offset)) is not None:
            yield frame
            if frame.kind == SEAL:
                return

    def refresh(self) -> None:
        """Forget what was read ahead: another process may have written more."""
        self._window = memoryview(b"")


def _after_note(frame: Frame) -> int:
    try:
        gap = decode_gap(frame.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frame.base  # a note of another kind, for people
    if gap.first != frame.base or gap.last < gap.first:
        raise Damage("a gap that begins here", f"one of records {gap.first} to {gap.last}")
    return gap.last + 1


def read_seal(files: Files, fd: int, path: str, seal_offset: int) -> PackedSeal:
    """Return the body of the SEAL frame at *seal_offset*; if it is not compressed, chain 0.

    Raises:
        LogCorrupt: it is damaged.
    """
    try:
        size = frame_size(files.pread(fd, FRAME_HEADER_BYTES, seal_offset))
        data = files.pread(fd, size, seal_offset)
        frame = decode_frame(memoryview(data), seal_offset)
        seal = _decode_seal(frame.body) if frame.kind == SEAL else None
    except Damage as damage:
        raise LogCorrupt(
            path, seal_offset, expected=damage.expected, found=damage.found
        ) from damage
    except Newer as newer:
        raise too_new(path, seal_offset, newer) from newer
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupt(
            path, seal_offset, expected="the index of a segment", found=str(error)
        ) from error
    if seal is None:
        found = f"one of kind {frame.kind}"
        raise LogCorrupt(path, seal_offset, expected="a segment's last frame", found=found)
    return seal
