"""Snapshot files: ``snap-<sequence>.hrs`` in a log's directory, each a shortcut to its state.

A file is a header, blocks of compressed parts, and an end that has a digest of all of it
and the checksum of the log's record at that sequence: so a snapshot is only ever used for
the log that it was made of, also after its end was cut or it was forked.  What a part means
is `headrace.engine.snapshot`'s subject.  Losing a snapshot loses no data.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine.errors import SnapshotUnusable
from headrace.engine.log.files import READ_BYTES_MAX, Files, opened, write_all
from headrace.engine.log.past import past_in, past_name_of, set_aside

MAGIC: Final = b"\x89HRS\r\n\x1a\n"  # as PNG's: a transfer in text mode changes it
VERSION: Final = 1
KEPT: Final = 2
"""How many are kept: the older one is for when the newer one is damaged."""

_HEADER: Final = struct.Struct("<8sHHIQ")  # magic, version, -, -, sequence
_BLOCK: Final = struct.Struct("<II")  # bytes as they are stored, bytes as they were
_END: Final = struct.Struct("<IIQI16s")  # 0, blocks, oldest sequence, record's crc, digest
_CRC: Final = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


def name_of(sequence: int) -> str:
    """Return the name of the snapshot at *sequence*."""
    return f"snap-{sequence:020}.hrs"


def sequence_of(name: str) -> int | None:
    """Return the sequence of the snapshot of this *name*; ``None``: it is no snapshot's."""
    digits = name.removeprefix("snap-").removesuffix(".hrs")
    if not (digits.isascii() and digits.isdigit() and len(digits) == 20):
        return None
    return int(digits) if name == name_of(int(digits)) else None


class End(Struct, frozen=True):
    """What is known of a snapshot only when it is complete."""

    blocks: int
    oldest_sequence: int
    """The oldest record that the state refers to, or the one after the snapshot."""
    record_crc: int
    """crc32 of the log's record at the snapshot's sequence."""
    digest: bytes
    """blake2b, 16 bytes, of all that is before the end."""


def _new_digest() -> Any:
    from hashlib import blake2b

    return blake2b(digest_size=16)


class SnapshotFile:
    """A snapshot that is being written.  Blocks: for a worker thread."""

    def __init__(self, files: Files, folder: str, sequence: int) -> None:
        """Begin the snapshot at *sequence*.

        Raises:
            OSError: the disk failed, as from all other methods; `abort` tidies up.
        """
        self._files = files
        self._folder = folder
        self._name = name_of(sequence)
        self._temporary = f"{folder}/{self._name}.tmp"
        self._fd = files.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._is_open = True
        self._digest = _new_digest()
        self._offset = self._blocks = 0
        with contextlib.ExitStack() as undo:
            undo.callback(self.abort)
            self._put(_HEADER.pack(MAGIC, VERSION, 0, 0, sequence))
            undo.pop_all()

    def _put(self, data: bytes) -> None:
        write_all(self._files, self._fd, data, self._offset)
        self._digest.update(data)
        self._offset += len(data)

    def write(self, parts: list[bytes]) -> None:
        """Add *parts* as one block."""
        plain = _encode(parts)
        packed = zlib.compress(plain, 1)
        self._put(_BLOCK.pack(len(packed), len(plain)))
        self._put(packed)
        self._blocks += 1

    def finish(self, *, oldest_sequence: int, record: bytes) -> None:
        """Make the snapshot durable and give it its name; *record* is the log's at its sequence."""
        digest = self._digest.digest()
        end = _END.pack(0, self._blocks, oldest_sequence, zlib.crc32(record), digest)
        self._put(end + _CRC.pack(zlib.crc32(end)))
        self._files.fsync(self._fd)
        self._close()
        self._files.rename(self._temporary, f"{self._folder}/{self._name}")
        self._files.sync_directory(self._folder)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._files.close(self._fd)

    def abort(self) -> None:
        """Leave nothing behind.  What the disk refuses is removed when the log is opened."""
        with contextlib.suppress(OSError):
            self._close()
            self._files.unlink(self._temporary)


