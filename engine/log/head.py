"""HEAD: a note of what has been made durable, written after each group commit.

It is never synced.  Each version of it states only what already was durable, so any of them
is true, also an old one that power loss brings back.  After the end of a process it is exact.
Together with the frames' own `durable` it tells a torn write from damage, and it alone
notices a file that was cut exactly between two frames.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from msgspec import Struct

from headrace.engine.log.files import Files, read_all, write_all

NAME: Final = "HEAD"
SLOT_BYTES: Final = 64
_MAGIC: Final = b"HRHEAD1\n"
_SLOT = struct.Struct("<8sQQQQI16sI")

assert _SLOT.size == SLOT_BYTES


class Head(Struct, frozen=True):
    """One version of the note."""

    generation: int
    """Rises with each version; its parity says which of the two slots it is in."""
    next_sequence: int
    """The first sequence that is not known to be durable."""
    base: int
    """The segment that the next record goes to."""
    offset: int
    """Its length in bytes; everything before it is durable."""
    chain: int
    """The checksum of its last frame."""
    log_id: bytes


def encode_slot(head: Head) -> bytes:
    """Return the 64 bytes of one slot."""
    unsigned = _SLOT.pack(
        _MAGIC,
        head.generation,
        head.next_sequence,
        head.base,
        head.offset,
        head.chain,
        head.log_id,
        0,
    )[:-4]
    return unsigned + zlib.crc32(unsigned).to_bytes(4, "little")


def decode(data: bytes) -> Head | None:
    """Return the newest version in *data*, or ``None``: power loss may leave nothing."""
    newest: Head | None = None
    for start in (0, SLOT_BYTES):
        slot = data[start : start + SLOT_BYTES]
        if len(slot) < SLOT_BYTES:
            continue
        magic, generation, sequence, base, offset, chain, log_id, crc = _SLOT.unpack(slot)
        if magic != _MAGIC or zlib.crc32(slot[:-4]) != crc:
            continue
        if newest is None or generation > newest.generation:
            newest = Head(generation, sequence, base, offset, chain, log_id)
    return newest


def load(files: Files, folder: str) -> Head | None:
    """Return the newest version in the directory *folder*, or ``None`` if there is none."""
    try:
        return decode(read_all(files, f"{folder}/{NAME}"))
    except FileNotFoundError:
        return None


class HeadFile:
    """The open HEAD of a log that is being written."""

    def __init__(self, files: Files, folder: str, log_id: bytes, generation: int) -> None:
        """Open HEAD in *folder*; the next version gets *generation* + 1."""
        self._files = files
        self._log_id = log_id
        self._generation = generation
        self._fd = files.open(f"{folder}/{NAME}", os.O_RDWR | os.O_CREAT)

    def write(self, *, next_sequence: int, base: int, offset: int, chain: int) -> None:
        """Note that everything before *next_sequence* is durable.

        The other slot keeps the version before: a torn write of this one loses nothing.
        """
        self._generation += 1
        head = Head(self._generation, next_sequence, base, offset, chain, self._log_id)
        slot = self._generation % 2
        write_all(self._files, self._fd, encode_slot(head), slot * SLOT_BYTES)

    def sync(self) -> None:
        """Make the note durable: not needed for truth, but a clean end leaves the newest."""
        self._files.fdatasync(self._fd)

    def close(self) -> None:
        """Give the file back."""
        self._files.close(self._fd)
