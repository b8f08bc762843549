"""Blobs: results that are too large for a record, in files of their own beside the log.

``blobs/<2 hex>/<digest>`` is named by the blake2b digest of its bytes.  It is written and
synced before the record that names it, so a record never names one that is not there.

One that nobody names is what a crash between the two leaves, or what is left of a record
that retention has removed.  `sweep` removes it, unless the state still needs it.  That is
asked for only after retention has removed records: a log that is kept whole keeps all of
them.  What a crash left half-written goes at the next `FileLog.open`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from headrace.engine.errors import DurabilityLost, LogFull
from headrace.engine.log import blob_files
from headrace.engine.log.blob_files import NAME, TEMPORARY, fault_of, new_digest, unusable
from headrace.engine.log.files import NO_SPACE, Files, opened, read_all, write_all

KEPT_BYTES: Final = 16 * 1024 * 1024
"""How much of what was written last is kept in memory: its parent asks for it at once."""


def digest_of(data: bytes) -> bytes:
    """Return the name of *data*."""
    digest = new_digest()
    digest.update(data)
    return digest.digest()


class Blobs(Protocol):
    """Where the large results of a log are.  Blocks; safe to be called from any thread."""

    def put(self, data: bytes) -> bytes:
        """Store *data* durably and return its digest; `settle` follows once that is named.

        Raises:
            LogFull: there is no room; nothing was stored.
            DurabilityLost: the disk failed.
        """
        ...

    def settle(self, digest: bytes) -> None:
        """Note that a committed record names what `put` stored."""
        ...

    def get(self, digest: bytes) -> bytes:
        """Return what was stored under *digest*.

        Raises:
            BlobUnusable: it is not there, or damaged.
        """
        ...

    def sweep(self, named: Callable[[], Iterable[bytes]]) -> int:
        """Remove what nobody names, as *named* says when it is asked; return how many."""
        ...


class MemoryBlobs:
    """The blobs of a `MemoryLog`."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}

    def put(self, data: bytes) -> bytes:
        """See `Blobs`."""
        digest = digest_of(data)
        self.stored[digest] = bytes(data)
        return digest

    def settle(self, digest: bytes) -> None:
        """See `Blobs`."""

    def get(self, digest: bytes) -> bytes:
        """See `Blobs`."""
        data = self.stored.get(digest)
        if data is None:
            raise unusable(digest.hex(), "nothing there")
        if digest_of(data) != digest:
            raise unusable(digest.hex(), f"{len(data)} bytes with another digest")
        return data

    def sweep(self, named: Callable[[], Iterable[bytes]]) -> int:
        """See `Blobs`: it keeps everything, as the log does."""
        return 0


class FileBlobs:
    """The blobs of the log in one directory."""

    def __init__(self, files: Files, folder: str) -> None:
        """Look after those in *folder*."""
        self._files = files
        self._folder = folder
        self._io = threading.Lock()
        """For whoever writes or removes a file: waiting for the disk."""
        self._lock = threading.Lock()
        """For what is known of them: never held for long."""
        self._fresh: dict[bytes, int] = {}
        """Those that were stored and that no committed record names yet, with how often."""
        self._spared: set[bytes] | None = None
        """While a sweep is under way: what was stored meanwhile, and may be named by now."""
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept_bytes = 0

    def path_of(self, digest: bytes) -> str:
        """Return the file of the blob of this digest."""
        return blob_files.path_of(self._folder, digest)

    def put(self, data: bytes) -> bytes:
        """See `Blobs`."""
        digest = digest_of(data)
        path = self.path_of(digest)
        with self._lock:
            self._fresh[digest] = self._fresh.get(digest, 0) + 1
            if self._spared is not None:
                self._spared.add(digest)
        with self._io:
            try:
                self._store(path, data)
            except OSError as error:
                self.settle(digest)
                if error.errno in NO_SPACE:
                    raise LogFull(
                        f"{path}: expected room for {len(data)} bytes of a result, found: {error}; "
                        "nothing was stored: make room"
                    ) from error
                raise DurabilityLost(
                    f"{path}: expected to store a result, found: {error}; check the disk"
                ) from error
        with self._lock:
            self._keep(digest, data)
        return digest

    def _store(self, path: str, data: bytes) -> None:
        files, folder = self._files, path.rpartition("/")[0]
        for place in (f"{self._folder}/{NAME}", folder):
            if files.kind(place) == "missing":
                files.mkdir(place)
                files.sync_directory(place.rpartition("/")[0])
        if files.kind(path) == "file" and self._is_whole(path, data):
            files.sync_directory(folder)  # whoever wrote it may have crashed before that
            return
        temporary = f"{path}{TEMPORARY}"
        try:
            with opened(files, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
                write_all(files, fd, data, 0)
                files.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                files.unlink(temporary)
            raise
        files.rename(temporary, path)
        files.sync_directory(folder)

    def _is_whole(self, path: str, data: bytes) -> bool:
        return read_all(self._files, path) == data

    def _keep(self, digest: bytes, data: bytes) -> None:
        if digest in self._kept or len(data) > KEPT_BYTES:
            return
        self._kept[digest] = bytes(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone)

    def settle(self, digest: bytes) -> None:
        """See `Blobs`."""
        with self._lock:
            count = self._fresh.pop(digest, 0) - 1
            if count > 0:
                self._fresh[digest] = count

    def get(self, digest: bytes) -> bytes:
        """See `Blobs`."""
        with self._lock:
            kept = self._kept.get(digest)
        if kept is not None:
            return kept
        path = self.path_of(digest)
        try:
            data = read_all(self._files, path)
        except OSError as error:
            raise unusable(path, fault_of(error)) from error
        if digest_of(data) != digest:
            raise unusable(path, f"{len(data)} bytes with another digest")
        return data

    def remove_temporaries(self) -> None:
        """Remove what was left half-written, for who has the log's lock.

        What cannot be removed is no harm.
        """
        with contextlib.suppress(OSError):
            for path in blob_files.temporaries(self._files, self._folder):
                # Whoever was writing it has come to its end, and it has its name.
                with self._io, contextlib.suppress(FileNotFoundError):
                    self._files.unlink(path)

    def sweep(self, named: Callable[[], Iterable[bytes]]) -> int:
        """See `Blobs`.  One at a time."""
        self.remove_temporaries()
        with self._lock:
            self._spared = set()
        try:
            found = self._digests()
            return self._remove(found, set(named())) if found else 0
        finally:
            with self._lock:
                self._spared = None

    def _remove(self, found: list[bytes], keep: set[bytes]) -> int:
        removed = 0
        for digest in found:
            if digest in keep:
                continue
            with self._io:
                with self._lock:
                    if digest in self._fresh or digest in (self._spared or ()):
                        continue  # it is stored again just now, or was
                    self._forget(digest)
                self._files.unlink(self.path_of(digest))
                removed += 1
        return removed

    def _forget(self, digest: bytes) -> None:
        gone = self._kept.pop(digest, None)
        if gone is not None:
            self._kept_bytes -= len(gone)

    def _digests(self) -> list[bytes]:
        """Return what is stored by now, but for what no committed record names yet."""
        files = self._files
        found = [
            digest
            for part in blob_files.parts_of(files, self._folder)
            for digest in blob_files.digests_in(files, part)
        ]
        with self._lock:
            return [digest for digest in found if digest not in self._fresh]
