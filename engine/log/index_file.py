"""`.idx` files: for each finished segment a fine index, where a SEAL frame has a coarse one.

A cache and nothing more: it is written without a sync and believed only if its checksum is
right and it names the digest of the segment.  Where it is missing, damaged or of another
segment, the SEAL frame's index gives the same answers, and takes longer.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Final

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import segment as segments
from headrace.engine.log.files import Files, opened, read_all, write_all
from headrace.engine.log.frame import (
    DATA,
    SEAL,
    SEGMENT_HEADER_BYTES,
    Damage,
    Newer,
    body_of,
)
from headrace.engine.log.index import Entry, Places, SparseIndex, first_time_ns
from headrace.engine.log.manifest import Segment

SUFFIX: Final = ".idx"
_MAGIC: Final = b"HRIDX1\r\n"
_HEAD = struct.Struct("<8sQQ16s")  # magic, base, how many entries, digest of the segment
_NUMBER_BYTES: Final = 8
_COLUMNS: Final = 3
_CRC_BYTES: Final = 4


def name_of(base: int) -> str:
    """Return the file name of the index of the segment whose first record is *base*."""
    return f"{base:020d}{SUFFIX}"


def encode(base: int, digest: bytes, entries: Sequence[Entry]) -> bytes:
    """Return the bytes of the index of the segment *base* that has this *digest*."""
    numbers = array("Q", [number for column in zip(*entries, strict=True) for number in column])
    data = _HEAD.pack(_MAGIC, base, len(entries), digest) + _little_endian(numbers).tobytes()
    return data + zlib.crc32(data).to_bytes(_CRC_BYTES, "little")


def decode(data: bytes, base: int, digest: bytes) -> Places | None:
    """Return the index in *data*, or ``None`` if it is not that of this segment, whole."""
    if len(data) < _HEAD.size + _CRC_BYTES:
        return None
    magic, of_base, count, of_digest = _HEAD.unpack_from(data)
    size = count * _NUMBER_BYTES
    if (magic, of_base, of_digest) != (_MAGIC, base, digest):
        return None
    if len(data) != _HEAD.size + _COLUMNS * size + _CRC_BYTES:
        return None
    view = memoryview(data)
    if zlib.crc32(view[:-_CRC_BYTES]) != int.from_bytes(view[-_CRC_BYTES:], "little"):
        return None
    columns = view[_HEAD.size : -_CRC_BYTES].cast("Q")
    if sys.byteorder == "big":
        columns = memoryview(_little_endian(array("Q", columns)))
    # As they are: nothing is unpacked to look a place up.
    return Places(*(columns[n * count : (n + 1) * count] for n in range(_COLUMNS)))


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def load(files: Files, folder: str, base: int, digest: bytes) -> Places | None:
    """Return the index of the segment *base* that has this *digest*, or ``None``."""
    try:
        return decode(read_all(files, f"{folder}/{name_of(base)}"), base, digest)
    except OSError:
        return None  # not even an unreadable one is a reason not to read the log


def store(files: Files, folder: str, base: int, digest: bytes, index: SparseIndex) -> int:
    """Write what is known of the segment *base*, in place of the index file that is there.

    Returns how many entries it has.

    Raises:
        OSError: that failed; there is the old one, or none.
    """
    path, entries = f"{folder}/{name_of(base)}", index.filed()
    try:
        with opened(files, f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            write_all(files, fd, encode(base, digest, entries), 0)
        files.rename(f"{path}.tmp", path)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(f"{path}.tmp")
        raise
    return len(entries)


def rebuild(
    files: Files, folder: str, entry: Segment, *, pause: Callable[[], bool] = lambda: True
) -> int:
    """Read the finished segment *entry*, write its index, and return how many entries it has.

    *pause* is called after each megabyte; it may sleep, and ``False`` gives up: then it is 0.

    Raises:
        LogCorrupt: the segment is damaged; no index is written.
        LogVersion: a newer headrace wrote it.
        OSError: it cannot be read, or the index not be written.
    """
    path = f"{folder}/{entry.file_name}"
    index, at_ns, kind, pause_at = SparseIndex(), 0, 0, segments.SCAN_BYTES
    with opened(files, path, os.O_RDONLY) as fd:
        chain = segments.read_header(files, fd, path).crc
        walk = segments.Walk(
            files, fd, offset=SEGMENT_HEADER_BYTES, sequence=entry.base, chain=chain
        )
        try:
            for frame in walk.frames():
                kind = frame.kind
                if kind == DATA:
                    at_ns = first_time_ns(body_of(frame)) or at_ns
                    index.add(frame.base, frame.offset, at_ns)
                if frame.offset >= pause_at:
                    pause_at = frame.offset + segments.SCAN_BYTES
                    if not pause():
                        return 0
        except Damage as damage:
            raise segments.corrupt(path, walk.offset, damage, walk.sequence) from damage
        except Newer as newer:
            raise segments.too_new(path, walk.offset, newer) from newer
    if kind != SEAL or walk.sequence != entry.next_sequence:
        raise LogCorrupt(
            path,
            walk.offset,
            expected=f"the end of a segment after record {entry.next_sequence - 1}",
            found=f"the end of the file after record {walk.sequence - 1}",
            first_sequence=walk.sequence,
        )
    return store(files, folder, entry.base, entry.file.digest, index)
