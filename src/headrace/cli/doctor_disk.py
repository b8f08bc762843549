"""What ``headrace doctor`` looks at of a log's disk: is there room, and what does an fsync take."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from headrace.cli.findings import Finding, fail, ok, warn
from headrace.cli.text import safe

FREE_BYTES_LOW: Final = 1 << 30
FREE_BYTES_MIN: Final = 64 << 20
SYNCS: Final = 20
SYNC_BYTES: Final = 4096
SYNC_S_SLOW: Final = 0.02
MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs")
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")
NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs")


def disk(log: Path, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Finding]:
    """Look at the disk that the log at *log* is or would be on; what is written is removed."""
    try:
        folder = _nearest(log)
        if not folder.is_dir():
            yield fail("disk", f"{safe(str(folder))} is no folder", "name the directory of a log")
            return
        yield _room(folder)
    except OSError as error:
        found = f"{safe(str(error.filename or log))}: {error.strerror or error}"
        yield fail("disk", found, "let this user look there, or name another directory")
        return
    kind = _kind(folder, mounts)
    if kind in MEMORY:
        yield warn(
            "disk", f"{safe(str(folder))} is in memory ({kind})", "put the log where it outlives it"
        )
    elif kind in NETWORK:
        yield warn(
            "disk",
            f"{safe(str(folder))} is on a network ({kind}), where locks and syncs may not hold",
            "put the log on a disk of this machine",
        )
    try:
        times = _syncs(folder)
    except OSError as error:
        yield fail(
            "disk",
            f"{safe(str(folder))}: {error.strerror or error}",
            "let this user write there, or name another directory",
        )
        return
    said = f"a sync takes {median(times) * 1000:.2f} ms, at most {max(times) * 1000:.2f} ms"
    if median(times) > SYNC_S_SLOW:
        yield warn("sync", said, "use a disk with a faster one, or durability = flushed")
    else:
        yield ok("sync", said)


def _nearest(path: Path) -> Path:
    """Return *path*, or what is nearest above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{safe(str(folder))} has {free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_MIN:
        return fail("disk", said, "make room, or see `headrace log compact`")
    if free < FREE_BYTES_LOW:
        return warn("disk", said, "make room, or keep less: --keep-bytes, --keep-s, --compress")
    return ok("disk", said)


def _kind(folder: Path, mounts: Path) -> str:
    """Return the kind of file system that *folder* is on; empty where nothing says so."""
    try:
        rows = [line.split(b" ") for line in mounts.read_bytes().splitlines()]
    except OSError:
        return ""
    real = folder.resolve()
    places = {_unescaped(row[1]): row[2].decode() for row in rows if len(row) > 2}
    return next((places[one] for one in (real, *real.parents) if one in places), "")


def _unescaped(place: bytes) -> Path:
    """Return a path that may have white space in it, which the kernel writes in octal."""
    return Path(os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), place)))


def _syncs(folder: Path) -> list[float]:
    """Return the seconds that each of some syncs took, of blocks that are appended as a log's."""
    times: list[float] = []
    sync = getattr(os, "fdatasync", os.fsync)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".headrace-doctor-") as file:
        for _ in range(SYNCS):
            file.write(b"\0" * SYNC_BYTES)
            file.flush()
            began = time.perf_counter()
            sync(file.fileno())
            times.append(time.perf_counter() - began)
    return times
