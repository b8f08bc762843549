"""MANIFEST: which segments a log has, who it is, and what it came from.

Replaced atomically and synced each time, so that a copy that is damaged, cut or empty is
never the work of a crash.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine.errors import LogCorrupt, LogUnusable, LogVersion
from headrace.engine.log import segment as segments
from headrace.engine.log.files import Files, read_all, replace
from headrace.engine.log.frame import FORMAT

NAME: Final = "MANIFEST"
SALVAGING: Final = "salvaging"
"""In `Manifest.config` while the records of another log are copied: it is no log yet."""
_PREFIX: Final = b"\x92\xce"  # msgpack: an array of two, the first a 32-bit number


class Packed(Struct, array_like=True, frozen=True):
    """The compressed file of a segment.  Fields are only ever appended, with a default."""

    size_bytes: int
    seal_offset: int
    digest: bytes
    """As those of `Segment`, of this file."""


class Segment(Struct, array_like=True, frozen=True):
    """One segment of the list.  Fields are only ever appended, with a default."""

    base: int
    """Sequence of its first record; its name."""
    log_id: bytes
    """The log that wrote it: a fork shares segments with its origin."""
    sealed: bool = False
    """Whether it is finished.  What follows is known of sealed ones only."""
    size_bytes: int = 0
    seal_offset: int = 0
    """Where its last frame begins, which holds its index."""
    next_sequence: int = 0
    """The first sequence after it."""
    chain: int = 0
    """The checksum of its last frame, named by the next segment's header."""
    digest: bytes = b""
    """blake2b, 16 bytes, of everything before its last frame."""
    first_at_ns: int = 0
    """Log time of its first record that has one."""
    last_at_ns: int = 0
    packed: Packed | None = None
    """The compressed file that has taken the place of the one that all this is about."""

    @property
    def file_name(self) -> str:
        """The name of the file that there is."""
        if self.packed is not None:
            return segments.packed_name_of(self.base)
        return segments.name_of(self.base)

    @property
    def file(self) -> Segment | Packed:
        """Length, digest and last frame of the file that there is."""
        return self.packed or self


class Parent(Struct, array_like=True, frozen=True):
    """Where a fork left its origin."""

    log_id: bytes
    sequence: int
    """The last record that they share."""
    chain: int


class Manifest(Struct, array_like=True, frozen=True):
    """The whole file.  Fields are only ever appended, with a default."""

    format: int
    log_id: bytes
    created_ns: int
    first_sequence: int
    """The oldest record that is kept."""
    segments: list[Segment]
    """In order; only the last one is written to."""
    parent: Parent | None = None
    config: dict[str, Any] = {}
    """How it was opened last, for readers and for people."""
    holds: dict[str, int] = {}
    """What may not be removed, by who asked for it: everything from this sequence on."""


_FIELDS_OF_FORMAT_1: Final = {Segment: 10, Manifest: 7}
"""How many fields are always written."""


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(Manifest).decode
_decode_any = msgspec.msgpack.Decoder(list[Any]).decode


def _plain(struct: Manifest | Segment) -> list[Any]:
    """Return the fields without those at the end that are empty, as their defaults are.

    So a log that does not use what later versions added has the bytes that it always had.
    """
    fields = list(msgspec.structs.astuple(struct))
    while len(fields) > _FIELDS_OF_FORMAT_1[type(struct)] and not fields[-1]:
        fields.pop()
    return fields


def encode(manifest: Manifest) -> bytes:
    """Return the file's bytes: msgpack ``[checksum, body]``."""
    segments: Any = list(map(_plain, manifest.segments))
    body = _encode(_plain(msgspec.structs.replace(manifest, segments=segments)))
    return _PREFIX + zlib.crc32(body).to_bytes(4, "big") + _encode(body)


def decode(path: str, data: bytes) -> Manifest:
    """Return the manifest in *data*, read from *path*.

    Raises:
        LogCorrupt: it is damaged.
        LogVersion: a newer headrace wrote it.
    """
    body = _body(path, data)
    try:
        version = _decode_any(body)[0]
        if isinstance(version, int) and version > FORMAT:
            raise LogVersion(
                f"{path}: expected format {FORMAT} or lower, found {version}: it was written "
                "by a newer headrace; update headrace to open this log"
            )
        manifest = _decode(body)
    except (msgspec.MsgspecError, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise LogCorrupt(path, 0, expected="the list of segments", found=str(error)) from error
    if not manifest.segments or len(manifest.log_id) != 16:
        raise LogCorrupt(path, 0, expected="a log id and segments", found="none")
    return manifest


def _body(path: str, data: bytes) -> bytes:
    expected = "a list of segments that is in order"
    if len(data) < len(_PREFIX) + 4 or not data.startswith(_PREFIX):
        raise LogCorrupt(path, 0, expected=expected, found=f"{len(data)} other bytes")
    crc = int.from_bytes(data[2:6], "big")
    try:
        body = msgspec.msgpack.decode(data[6:], type=bytes)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(path, 6, expected=expected, found=str(error)) from error
    if zlib.crc32(body) != crc or _encode(body) != data[6:]:
        found = f"checksum {zlib.crc32(body):#010x}"
        raise LogCorrupt(path, 2, expected=f"checksum {crc:#010x}", found=found)
    return body


def load(files: Files, folder: str, *, salvaging: bool = False) -> Manifest | None:
    """Return the manifest of the log in *folder*, or ``None`` if there is no such file.

    With *salvaging* also that of a salvage that is under way.

    Raises:
        LogCorrupt: it is damaged.
        LogVersion: a newer headrace wrote it.
        LogUnusable: a salvage was cut short there.
    """
    path = f"{folder}/{NAME}"
    try:
        data = read_all(files, path)
    except FileNotFoundError:
        return None
    manifest = decode(path, data)
    if SALVAGING in manifest.config and not salvaging:
        raise LogUnusable(
            f"{folder}: expected an event log, found a part of one: a salvage of "
            f"{manifest.config[SALVAGING]} that is under way or was cut short; if so, remove the "
            "directory and salvage again"
        )
    return manifest


def store(files: Files, folder: str, manifest: Manifest) -> None:
    """Put *manifest* in place of the one in *folder*, durably."""
    replace(files, folder, NAME, encode(manifest))
