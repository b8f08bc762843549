"""Compression of finished segments: a smaller file takes the place of the one that was written.

Frame by frame, so that a place is found as fast as before.  The new file is whole, synced and
has been read back before MANIFEST names it, and only then is the old one removed: at each
moment there is one of which the list is true.  What a crash leaves over, the next start takes
away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import index_file
from headrace.engine.log import segment as segments
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.digest import new_digest
from headrace.engine.log.files import Files, opened, write_all
from headrace.engine.log.frame import (
    DATA,
    MORE,
    SEAL,
    SEGMENT_HEADER_BYTES,
    ZLIB,
    Damage,
    Frame,
    Newer,
    body_of,
    compressed_body,
    encode_frame,
)
from headrace.engine.log.index import SparseIndex, first_time_ns
from headrace.engine.log.manifest import Manifest, Packed, Segment

LEVEL: Final = 1
"""zlib's: three times as fast as its usual one, for a tenth more bytes."""

WRITE_BYTES: Final = 256 * 1024
"""How much is written and synced at once: who waits for a commit may have to wait for it."""

STEP_BYTES: Final = 256 * 1024
"""How much is worked on between two rests."""

GAIN_LEAST: Final = 0.05
"""What is to be saved, as a share: for less, nothing is replaced."""


def compress(
    files: Files,
    folder: str,
    catalog: Catalog,
    entry: Segment,
    *,
    pause: Callable[[], bool] = lambda: True,
) -> Packed | None:
    """Replace the finished segment *entry* of the log in *folder* by a compressed one.

    Works beside the writer and beside readers, who may go on with the old file.  *pause* is
    called again and again; it may sleep, and ``False`` gives up.  Returns what MANIFEST
    says now; ``None``: there is nothing to be gained, it was given up, or retention was faster.

    Raises:
        LogCorrupt: the segment is damaged; nothing was changed.
        LogVersion: a newer headrace wrote it.
        OSError: the disk failed; the list names one of the two files, and both are there.
    """
    assert entry.sealed, entry.base
    target = f"{folder}/{segments.packed_name_of(entry.base)}"
    temporary = f"{target}.tmp"
    try:
        packing = _Packing(files, folder, entry, pause)
        done = packing.write(temporary)
        if done is None or not _same(files, temporary, entry, done, pause):
            files.unlink(temporary)
            return None
        files.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    files.sync_directory(folder)
    listed = catalog.change(lambda manifest: _swapped(manifest, entry.base, done))
    if not any(other.packed == done for other in listed.segments if other.base == entry.base):
        with contextlib.suppress(FileNotFoundError):
            files.unlink(target)
        return None
    with contextlib.suppress(FileNotFoundError):
        files.unlink(f"{folder}/{segments.name_of(entry.base)}")
    with contextlib.suppress(OSError):
        index_file.store(files, folder, entry.base, done.digest, packing.index)
    return done


def _swapped(manifest: Manifest, base: int, packed: Packed) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        segments=[
            msgspec.structs.replace(entry, packed=packed) if entry.base == base else entry
            for entry in manifest.segments
        ],
    )


class _Packing:
    """The writing of one compressed segment."""

    def __init__(
        self, files: Files, folder: str, entry: Segment, pause: Callable[[], bool]
    ) -> None:
        self._files = files
        self._path = f"{folder}/{segments.name_of(entry.base)}"
        self._entry = entry
        self._pause = pause
        self.index = SparseIndex()

    def write(self, target: str) -> Packed | None:
        """Write *target*, durably; ``None``: it was given up, or is not smaller."""
        files, entry = self._files, self._entry
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with opened(files, self._path, os.O_RDONLY) as source, opened(files, target, flags) as fd:
            digest, offset, parts, waiting, at_ns = new_digest(), 0, list[bytes](), 0, 0
            rest_at = STEP_BYTES
            header = segments.read_header(files, source, self._path)
            chain = header.crc
            parts.append(files.pread(source, SEGMENT_HEADER_BYTES, 0))
            size = waiting = SEGMENT_HEADER_BYTES
            for frame in _frames(files, source, self._path, entry):
                data, chain = _repacked(frame, chain)
                if frame.kind == DATA:
                    at_ns = first_time_ns(body_of(frame)) or at_ns
                    self.index.add(frame.base, size, at_ns)
                parts.append(data)
                size += len(data)
                waiting += len(data)
                if waiting >= WRITE_BYTES:
                    offset = self._flush(fd, parts, offset, digest.update)
                    waiting = 0
                if frame.end >= rest_at:
                    rest_at = frame.end + STEP_BYTES
                    if not self._pause():
                        return None
            offset = self._flush(fd, parts, offset, digest.update)
            seal, _ = encode_frame(
                self._seal(digest.digest()),
                kind=SEAL,
                count=0,
                base=entry.next_sequence,
                durable=entry.next_sequence,
                chain=chain,
            )
            if offset + len(seal) > entry.size_bytes * (1 - GAIN_LEAST):
                return None
            write_all(files, fd, seal, offset)
            files.fsync(fd)
            return Packed(offset + len(seal), offset, digest.digest())

    def _flush(
        self, fd: int, parts: list[bytes], offset: int, feed: Callable[[bytes], None]
    ) -> int:
        data = b"".join(parts)
        parts.clear()
        feed(data)
        write_all(self._files, fd, data, offset)
        # Bit by bit: one large sync at the end would hold up those of the log's writer.
        self._files.fdatasync(fd)
        return offset + len(data)

    def _seal(self, digest: bytes) -> bytes:
        entry = self._entry
        return segments.encode_body(
            segments.PackedSeal(
                entry.next_sequence - entry.base,
                entry.first_at_ns,
                entry.last_at_ns,
                self.index.thinned(),
                digest,
                entry.chain,
            )
        )


