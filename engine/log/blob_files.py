"""The files of large results, for those who look after a whole log: list, check, copy, count.

Nothing here holds more than a piece of one of them at a time.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from headrace.engine.errors import BlobUnusable
from headrace.engine.log.files import READ_BYTES_MAX, Files, opened, write_all

if TYPE_CHECKING:
    from hashlib import blake2b

NAME: Final = "blobs"
"""Their directory, in that of the log."""
DIGEST_BYTES: Final = 32
LISTED_MAX: Final = 1000
"""Those that are missing or damaged and are named one by one; of more there is the number."""
TEMPORARY: Final = ".tmp"
"""How the name of one ends that is being written."""

_PARTS: Final = tuple(f"{number:02x}" for number in range(256))
_KEY: Final = slice(1, 9)
"""Of a digest, what tells it from the others of its directory: its first byte is their name."""
_GOOD, _BAD = 1, 2


def new_digest() -> blake2b:
    """Return the digest of nothing, to be fed the bytes of a result."""
    from hashlib import blake2b  # a tenth of what importing the engine costs

    return blake2b(digest_size=DIGEST_BYTES)


def path_of(folder: str, digest: bytes) -> str:
    """Return the file of the result with this *digest*, of the log in *folder*."""
    name = digest.hex()
    return f"{folder}/{NAME}/{name[:2]}/{name}"


def parts_of(files: Files, folder: str) -> Iterator[str]:
    """Yield the directories, named by two hex digits, among which the files are distributed."""
    blobs = f"{folder}/{NAME}"
    if files.kind(blobs) != "directory":
        return
    for name in sorted(files.listdir(blobs)):
        if name in _PARTS and files.kind(f"{blobs}/{name}") == "directory":
            yield f"{blobs}/{name}"


def digests_in(files: Files, part: str) -> list[bytes]:
    """Return the digests of what is stored in the directory *part*, one of `parts_of`."""
    prefix = part.rpartition("/")[2]
    found: list[bytes] = []
    for name in files.listdir(part):
        if len(name) == 2 * DIGEST_BYTES and name.startswith(prefix):
            try:
                digest = bytes.fromhex(name)
            except ValueError:
                continue
            if digest.hex() == name:
                found.append(digest)
    return found


def temporaries(files: Files, folder: str) -> list[str]:
    """Return the files that are being written, or were when a process died."""
    return [
        f"{part}/{name}"
        for part in parts_of(files, folder)
        for name in files.listdir(part)
        if name.endswith(TEMPORARY)
    ]


def unusable(path: str, found: str) -> BlobUnusable:
    """Return the error that says what is wrong with the file at *path*."""
    return BlobUnusable(
        f"{path}: expected a result that was stored there, found {found}; restore the file from a "
        "copy of the log"
    )


def fault_of(error: OSError) -> str:
    """Return what is to be said of a file that cannot be read."""
    return "nothing there" if isinstance(error, FileNotFoundError) else str(error)


def fault_in(files: Files, folder: str, digest: bytes) -> tuple[str, int]:
    """Return what is wrong with a stored result (nothing: it is whole), and how large it is."""
    computed = new_digest()
    try:
        with opened(files, path_of(folder, digest), os.O_RDONLY) as fd:
            size_bytes = _feed(files, fd, computed.update)
    except OSError as error:
        return fault_of(error), 0
    if computed.digest() != digest:
        return f"{size_bytes} bytes with another digest", size_bytes
    return "", size_bytes


def _feed(files: Files, fd: int, take: Callable[[bytes], object]) -> int:
    offset = 0
    while data := files.pread(fd, READ_BYTES_MAX, offset):
        take(data)
        offset += len(data)
    return offset


def copy_checked(files: Files, source: str, target: str, digest: bytes) -> int:
    """Copy a result from the log in *source* to that in *target*; return how many bytes it has.

    Durably, but for its name: that is for who syncs the directory.

    Raises:
        BlobUnusable: it is damaged; there is nothing at the target.
        FileNotFoundError: it is not there, or not any more.
        OSError: it cannot be read or written.
    """
    old, new = path_of(source, digest), path_of(target, digest)
    temporary = f"{new}{TEMPORARY}"
    computed = new_digest()
    with (
        opened(files, old, os.O_RDONLY) as fd,
        opened(files, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as made,
    ):
        offset = 0

        def take(data: bytes) -> None:
            nonlocal offset
            computed.update(data)
            write_all(files, made, data, offset)
            offset += len(data)

        _feed(files, fd, take)
        files.fsync(made)
    if computed.digest() != digest:
        files.unlink(temporary)
        raise unusable(old, f"{offset} bytes with another digest")
    files.rename(temporary, new)
    return offset


class Checklist:
    """Which of the stored results were looked at: nine bytes for each, however many there are."""

    def __init__(self, files: Files, folder: str) -> None:
        """List what the log in *folder* has stored by now."""
        self._files = files
        self._folder = folder
        self._keys = [array("Q") for _ in _PARTS]
        self._marks = [bytearray() for _ in _PARTS]
        for part in parts_of(files, folder):
            keys = sorted(int.from_bytes(digest[_KEY]) for digest in digests_in(files, part))
            first = int(part.rpartition("/")[2], 16)
            self._keys[first] = array("Q", keys)
            self._marks[first] = bytearray(len(keys))

    def check(self, digest: bytes) -> tuple[str, int]:
        """Return what is wrong with a result that is needed, and how many bytes are new in it.

        One that is whole is read only once.
        """
        marks, place = self._marks[digest[0]], self._place_of(digest)
        if place is not None and marks[place] == _GOOD:
            return "", 0
        fault, size_bytes = fault_in(self._files, self._folder, digest)
        if place is not None:
            marks[place] = _BAD if fault else _GOOD
        return fault, 0 if fault else size_bytes

    def _place_of(self, digest: bytes) -> int | None:
        keys, key = self._keys[digest[0]], int.from_bytes(digest[_KEY])
        place = bisect_left(keys, key)
        return place if place < len(keys) and keys[place] == key else None

    def unseen(self) -> int:
        """Return how many of those that were listed, and are still there, nobody asked for."""
        count = 0
        for part in parts_of(self._files, self._folder):
            for digest in digests_in(self._files, part):
                place = self._place_of(digest)
                count += place is not None and not self._marks[digest[0]][place]
        return count
