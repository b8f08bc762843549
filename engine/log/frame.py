"""Segment headers and frames: the bytes of a segment file.

A segment is a header of 64 bytes and frames after it.  A frame is a header of 40 bytes and
a body: one group commit.  Each frame names the checksum of the one before it (the *chain*),
so that a frame that is missing, swapped, repeated or left over from another time is noticed
even though its own checksums are right.

Nothing here touches a disk.  Whether damage is the torn end of the last write or the loss
of acknowledged records is for `headrace.engine.log.recovery` to say: it has the evidence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.log.files import Data
from headrace.engine.log.same_time import shorten, whole

FORMAT: Final = 1
"""Version of the files of a log; a higher one was written by a newer headrace."""

SEGMENT_MAGIC: Final = b"\x89HRL\r\n\x1a\n"  # as PNG's: shows what a text-mode copy did to it
CHECKSUM_CRC32: Final = 1
SEGMENT_HEADER_BYTES: Final = 64

FRAME_MAGIC: Final = int.from_bytes(b"HRF1", "little")
FRAME_HEADER_BYTES: Final = 40
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
COUNT_MAX: Final = 65_535
RECORD_BYTES_MAX: Final = 1024 * 1024

# A record never spans two frames, so that the largest one must fit in an empty frame.
assert RECORD_BYTES_MAX + 3 < BODY_BYTES_MAX

DATA: Final = 1
SEAL: Final = 2
CLOSE: Final = 3
FORK: Final = 4
NOTE: Final = 5
MORE: Final = 0x80
"""Bit of a frame's kind: its last unit goes on in the next frame."""

PLAIN: Final = 0
ZLIB: Final = 1
"""Bit of a frame's codec: the body is compressed."""
SAME_TIME: Final = 2
"""Bit of a frame's codec: a record with nil for its time has that of the one before it."""

_SEGMENT = struct.Struct("<8sHHI16sQQI8xI")
_FRAME = struct.Struct("<IIHBBQQIII")
_FRAME_CHECKED = struct.Struct("<IIHBBQQII")  # what the header's own checksum covers
_LENGTH = struct.Struct("<I")
_split = msgspec.msgpack.Decoder(list[Raw]).decode

assert _SEGMENT.size == SEGMENT_HEADER_BYTES
assert _FRAME.size == FRAME_HEADER_BYTES


class Damage(Exception):
    """Bytes are not what a log writes.  Never leaves this package: it becomes a `LogError`."""

    def __init__(self, expected: str, found: str) -> None:
        """Say what should stand there and what does."""
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


class Newer(Exception):
    """Bytes are in good order and of a format that this headrace does not know."""


class SegmentHeader(Struct, frozen=True):
    """The first 64 bytes of a segment."""

    log_id: bytes
    """Of the log that wrote the segment."""
    base: int
    """Sequence of the segment's first record."""
    created_ns: int
    """Wall-clock time of its creation, for people."""
    previous: int
    """Chain at the end of the segment before it; 0 in a log's first."""
    crc: int
    """Checksum of the header: where the chain of this segment begins."""


class Frame(Struct, frozen=True):
    """The header of one frame, checked, and its body, checked too."""

    offset: int
    """Where it begins, in bytes from the start of the file."""
    end: int
    """Where the next one begins."""
    count: int
    """How many records it holds."""
    codec: int
    kind: int
    """`DATA`, `SEAL` …, without the `MORE` bit."""
    more: bool
    """Whether its last unit goes on in the next frame."""
    base: int
    """Sequence of its first record; without records the next sequence of the log."""
    durable: int
    """The first sequence that was not yet known to be durable when it was written."""
    previous: int
    """Checksum of the frame before it."""
    crc: int
    """Checksum of this header, and through it of the body: the chain."""
    raw: memoryview
    """The whole frame as it is in the file."""

    @property
    def body(self) -> memoryview:
        """The bytes after the header, maybe compressed."""
        return self.raw[FRAME_HEADER_BYTES:]


def encode_segment_header(
    *, log_id: bytes, base: int, created_ns: int, previous: int
) -> tuple[bytes, int]:
    """Return the header's 64 bytes and the chain that begins with them."""
    assert len(log_id) == 16, log_id
    assert base >= 1, base
    unsigned = _SEGMENT.pack(
        SEGMENT_MAGIC,
        FORMAT,
        SEGMENT_HEADER_BYTES,
        CHECKSUM_CRC32,
        log_id,
        base,
        created_ns,
        previous,
        0,
    )[:-4]
    crc = zlib.crc32(unsigned)
    return unsigned + crc.to_bytes(4, "little"), crc


def decode_segment_header(data: Data) -> SegmentHeader:
    """Return the segment header that *data* begins with.

    Raises:
        Damage: it is none.
        Newer: its format is of a later headrace.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        raise Damage(f"a segment header of {SEGMENT_HEADER_BYTES} bytes", f"{len(data)} bytes")
    fields = _SEGMENT.unpack_from(data)
    magic, version, length, flags, log_id, base, created_ns, previous, crc = fields
    if magic != SEGMENT_MAGIC:
        raise Damage("the first bytes of a segment", repr(bytes(magic)))
    computed = zlib.crc32(bytes(data[: SEGMENT_HEADER_BYTES - 4]))
    if computed != crc:
        raise Damage(f"header checksum {crc:#010x}", f"{computed:#010x}")
    # Every later format keeps these 64 bytes and their checksum, so that it can be told from
    # damage.
    if version > FORMAT or length != SEGMENT_HEADER_BYTES or flags != CHECKSUM_CRC32:
        raise Newer(f"segment format {version}, flags {flags:#x}")
    if version < 1 or base < 1:
        raise Damage("a format and a base of at least 1", f"{version} and {base}")
    return SegmentHeader(log_id, base, created_ns, previous, crc)


def encode_frame(
    body: bytes,
    *,
    kind: int,
    count: int,
    base: int,
    durable: int,
    chain: int,
    codec: int = PLAIN,
) -> tuple[bytes, int]:
    """Return a frame's bytes and the chain after it."""
    assert len(body) <= BODY_BYTES_MAX, len(body)
    assert 0 <= count <= COUNT_MAX, count
    assert 1 <= durable <= base, (durable, base)
    checked = _FRAME_CHECKED.pack(
        FRAME_MAGIC, len(body), count, codec, kind, base, durable, chain, zlib.crc32(body)
    )
    crc = zlib.crc32(checked)
    return b"".join((checked, crc.to_bytes(4, "little"), body)), crc


