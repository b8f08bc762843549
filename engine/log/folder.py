"""The directory of a log: is it one, may it become one?"""

from __future__ import annotations

from typing import Final

from headrace.engine.errors import LogUnusable
from headrace.engine.log import head, lock, manifest, segment
from headrace.engine.log.files import Files

_OURS: Final = frozenset((manifest.NAME, head.NAME, lock.NAME, "RESERVE", "control.sock", "blobs"))


def is_ours(name: str) -> bool:
    """Say whether the log puts files of this *name* into its directory."""
    return (
        name in _OURS
        or segment.base_of(name) is not None
        or name.endswith((".idx", ".hrs", ".tmp"))
        or ".torn-" in name
    )


def prepare(files: Files, path: str) -> None:
    """See to it that *path* is a directory with a log, or an empty one.

    Raises:
        LogUnusable: it is something else; nothing was changed.
        OSError: it cannot be made.
    """
    kind = files.kind(path)
    if kind == "missing":
        _make(files, path)
        return
    if kind != "directory":
        raise LogUnusable(
            f"{path}: expected a directory, found a {kind if kind == 'file' else 'special file'}; "
            "choose another path"
        )
    names = files.listdir(path)
    if names and manifest.NAME not in names and not all(map(is_ours, names)):
        foreign = min(name for name in names if not is_ours(name))
        raise LogUnusable(
            f"{path}: expected an event log or an empty directory, found {foreign!r}; "
            "choose another path"
        )


def _make(files: Files, path: str) -> None:
    parent = path.rpartition("/")[0] or "/"
    if files.kind(parent) == "missing":
        _make(files, parent)
    files.mkdir(path)
    # Without this, power loss could take the directory with everything that is in it.
    files.sync_directory(parent)
