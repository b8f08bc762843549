# ruff: noqa: PTH102, PTH105, PTH106, PTH108, PTH116, PTH208
# pathlib stands above what this module is about: one system call, one method.
"""File operations: the only way in which the log touches a disk.

`SystemFiles` is the real one.  The tests have another one that loses power, fills up and
fails on purpose, so that every promise of the log is tried against a disk that breaks it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Generator
from typing import Final, Literal, Protocol

Data = bytes | bytearray | memoryview
PathKind = Literal["missing", "file", "directory", "other"]

READ_BYTES_MAX: Final = 1024 * 1024
"""How much is asked of the disk in one call when a whole file is read."""

NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Errors that say that there is no room: the one kind of failed write that can pass."""


class Files(Protocol):
    """What the log needs of a disk.  Every method raises `OSError`, as the `os` module does.

    Implemented by `SystemFiles` and, for the tests, by a simulated disk.  What is written
    survives power loss only after `fsync` or `fdatasync`; a name that was made, renamed or
    removed only after `sync_directory`.
    """

    def open(self, path: str, flags: int) -> int:
        """Return a descriptor of *path*, opened with the `os` module's *flags*."""
        ...

    def close(self, fd: int) -> None:
        """Give *fd* back."""
        ...

    def pread(self, fd: int, size_bytes: int, offset_bytes: int) -> bytes:
        """Return at most *size_bytes* bytes; none at the end of the file."""
        ...

    def pwrite(self, fd: int, data: Data, offset_bytes: int) -> int:
        """Write at *offset_bytes* and return how many bytes were taken, maybe not all."""
        ...

    def fsync(self, fd: int) -> None:
        """Make the file's bytes and metadata durable."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Make the file's bytes and its length durable."""
        ...

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut the file, or lengthen it with zeros."""
        ...

    def allocate(self, fd: int, size_bytes: int) -> None:
        """See to it that the file has *size_bytes* bytes, and the room for them."""
        ...

    def size(self, fd: int) -> int:
        """Return the file's length in bytes."""
        ...

    def room(self, path: str) -> tuple[int, int]:
        """Return how many bytes are free, and how many there are, on the disk of *path*."""
        ...

    def is_named(self, fd: int, path: str) -> bool:
        """Say whether *path* is still the name of the open file: not if it was moved or deleted."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give *source* the name *target*, in place of what had it."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give *source* the further name *target*."""
        ...

    def unlink(self, path: str) -> None:
        """Remove the name *path*."""
        ...

    def mkdir(self, path: str) -> None:
        """Make the directory *path*; its parent must exist."""
        ...

    def rmdir(self, path: str) -> None:
        """Remove the empty directory *path*."""
        ...

    def listdir(self, path: str) -> list[str]:
        """Return the names in the directory, in any order."""
        ...

    def kind(self, path: str) -> PathKind:
        """Say what *path* is."""
        ...

    def sync_directory(self, path: str) -> None:
        """Make the names in the directory durable."""
        ...

    def lock(self, fd: int) -> bool:
        """Take the file for this descriptor alone; ``False`` if another one has it."""
        ...

    def unlock(self, fd: int) -> None:
        """Give the lock back, also if a forked child still has the descriptor."""
        ...


class SystemFiles:
    """`Files` on the operating system's disk."""

    def open(self, path: str, flags: int) -> int:
        """See `Files.open`."""
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def close(self, fd: int) -> None:
        """See `Files.close`."""
        os.close(fd)

    def pread(self, fd: int, size_bytes: int, offset_bytes: int) -> bytes:
        """See `Files.pread`."""
        return os.pread(fd, size_bytes, offset_bytes)

    def pwrite(self, fd: int, data: Data, offset_bytes: int) -> int:
        """See `Files.pwrite`."""
        return os.pwrite(fd, data, offset_bytes)

    def fsync(self, fd: int) -> None:
        """See `Files.fsync`."""
        # On macOS fsync leaves the bytes in the drive's cache; this empties it.
        full_sync = getattr(fcntl, "F_FULLFSYNC", None)
        if full_sync is None:
            os.fsync(fd)
        else:
            fcntl.fcntl(fd, full_sync)

    def fdatasync(self, fd: int) -> None:
        """See `Files.fdatasync`."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:
            self.fsync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """See `Files.truncate`."""
        os.ftruncate(fd, size_bytes)

    def allocate(self, fd: int, size_bytes: int) -> None:
        """See `Files.allocate`."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size_bytes)
        else:
            write_all(self, fd, bytes(size_bytes), 0)

    def size(self, fd: int) -> int:
        """See `Files.size`."""
        return os.fstat(fd).st_size

    def room(self, path: str) -> tuple[int, int]:
        """See `Files.room`."""
        found = os.statvfs(path)
        # What a user without privileges may still take.
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def is_named(self, fd: int, path: str) -> bool:
        """See `Files.is_named`."""
        try:
            named = os.stat(path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def rename(self, source: str, target: str) -> None:
        """See `Files.rename`."""
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        """See `Files.link`."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        """See `Files.mkdir`."""
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        """See `Files.rmdir`."""
        os.rmdir(path)

    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        return os.listdir(path)

    def kind(self, path: str) -> PathKind:
        """See `Files.kind`."""
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return "missing"
        if stat.S_ISDIR(mode):
            return "directory"
        return "file" if stat.S_ISREG(mode) else "other"

    def sync_directory(self, path: str) -> None:
        """See `Files.sync_directory`."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, fd: int) -> bool:
        """See `Files.lock`."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """See `Files.unlock`."""
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def opened(files: Files, path: str, flags: int) -> Generator[int]:
    """Open *path* for the length of a ``with`` block."""
    fd = files.open(path, flags)
    try:
        yield fd
    finally:
        files.close(fd)


def write_all(files: Files, fd: int, data: Data, offset_bytes: int) -> None:
    """Write *data* at *offset_bytes*, in as many calls as the disk wants."""
    left = memoryview(data)
    while left:
        taken = files.pwrite(fd, left, offset_bytes)
        if taken == 0:
            # POSIX allows it and it would loop for ever; it happens on full disks.
            raise OSError(errno.ENOSPC, "the disk takes no more bytes")
        left = left[taken:]
        offset_bytes += taken


def read_all(files: Files, path: str) -> bytes:
    """Return the bytes of the small file *path*."""
    parts: list[bytes] = []
    with opened(files, path, os.O_RDONLY) as fd:
        offset = 0
        while part := files.pread(fd, READ_BYTES_MAX, offset):
            parts.append(part)
            offset += len(part)
    return b"".join(parts)


def replace(files: Files, folder: str, name: str, data: Data) -> None:
    """Put *data* in place of the file *name*: the old bytes or the new, never a mixture."""
    temporary = f"{folder}/{name}.tmp"
    with opened(files, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        write_all(files, fd, data, 0)
        files.fsync(fd)
    files.rename(temporary, f"{folder}/{name}")
    files.sync_directory(folder)


def remove_tree(files: Files, path: str) -> None:
    """Remove the file *path*, or the directory with all that is in it."""
    if files.kind(path) == "directory":
        for name in files.listdir(path):
            remove_tree(files, f"{path}/{name}")
        files.rmdir(path)
    else:
        files.unlink(path)
