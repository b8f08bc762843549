"""``headrace log index``: make the index files of a log anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.cli.errors import OK
from headrace.cli.logs import opened
from headrace.cli.output import Output, write_document
from headrace.cli.progress import shown


def index(log: Path, output: Output) -> int:
    """Read every finished segment of a log and write its index.

    Raises:
        LogCorrupt: a segment is damaged; those before it have their index.
        LogUnusable: the log cannot be read, or the disk failed.
    """
    from headrace.engine.errors import LogUnusable
    from headrace.engine.log import index_file
    from headrace.engine.log.files import SystemFiles

    with opened(log) as reader:
        folder, finished = reader.path, [e for e in reader.manifest.segments if e.sealed]
    files, entries, done = SystemFiles(), 0, 0
    with shown("indexing", sum(e.file.size_bytes for e in finished), in_bytes=True) as advance:
        for entry in finished:
            try:
                entries += index_file.rebuild(files, folder, entry)
            except OSError as error:
                raise LogUnusable(
                    f"{folder}/{entry.file_name}: expected to write its index, found: {error}; "
                    "check the disk and the directory's mode, or do without: it is only a shortcut"
                ) from error
            done += entry.file.size_bytes
            advance(done)
    document: dict[str, Any] = {"log": str(log), "segments": len(finished), "entries": entries}
    said = f"{len(finished)} finished segments indexed, {entries} entries"
    write_document(document, output, lambda: said)
    return OK
