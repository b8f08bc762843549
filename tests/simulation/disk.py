"""A disk in memory that loses power, fills up and fails on purpose.

It keeps what was made durable apart from what was only written.  `crash` gives the disk that
a power failure leaves: of every 512-byte sector that was written and not synced the new bytes
or the old ones (zeros, if there were none); of every name that was made, renamed or removed
without a sync of its directory the old state or the new one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from random import Random

from headrace.engine.log.files import Data, Files, PathKind

SECTOR_BYTES = 512


class Inode:
    """One file: its bytes, and those of them that are durable."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.uncut: bytes | None = None
        """What was in it before it was cut, if no sync has followed."""
        self.links = 0
        self.locked_by: int | None = None


class NameChange:
    """A name of a directory that was set (or removed: ``None``) and is not durable yet."""

    def __init__(self, folder: str, changes: dict[str, Inode | None]) -> None:
        self.folder = folder
        self.changes = changes


class SimulatedDisk:
    """`Files` in memory, for one process at a time."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.folders: set[str] = {"/"}
        self.durable_names: dict[str, Inode] = {}
        self.durable_folders: set[str] = {"/"}
        self.unsynced_names: list[NameChange] = []
        self.descriptors: dict[int, tuple[Inode, str]] = {}
        self._next_fd = 3
        self.calls: list[str] = []
        """Every call so far, as ``name path``."""
        self.free_bytes: int | None = None
        """Room that is left; ``None``: any amount."""
        self.before: Callable[[str, str], None] = lambda _name, _path: None
        """Called with the name of each operation and its path; may raise."""
        self.short_writes: Random | None = None
        """Whether writes take only a part of what they are given."""
        self.off = False

    # ------------------------------------------------------------ faults

    def fail(self, name: str, nth: int, code: int, *, path: str = "") -> None:
        """Let the *nth* call of the operation *name* on a path with *path* fail with *code*."""
        left = nth

        def before(called: str, called_path: str) -> None:
            nonlocal left
            if called == name and path in called_path:
                left -= 1
                if left == 0:
                    raise OSError(code, os.strerror(code), called_path)

        self.before = before

    def power_off_after(self, calls: int) -> None:
        """Lose the power once *calls* more operations are done: nothing works after them."""
        left = calls

        def before(_name: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                self.off = True
            if self.off:
                raise OSError(errno.EIO, "the power is off", path)

        self.before = before

    def crash(self, rng: Random) -> SimulatedDisk:
        """Return the disk as it is when the power comes back."""
        left = SimulatedDisk()
        inodes: dict[int, Inode] = {}

        def survivor(inode: Inode) -> Inode:
            if id(inode) not in inodes:
                made = Inode()
                made.data = bytearray(_torn(inode, rng))
                made.durable = bytes(made.data)
                inodes[id(inode)] = made
            return inodes[id(inode)]

        names = dict(self.durable_names)
        for change in self.unsynced_names:
            if rng.random() < 0.5:
                for path, inode in change.changes.items():
                    if inode is None:
                        names.pop(path, None)
                    else:
                        names[path] = inode
        left.folders = {f for f in self.durable_folders if _folders_of(f) <= self.durable_folders}
        for path, inode in names.items():
            if _folders_of(path) <= left.folders:
                left.names[path] = survivor(inode)
                left.names[path].links += 1
        left.durable_names = dict(left.names)
        left.durable_folders = set(left.folders)
        return left

    def killed(self) -> SimulatedDisk:
        """Return the disk as it is after the process was killed: everything written is there."""
        left = SimulatedDisk()
        left.names, left.folders = self.names, self.folders
        left.durable_names, left.durable_folders = self.durable_names, self.durable_folders
        left.unsynced_names = self.unsynced_names
        for inode in left.names.values():
            inode.locked_by = None
        return left

    @contextmanager
    def untouched(self) -> Generator[None]:
        """Assert that nothing is changed inside the ``with`` block, locks apart."""
        before = {path: bytes(inode.data) for path, inode in self.names.items()}
        yield
        after = {path: bytes(inode.data) for path, inode in self.names.items()}
        before.pop("/log/LOCK", None)
        after.pop("/log/LOCK", None)
        assert after == before

    def found(self) -> Hashable:
        """Return all that a process which starts now can find: it does the same on equal ones."""
        known: dict[int, int] = {}
        return (
            self.free_bytes,
            frozenset(self.folders),
            tuple(
                (
                    path,
                    bytes(i.data),
                    known.setdefault(id(i), len(known)),
                    i.locked_by in self.descriptors,
                )
                for path, i in self.names.items()
            ),
        )

    # ------------------------------------------------------------ operations

    def _call(self, name: str, path: str) -> None:
        self.calls.append(f"{name} {path}")
        self.before(name, path)

    def _of(self, name: str, fd: int) -> Inode:
        inode, path = self.descriptors[fd]
        self._call(name, path)
        return inode

    def _named(self, path: str, inode: Inode) -> None:
        folder = path.rpartition("/")[0] or "/"
        if folder not in self.folders:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        self.names[path] = inode
        inode.links += 1

    def open(self, path: str, flags: int) -> int:
        self._call("open", path)
        inode = self.names.get(path)
        if path in self.folders:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            inode = Inode()
            self._named(path, inode)
            self._unsynced({path: inode})
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "exists", path)
        if flags & os.O_TRUNC:
            inode.data = bytearray()
        self._next_fd += 1
        self.descriptors[self._next_fd] = (inode, path)
        return self._next_fd

    def _unsynced(self, changes: dict[str, Inode | None]) -> None:
        folder = next(iter(changes)).rpartition("/")[0] or "/"
        self.unsynced_names.append(NameChange(folder, changes))

    def close(self, fd: int) -> None:
        self._of("close", fd)
        inode, _ = self.descriptors.pop(fd)
        if inode.locked_by == fd:
            inode.locked_by = None

    def pread(self, fd: int, size_bytes: int, offset_bytes: int) -> bytes:
        inode = self._of("pread", fd)
        return bytes(inode.data[offset_bytes : offset_bytes + size_bytes])

    def pwrite(self, fd: int, data: Data, offset_bytes: int) -> int:
        inode = self._of("pwrite", fd)
        taken = len(data)
        if self.short_writes is not None and taken > 1:
            taken = self.short_writes.randint(1, taken)
        grown = max(0, offset_bytes + taken - len(inode.data))
        if self.free_bytes is not None:
            if grown and not self.free_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # As a real disk: what fits is taken, the next call fails.
            taken -= max(0, grown - self.free_bytes)
            self.free_bytes -= min(grown, self.free_bytes)
        if len(inode.data) < offset_bytes:
            inode.data.extend(bytes(offset_bytes - len(inode.data)))
        inode.data[offset_bytes : offset_bytes + taken] = bytes(data[:taken])
        return taken

    def fsync(self, fd: int) -> None:
        inode = self._of("fsync", fd)
        inode.durable, inode.uncut = bytes(inode.data), None

    def fdatasync(self, fd: int) -> None:
        inode = self._of("fdatasync", fd)
        inode.durable, inode.uncut = bytes(inode.data), None

    def truncate(self, fd: int, size_bytes: int) -> None:
        inode = self._of("truncate", fd)
        if self.free_bytes is not None:
            self.free_bytes += max(0, len(inode.data) - size_bytes)
        if size_bytes < len(inode.data):
            inode.uncut = bytes(inode.data)
        del inode.data[size_bytes:]
        inode.data.extend(bytes(size_bytes - len(inode.data)))

    def allocate(self, fd: int, size_bytes: int) -> None:
        inode = self._of("allocate", fd)
        grown = max(0, size_bytes - len(inode.data))
        if self.free_bytes is not None:
            if grown > self.free_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.free_bytes -= grown
        inode.data.extend(bytes(grown))

    def size(self, fd: int) -> int:
        return len(self._of("size", fd).data)

    def room(self, path: str) -> tuple[int, int]:
        self._call("room", path)
        return 1 << 40, 1 << 41

    def is_named(self, fd: int, path: str) -> bool:
        return self.names.get(path) is self._of("is_named", fd)

    def rename(self, source: str, target: str) -> None:
        self._call("rename", target)
        if source not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        inode = self.names.pop(source)
        old = self.names.pop(target, None)
        if old is not None:
            old.links -= 1
        self.names[target] = inode
        self._unsynced({source: None, target: inode})

    def link(self, source: str, target: str) -> None:
        self._call("link", target)
        if target in self.names:
            raise FileExistsError(errno.EEXIST, "exists", target)
        if source not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        self._named(target, self.names[source])
        self._unsynced({target: self.names[source]})

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        inode = self.names.pop(path)
        inode.links -= 1
        if self.free_bytes is not None and not inode.links:
            self.free_bytes += len(inode.data)
        self._unsynced({path: None})

    def mkdir(self, path: str) -> None:
        self._call("mkdir", path)
        if path in self.folders or path in self.names:
            raise FileExistsError(errno.EEXIST, "exists", path)
        self.folders.add(path)

    def rmdir(self, path: str) -> None:
        self._call("rmdir", path)
        if self._inside(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self.folders.remove(path)

    def listdir(self, path: str) -> list[str]:
        self._call("listdir", path)
        return self._inside(path)

    def _inside(self, path: str) -> list[str]:
        there = (*self.names, *(self.folders - {"/"}))
        return [p.rpartition("/")[2] for p in there if (p.rpartition("/")[0] or "/") == path]

    def kind(self, path: str) -> PathKind:
        self._call("kind", path)
        if path in self.folders:
            return "directory"
        return "file" if path in self.names else "missing"

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory", path)
        left: list[NameChange] = []
        for change in self.unsynced_names:
            if change.folder != path:
                left.append(change)
                continue
            for name, inode in change.changes.items():
                if inode is None:
                    self.durable_names.pop(name, None)
                else:
                    self.durable_names[name] = inode
        self.unsynced_names = left
        for folder in self.folders | self.durable_folders - {"/"}:
            if (folder.rpartition("/")[0] or "/") == path:
                if folder in self.folders:
                    self.durable_folders.add(folder)
                else:
                    self.durable_folders.discard(folder)

    def lock(self, fd: int) -> bool:
        inode = self._of("lock", fd)
        if inode.locked_by is not None and inode.locked_by in self.descriptors:
            return False
        inode.locked_by = fd
        return True

    def unlock(self, fd: int) -> None:
        self._of("unlock", fd).locked_by = None


def _folders_of(path: str) -> set[str]:
    """Return the directories on the way to *path*: without them it is not found."""
    parts = path.split("/")[1:-1]
    return {"/", *("/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1))}


def _torn(inode: Inode, rng: Random) -> bytes:
    """Return what power loss leaves of a file."""
    old, new = inode.durable, bytes(inode.data)
    if inode.uncut is not None and rng.random() < 0.5:
        return inode.uncut  # it may have reached the disk before the cut, which did not
    if old == new:
        return old
    shortest, longest = sorted((len(old), len(new)))
    length = rng.choice((shortest, longest, rng.randint(shortest, longest)))
    # A shrink that was not synced may be lost; the bytes are the old ones then.
    out = bytearray(length)
    for start in range(0, length, SECTOR_BYTES):
        end = min(start + SECTOR_BYTES, length)
        was, now = old[start:end], new[start:end]
        # A sector is written whole or not at all; one that the file did not have before and
        # that was not written reads as zeros.
        out[start:end] = rng.choice((was, now)).ljust(end - start, b"\0")
    return bytes(out)


def check_protocol(disk: SimulatedDisk) -> Files:
    """Let the type checker compare the double with the protocol."""
    return disk
