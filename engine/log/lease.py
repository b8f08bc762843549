"""Leases: who reads a log says which records it still needs, so that retention keeps them.

A lease is a small file in the log's directory, locked with flock for as long as its reader
lives: the kernel frees the lock however the reader ends, so that a file whose lock is free
belongs to nobody and is removed.  Making one writes no record and asks nobody.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable
from itertools import count
from types import TracebackType
from typing import Final, Self

from msgspec import Struct

from headrace.engine.log.files import Files, write_all

_PREFIX: Final = "reader-"
_SUFFIX: Final = ".lease"
_TEXT_BYTES_MAX: Final = 64
EVERYTHING: Final = 0
"""What a reader needs that has not come to say what."""


class Held(Struct, frozen=True):
    """The lease of a reader that lives."""

    pid: int
    """Of the reader, as it sees itself: 0 if the file's name does not say."""
    sequence: int
    """The oldest record that it needs."""


def is_lease(name: str) -> bool:
    """Say whether *name* is that of a lease."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


class Lease:
    """A claim to the records from a sequence on, for the length of a ``with`` block.

    Where the directory may not be written there is none, and nothing is said of it: who reads
    without a lease gets `SegmentGone` if what it needs is removed.  The records from *sequence*
    on can have been removed before the lease was there, so MANIFEST is to be read after it.
    """

    def __init__(self, files: Files, folder: str, sequence: int, *, wanted: bool = True) -> None:
        """Claim the records from *sequence* on; not *wanted*: claim nothing."""
        self._files = files
        self._folder = folder
        self._sequence = sequence
        self._wanted = wanted
        self._path = ""
        self._fd: int | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        if self._wanted:
            with contextlib.suppress(OSError):
                self._take()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    @property
    def held(self) -> bool:
        """Whether there is a lease."""
        return self._fd is not None

    def _take(self) -> None:
        files = self._files
        self._pid = os.getpid()
        for number in count(1):
            self._path = f"{self._folder}/{_PREFIX}{self._pid}-{number}{_SUFFIX}"
            try:
                fd = files.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                continue
            with contextlib.ExitStack() as undo:
                undo.callback(files.close, fd)
                undo.callback(files.unlink, self._path)
                # Until it is locked it looks like a dead reader's, and may be removed as one.
                if files.lock(fd) and files.is_named(fd, self._path):
                    write_all(files, fd, _text(self._sequence), 0)
                    undo.pop_all()
                    self._fd = fd
                    return
                undo.pop_all()
                files.close(fd)

    def move(self, sequence: int) -> None:
        """Need nothing before *sequence* any more.  Writes only if that is news."""
        if self._fd is not None and sequence > self._sequence:
            self._sequence = sequence
            # Where it cannot be written more is kept than needed: no harm.
            with contextlib.suppress(OSError):
                write_all(self._files, self._fd, _text(sequence), 0)

    def _release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        files = self._files
        if self._pid != os.getpid():
            # A forked child: the lease is the parent's.
            files.close(fd)
            return
        with contextlib.suppress(OSError):
            files.unlink(self._path)
        with contextlib.suppress(OSError):
            # Unlocked and not only closed: a forked child may still have the descriptor.
            files.unlock(fd)
        files.close(fd)


def _text(sequence: int) -> bytes:
    """Return what a lease's file says.  Always as long, so that nothing older shows through."""
    digits = f"{sequence:020d}"
    return f"{digits} {zlib.crc32(digits.encode()):08x}\n".encode()


def _sequence_in(data: bytes) -> int:
    """Return the sequence that *data* says; `EVERYTHING` if it was half-written."""
    digits = data[:20]
    return int(digits) if digits.isdigit() and data == _text(int(digits)) else EVERYTHING


def _pid_in(name: str) -> int:
    digits = name.removeprefix(_PREFIX).partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def living(
    files: Files, folder: str, names: Iterable[str], *, remove_dead: bool = False
) -> list[Held]:
    """Return the leases among *names*, the files of *folder*, whose readers live.

    With *remove_dead* the others are removed.

    Raises:
        OSError: it cannot be said whether one lives.
    """
    found: list[Held] = []
    for name in sorted(filter(is_lease, names)):
        try:
            fd = files.open(f"{folder}/{name}", os.O_RDONLY)
        except FileNotFoundError:
            continue  # it was given back just now
        except PermissionError:
            found.append(Held(_pid_in(name), EVERYTHING))
            continue
        try:
            if not files.lock(fd):
                data = files.pread(fd, _TEXT_BYTES_MAX, 0)
                found.append(Held(_pid_in(name), _sequence_in(data)))
                continue
            if remove_dead:
                with contextlib.suppress(FileNotFoundError):
                    files.unlink(f"{folder}/{name}")
            files.unlock(fd)
        finally:
            files.close(fd)
    return found
