"""Frames and headers as bytes: what is written is read, and everything else is refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulation.session import record, records

from headrace.engine.log import frame, index

ID = b"0123456789abcdef"


def encoded(part: list[bytes], *, base: int = 1, chain: int = 7, kind: int = frame.DATA) -> bytes:
    body = frame.encode_records(part)
    data, _ = frame.encode_frame(
        body, kind=kind, count=len(part), base=base, durable=1, chain=chain
    )
    return data


@pytest.mark.slow
@given(st.integers(1, 200), st.integers(1, 2**62), st.integers(0, 2**32 - 1))
def test_frame_round_trip(count: int, base: int, chain: int) -> None:
    """A frame gives back its records, its place and its chain."""
    data = encoded(records(1, count), base=base, chain=chain)
    found = frame.decode_frame(memoryview(data + b"next"), 64)
    assert (found.offset, found.end, found.base, found.previous) == (
        64,
        64 + len(data),
        base,
        chain,
    )
    assert frame.records_of(found) == records(1, count)
    assert not found.more


def test_layout_of_a_frame() -> None:
    """The bytes are those of the specification, field by field."""
    data = encoded([b"\x01", b"\x02"], base=0x1122334455667788, chain=0xAABBCCDD)
    assert data[:4] == b"HRF1"
    assert data[4:12] == bytes.fromhex("03000000 0200 00 01")
    assert data[12:20] == bytes.fromhex("8877665544332211")
    assert data[20:28] == bytes.fromhex("0100000000000000")
    assert data[28:32] == bytes.fromhex("ddccbbaa")
    assert data[32:36] == zlib.crc32(b"\x92\x01\x02").to_bytes(4, "little")
    assert data[36:40] == zlib.crc32(data[:36]).to_bytes(4, "little")
    assert data[40:] == b"\x92\x01\x02"


def test_layout_of_a_segment_header() -> None:
    """The bytes are those of the specification, field by field."""
    data, chain = frame.encode_segment_header(log_id=ID, base=5, created_ns=9, previous=3)
    assert len(data) == frame.SEGMENT_HEADER_BYTES
    assert data[:8] == bytes.fromhex("89 48 52 4C 0D 0A 1A 0A")
    assert data[8:16] == bytes.fromhex("0100 4000 01000000")
    assert data[16:32] == ID
    assert (data[32:40], data[40:48]) == (b"\5" + bytes(7), b"\x09" + bytes(7))
    assert data[48:52] == b"\3" + bytes(3)
    assert data[60:] == chain.to_bytes(4, "little") == zlib.crc32(data[:60]).to_bytes(4, "little")
    assert frame.decode_segment_header(data) == frame.SegmentHeader(ID, 5, 9, 3, chain)


def test_text_mode_copy_is_damage() -> None:
    """A copy that turned line ends into others is refused at the first bytes."""
    data, _ = frame.encode_segment_header(log_id=ID, base=5, created_ns=9, previous=3)
    with pytest.raises(frame.Damage, match="first bytes of a segment"):
        frame.decode_segment_header(data.replace(b"\r\n", b"\n") + b"\0")


def test_later_segment_format_is_newer() -> None:
    """A header of a later format, with its checksum, is told from damage."""
    data, _ = frame.encode_segment_header(log_id=ID, base=5, created_ns=9, previous=3)
    changed = data[:8] + b"\2\0" + data[10:60]
    with pytest.raises(frame.Newer, match="segment format 2"):
        frame.decode_segment_header(changed + zlib.crc32(changed).to_bytes(4, "little"))


def test_later_kind_of_frame_is_newer() -> None:
    """A whole frame of an unknown kind is not skipped and not called damage."""
    with pytest.raises(frame.Newer, match="kind 77"):
        frame.decode_frame(memoryview(encoded([record(1)], kind=77)), 0)


@given(st.binary(max_size=200))
def test_garbage_is_damage(data: bytes) -> None:
    """Any bytes that are no frame are `Damage`, and nothing else happens."""
    with pytest.raises(frame.Damage):
        frame.decode_frame(memoryview(data), 0)
    with pytest.raises(frame.Damage):
        frame.decode_segment_header(data)


@given(st.binary(min_size=1, max_size=60), st.integers(1, 5))
def test_body_that_is_no_array_is_damage(body: bytes, count: int) -> None:
    """A body with right checksums that does not split into its records is `Damage`."""
    data, _ = frame.encode_frame(
        b"\xc1" + body, kind=frame.DATA, count=count, base=1, durable=1, chain=0
    )
    with pytest.raises(frame.Damage):
        frame.records_of(frame.decode_frame(memoryview(data), 0))


def compressed(body: bytes, stated: int) -> frame.Frame:
    packed = stated.to_bytes(4, "little") + zlib.compress(body, 1)
    data, _ = frame.encode_frame(
        packed, kind=frame.DATA, count=40, base=1, durable=1, chain=0, codec=frame.ZLIB
    )
    return frame.decode_frame(memoryview(data), 0)


def test_compressed_frame() -> None:
    """A compressed body gives the same records; one that lies about its length is refused."""
    body = frame.encode_records(records(1, 40))
    assert frame.records_of(compressed(body, len(body))) == records(1, 40)
    for stated in (len(body) - 1, len(body) + 1, 1 << 31):
        with pytest.raises(frame.Damage):
            frame.records_of(compressed(body, stated))


def test_compression_bomb_is_bounded() -> None:
    """A small body that would unpack to 64 MB is refused without unpacking it."""
    with pytest.raises(frame.Damage):
        frame.records_of(compressed(bytes(64_000_000), 1000))


@pytest.mark.parametrize("at_ns", [0, 1, 127, 128, 255, 256, 65_536, 2**32, 2**63])
def test_log_time_of_a_record(at_ns: int) -> None:
    """The time of an input is found whatever the width of its number."""
    assert index.log_time_ns(record(1, at_ns=at_ns)[:14]) == at_ns


@given(st.binary(max_size=30))
def test_log_time_of_anything_else(data: bytes) -> None:
    """Bytes that are no input have no time, and do no harm."""
    assert index.log_time_ns(data) >= 0
    assert index.log_time_ns(b"\x93\x40\xcd\x01\x01" + data) == 0