def encode_records(records: Sequence[bytes]) -> bytes:
    """Return a plain body: one msgpack array of the *records*, which are msgpack already."""
    count = len(records)
    assert 0 < count <= COUNT_MAX, count
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(records)


def shortest_body(records: Sequence[bytes]) -> tuple[bytes, int]:
    """Return the body of *records*, and its codec.

    Times that repeat are left out, if any do.
    """
    if len(records) > 1:
        shorter = shorten(records)
        if shorter is not None:
            return encode_records(shorter), SAME_TIME
    return encode_records(records), PLAIN


def compressed_body(body: bytes, level: int) -> bytes:
    """Return *body* as a frame with the codec `ZLIB` holds it."""
    return _LENGTH.pack(len(body)) + zlib.compress(body, level)


def frame_size(data: Data) -> int:
    """Return the length of the frame whose header *data* begins with, from its header alone.

    Raises:
        Damage: it is no header of a frame.
    """
    if len(data) < FRAME_HEADER_BYTES:
        raise Damage(f"a frame header of {FRAME_HEADER_BYTES} bytes", f"{len(data)} bytes")
    magic, body_bytes, *_, crc = _FRAME.unpack_from(data)
    if magic != FRAME_MAGIC:
        raise Damage("a frame's first bytes b'HRF1'", repr(bytes(data[:4])))
    # Before the length is believed: a damaged one must not make anybody allocate.
    computed = zlib.crc32(data[: FRAME_HEADER_BYTES - 4])
    if computed != crc:
        raise Damage(f"frame header checksum {crc:#010x}", f"{computed:#010x}")
    if body_bytes > BODY_BYTES_MAX:
        raise Damage(f"a body of at most {BODY_BYTES_MAX} bytes", f"{body_bytes}")
    return FRAME_HEADER_BYTES + int(body_bytes)


def decode_frame(data: memoryview, offset: int) -> Frame:
    """Return the frame that *data*, read at *offset* of its file, begins with.

    Raises:
        Damage: it is none, or only the beginning of one.
        Newer: it is whole and of a later headrace.
    """
    size = frame_size(data)
    if len(data) < size:
        raise Damage(f"a frame of {size} bytes", f"{len(data)} bytes")
    fields = _FRAME.unpack_from(data)
    _, _, count, codec, kind, base, durable, previous, body_crc, crc = fields
    data = data[:size]
    computed = zlib.crc32(data[FRAME_HEADER_BYTES:])
    if computed != body_crc:
        raise Damage(f"frame body checksum {body_crc:#010x}", f"{computed:#010x}")
    more = kind >= MORE
    kind &= ~MORE
    if not DATA <= kind <= NOTE or codec & ~(ZLIB | SAME_TIME):
        raise Newer(f"a frame of kind {kind}, codec {codec}")
    if not 1 <= durable <= base or (kind == DATA) != (count > 0):
        raise Damage("a frame's fields to agree", f"kind {kind}, base {base}, count {count}")
    end = offset + size
    return Frame(offset, end, count, codec, kind, more, base, durable, previous, crc, data)


def body_of(frame: Frame) -> Data:
    """Return the body of *frame* as it was before compression.

    Raises:
        Damage: it does not decompress to the length that it states.
    """
    packed = frame.body
    if not frame.codec & ZLIB:
        return packed
    if len(packed) < _LENGTH.size:
        raise Damage("the length of a compressed body", f"{len(packed)} bytes")
    (length,) = _LENGTH.unpack_from(packed)
    if length > BODY_BYTES_MAX:
        raise Damage(f"a body of at most {BODY_BYTES_MAX} bytes", f"{length}")
    try:
        # Never more than was promised: 1 KB can be made to claim 1 MB.
        body = zlib.decompressobj().decompress(packed[_LENGTH.size :], length + 1)
    except zlib.error as error:
        raise Damage("a compressed body", str(error)) from error
    if len(body) != length:
        raise Damage(f"a body of {length} bytes", f"{len(body)}")
    return body


def records_of(frame: Frame) -> list[bytes]:
    """Return the encoded records of *frame*.

    Raises:
        Damage: the body is no array of as many records as the header says.
    """
    if not frame.count:
        return []
    try:
        records = list(map(bytes, _split(body_of(frame))))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        # Neither of the last two is a MsgspecError: too deep nesting, broken UTF-8.
        raise Damage("a msgpack array of records", str(error)) from error
    if len(records) != frame.count:
        raise Damage(f"{frame.count} records", f"{len(records)}")
    if not frame.codec & SAME_TIME:
        return records
    try:
        return whole(records)
    except ValueError as error:
        raise Damage("a record with a time", str(error)) from error
