"""The large results of a log, which are in files of their own: for the commands that look at it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from headrace.cli.logs import folded, opened
from headrace.cli.text import safe
from headrace.engine.errors import HeadraceError


def stored(log: Path) -> tuple[int, int]:
    """Return how many there are, and how many bytes they have together."""
    from headrace.engine.log.blob_files import digests_in, parts_of, path_of
    from headrace.engine.log.files import SystemFiles

    count = size_bytes = 0
    files, folder = SystemFiles(), os.fspath(log)
    for part in parts_of(files, folder):
        for digest in digests_in(files, part):
            try:
                size_bytes += os.stat(path_of(folder, digest)).st_size  # noqa: PTH116 (many)
            except FileNotFoundError:
                continue  # an engine has removed it just now
            count += 1
    return count, size_bytes


def held(log: Path) -> set[bytes]:
    """Return the digests of those that the state needs though their records may be gone.

    None if there is no snapshot: the state, if there is one, comes of records that are there.
    """
    try:
        with opened(log) as reader:
            if not reader.snapshots.sequences():
                return set()
            return folded(reader, shortcut=True).state.held_blobs()
    except (HeadraceError, OSError):
        return set()  # why, is for others to say


def remove_unneeded(log: Path) -> int | None:
    """Remove those that neither a record nor the state needs any more; return how many.

    ``None``: it is not known which, and said why.
    """
    from headrace.engine.large_results import named_blobs
    from headrace.engine.log.blobs import FileBlobs
    from headrace.engine.log.files import SystemFiles
    from headrace.engine.log.files import opened as opened_file
    from headrace.engine.log.retention import closed_log

    files = SystemFiles()
    try:
        if not stored(log)[0]:
            return 0
        with opened(log) as reader, closed_log(files, reader.path):
            # What is not needed any more would be again, were a record lost that says so.
            last = Path(reader.path, reader.manifest.segments[-1].file_name)
            with opened_file(files, os.fspath(last), os.O_RDONLY) as fd:
                files.fdatasync(fd)
            needed = folded(reader, shortcut=True).state.held_blobs() | named_blobs(reader)
            return FileBlobs(files, reader.path).sweep(lambda: needed)
    except (HeadraceError, OSError) as error:
        sys.stderr.write(
            f"headrace: the large results of what was removed are still there: {safe(str(error))}\n"
        )
        return None