def _repacked(frame: Frame, chain: int) -> tuple[bytes, int]:
    """Return *frame* as it is compressed, after the frame with the checksum *chain*."""
    body, codec = bytes(frame.body), frame.codec
    if frame.kind == DATA and not codec & ZLIB:
        packed = compressed_body(body, LEVEL)
        if len(packed) < len(body):
            body, codec = packed, codec | ZLIB
    return _encoded(frame, body, codec, chain)


def _encoded(frame: Frame, body: bytes, codec: int, chain: int) -> tuple[bytes, int]:
    return encode_frame(
        body,
        kind=frame.kind | MORE if frame.more else frame.kind,
        count=frame.count,
        base=frame.base,
        durable=frame.durable,
        chain=chain,
        codec=codec,
    )


def _frames(files: Files, fd: int, path: str, entry: Segment) -> Iterator[Frame]:
    """Yield the frames of a finished segment before its last one, all checked.

    Raises:
        LogCorrupt: one is damaged, or the digest is not the segment's.
    """
    digest = new_digest()
    digest.update(files.pread(fd, SEGMENT_HEADER_BYTES, 0))
    chain = segments.read_header(files, fd, path).crc
    walk = segments.Walk(files, fd, offset=SEGMENT_HEADER_BYTES, sequence=entry.base, chain=chain)
    try:
        for frame in walk.frames(entry.seal_offset):
            digest.update(frame.raw)
            yield frame
    except Damage as damage:
        raise segments.corrupt(path, walk.offset, damage, walk.sequence) from damage
    except Newer as newer:
        raise segments.too_new(path, walk.offset, newer) from newer
    if digest.digest() != entry.digest:
        raise LogCorrupt(
            path,
            0,
            expected=f"digest {entry.digest.hex()}",
            found=digest.hexdigest(),
            first_sequence=entry.base,
            last_sequence=entry.next_sequence - 1,
        )


def _same(
    files: Files, path: str, entry: Segment, packed: Packed, pause: Callable[[], bool]
) -> bool:
    """Read the compressed segment *path* and say whether it unpacks to what *entry* was.

    Raises:
        LogCorrupt: it cannot be unpacked, though it was written just now.
    """
    digest, read = new_digest(), 0
    with opened(files, path, os.O_RDONLY) as fd:
        digest.update(files.pread(fd, SEGMENT_HEADER_BYTES, 0))
        chain = segments.read_header(files, fd, path).crc
        compressed = msgspec.structs.replace(
            entry, seal_offset=packed.seal_offset, digest=packed.digest
        )
        for frame in _frames(files, fd, path, compressed):
            data, chain = _encoded(frame, bytes(body_of(frame)), frame.codec & ~ZLIB, chain)
            digest.update(data)
            read += len(data)
            if read >= STEP_BYTES:
                read = 0
                if not pause():
                    return False
        segments.read_seal(files, fd, path, packed.seal_offset)
    return digest.digest() == entry.digest


def remove_replaced(files: Files, folder: str, manifest: Manifest, names: list[str]) -> None:
    """Remove what a compression that was cut short has left: the file that no list names.

    Raises:
        OSError: one could not be removed.
    """
    packed = {entry.base for entry in manifest.segments if entry.packed is not None}
    for name in names:
        extra = segments.packed_base_of(name)
        if (extra is not None and extra not in packed) or segments.base_of(name) in packed:
            files.unlink(f"{folder}/{name}")
