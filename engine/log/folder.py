"""The directory of a log: is it one, may it become one?"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final

from headrace.engine.errors import LogCorrupt, LogUnusable
from headrace.engine.log import head, lease, lock, manifest, segment
from headrace.engine.log.files import Files, opened, read_all
from headrace.engine.log.frame import SEGMENT_HEADER_BYTES

_OURS: Final = frozenset((manifest.NAME, head.NAME, lock.NAME, "RESERVE", "control.sock", "blobs"))

UNFINISHED: Final = "UNFINISHED.tmp"
"""In a directory without MANIFEST: the mark of a fork or a copy that is being made."""

_CLUSTERED = ("beegfs", "ceph", "gfs2", "glusterfs", "lustre", "ocfs2")
_SERVED = ("9p", "afs", "cifs", "davfs", "nfs", "nfs4", "smb3", "smbfs")
_FUSE = ("fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs")
NETWORK_FILE_SYSTEMS: Final = frozenset((*_CLUSTERED, *_SERVED, *_FUSE))


def is_ours(name: str) -> bool:
    """Say whether the log puts files of this *name* into its directory."""
    return (
        name in _OURS
        or segment.base_of(name) is not None
        or segment.packed_base_of(name) is not None
        or name.endswith((".idx", ".hrs", ".tmp"))
        or lease.is_lease(name)
        or ".torn-" in name
    )


def file_system_of(path: str, mounts: str) -> str:
    """Return the type of the file system that holds *path*.

    *mounts* is the text of ``/proc/self/mountinfo``; empty if it does not say.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = fields[4].replace("\\040", " ").rstrip("/")
        # The last of equal ones is mounted over the others.
        if (path == point or path.startswith(f"{point}/")) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def refuse_network(files: Files, path: str) -> None:
    """Check that *path* is on a disk of this machine.

    Raises:
        LogUnusable: it is on a network file system; nothing was changed.
    """
    try:
        mounts = read_all(files, "/proc/self/mountinfo").decode("utf-8", "replace")
    except OSError:
        return  # not Linux: nobody to ask
    kind = file_system_of(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LogUnusable(
            f"{path}: expected a disk of this machine, found a network file system ({kind}), "
            "where locks and syncs may not hold; choose another path, or FileLog(..., "
            "allow_network_fs=True) if you know that they do"
        )


def check_finished(path: str, names: Collection[str]) -> None:
    """Check that the directory *path* with these *names* is not half of a fork or of a copy.

    Raises:
        LogUnusable: it is.
    """
    if UNFINISHED in names and manifest.NAME not in names:
        raise LogUnusable(
            f"{path}: expected an event log, found a fork or a copy that was cut short; make it "
            "again, or remove the directory: the log that it was made of is whole"
        )


def check_unborn(files: Files, path: str, names: Collection[str]) -> None:
    """Check that a directory of these *names*, without MANIFEST, has lost nothing.

    So it is with no log, and with one whose creation was cut short.

    Raises:
        LogCorrupt: there are records; only MANIFEST was lost.
    """
    records = head.load(files, path) is not None
    for base in filter(None, map(segment.base_of, names)):
        with opened(files, f"{path}/{segment.name_of(base)}", os.O_RDONLY) as fd:
            records = records or base != 1 or files.size(fd) > SEGMENT_HEADER_BYTES
    if records:
        raise LogCorrupt(
            f"{path}/{manifest.NAME}", 0, expected="the list of segments", found="no such file"
        )


def prepare(files: Files, path: str) -> None:
    """See to it that *path* is a directory with a log, or an empty one.

    Raises:
        LogUnusable: it is something else; nothing was changed.
        OSError: it cannot be made.
    """
    kind = files.kind(path)
    if kind == "missing":
        make_directory(files, path)
        return
    if kind != "directory":
        raise LogUnusable(
            f"{path}: expected a directory, found a {kind if kind == 'file' else 'special file'}; "
            "choose another path"
        )
    names = files.listdir(path)
    check_finished(path, names)
    if names and manifest.NAME not in names and not all(map(is_ours, names)):
        foreign = min(name for name in names if not is_ours(name))
        raise LogUnusable(
            f"{path}: expected an event log or an empty directory, found {foreign!r}; "
            "choose another path"
        )


def make_directory(files: Files, path: str) -> None:
    """Make the directory *path* durably, and those above it that are missing."""
    parent = path.rpartition("/")[0] or "/"
    if files.kind(parent) == "missing":
        make_directory(files, parent)
    files.mkdir(path)
    # Without this, power loss could take the directory with everything that is in it.
    files.sync_directory(parent)