class FileSnapshots:
    """The snapshots of the log in one directory."""

    def __init__(self, files: Files, folder: str) -> None:
        """Look after those in *folder*."""
        self._files = files
        self._folder = folder
        self._bad: set[int] = set()

    def sequences(self) -> list[int]:
        """Return the sequences of all snapshots that are there, newest first."""
        names = self._files.listdir(self._folder)
        found = [sequence for name in names if (sequence := sequence_of(name)) is not None]
        return sorted(found, reverse=True)

    def _path(self, sequence: int) -> str:
        return f"{self._folder}/{name_of(sequence)}"

    def begin(self, sequence: int) -> SnapshotFile:
        """Begin to write the snapshot at *sequence*."""
        return SnapshotFile(self._files, self._folder, sequence)

    def discard(self, sequence: int) -> None:
        """Note that a snapshot is of no use, so that it is the first to be removed."""
        self._bad.add(sequence)

    def prune(self) -> None:
        """Keep the newest that are of use; those before them are for looking back only.

        Raises:
            OSError: the disk failed; some that were to go may be there.
        """
        kept = 0
        for sequence in self.sequences():
            if sequence in self._bad:
                self._files.unlink(self._path(sequence))
                self._bad.discard(sequence)
            elif kept < KEPT:
                kept += 1
            else:
                set_aside(self._files, self._folder, name_of(sequence), sequence)

    def needs(self) -> dict[int, int]:
        """Return the sequence of each snapshot with the oldest record that it needs.

        Each needs its own last record, by which it is known, and those that its state
        refers to.  One that is damaged needs nothing: it is not among them.
        """
        needs: dict[int, int] = {}
        for sequence in self.sequences():
            with contextlib.suppress(SnapshotUnusable):
                needs[sequence] = min(sequence, self.end(sequence).oldest_sequence)
        return needs

    def end(self, sequence: int) -> End:
        """Return the end of the snapshot at *sequence*; the rest of it is not looked at.

        Raises:
            SnapshotUnusable: it is damaged, or cannot be read.
        """
        path = self._path(sequence)
        try:
            with opened(self._files, path, os.O_RDONLY) as fd:
                size_bytes = self._files.size(fd)
                start = size_bytes - _END.size - _CRC.size
                data = self._files.pread(fd, _END.size + _CRC.size, max(0, start))
        except OSError as error:
            raise _unusable(path, "a file that can be read", error) from error
        end = data[: _END.size]
        if start < _HEADER.size or _CRC.pack(zlib.crc32(end)) != data[_END.size :]:
            raise _unusable(path, "a whole snapshot", f"{size_bytes} bytes with another end")
        _, blocks, oldest, record_crc, digest = _END.unpack(end)
        return End(blocks, oldest, record_crc, digest)

    def read(self, sequence: int, record: bytes | None) -> Iterator[bytes]:
        """Yield the parts of the snapshot at *sequence*; *record* is the log's at that place.

        The whole file is checked before the first part is yielded.

        Raises:
            SnapshotUnusable: it is damaged, is of a newer headrace, or was made of another log.
        """
        path = self._path(sequence)
        end = self.end(sequence)
        if record is None or zlib.crc32(record) != end.record_crc:
            found = "none" if record is None else "another one"
            raise _unusable(path, f"the log's record {sequence} that it was made with", found)
        try:
            with opened(self._files, path, os.O_RDONLY) as fd:
                size_bytes = self._files.size(fd) - _END.size - _CRC.size
                self._check(path, fd, size_bytes, sequence, end)
                yield from self._parts(path, fd, end)
        except OSError as error:
            raise _unusable(path, "a file that can be read", error) from error

    def _check(self, path: str, fd: int, size_bytes: int, sequence: int, end: End) -> None:
        digest, offset = _new_digest(), 0
        while offset < size_bytes:
            data = self._files.pread(fd, min(READ_BYTES_MAX, size_bytes - offset), offset)
            if not data:
                break
            digest.update(data)
            offset += len(data)
        if digest.digest() != end.digest:
            raise _unusable(path, f"digest {end.digest.hex()}", digest.digest().hex())
        header = self._files.pread(fd, _HEADER.size, 0)
        magic, version, _, _, stated = _HEADER.unpack(header)
        if magic != MAGIC or stated != sequence:
            raise _unusable(path, f"the snapshot at {sequence}", f"one at {stated}")
        if version > VERSION:
            raise _unusable(path, f"version {VERSION} or lower", f"{version}, of a newer headrace")

    def _parts(self, path: str, fd: int, end: End) -> Iterator[bytes]:
        offset = _HEADER.size
        for _ in range(end.blocks):
            size_bytes, plain_bytes = _BLOCK.unpack(self._files.pread(fd, _BLOCK.size, offset))
            packed = self._files.pread(fd, size_bytes, offset + _BLOCK.size)
            offset += _BLOCK.size + size_bytes
            try:
                plain = zlib.decompressobj().decompress(packed, plain_bytes)
                yield from _decode(plain)
            except (zlib.error, msgspec.MsgspecError) as error:
                raise _unusable(path, "a block of parts", error) from error


class PastSnapshots(FileSnapshots):
    """The older ones of a log in one directory, which are only for looking back."""

    def sequences(self) -> list[int]:
        """Return the sequences of all that are there, newest first."""
        return past_in(self._files.listdir(self._folder))

    def _path(self, sequence: int) -> str:
        return f"{self._folder}/{past_name_of(sequence)}"


def _unusable(path: str, expected: str, found: object) -> SnapshotUnusable:
    return SnapshotUnusable(f"{path}: expected {expected}, found {found}")
