"""Copy: the same log once more, on another disk, also while it is being written."""

from __future__ import annotations

import os

from msgspec import Struct

from headrace.engine.log.clone import Plan, make
from headrace.engine.log.files import Files, SystemFiles
from headrace.engine.log.moment import Moment


class Copied(Struct, frozen=True):
    """What was copied."""

    log_id: bytes
    """Of both."""
    first_sequence: int
    last_sequence: int
    """The last record that was committed at that moment."""
    segments: int
    copied_bytes: int
    """How many bytes of segments were written."""
    results: int
    """How many large results, in files of their own, were copied."""


def copy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    files: Files | None = None,
) -> Copied:
    """Make *target* what the log at *source* is at this moment, as far as it is committed.

    The source may be written meanwhile, and is only read.  Every byte is read, checked and
    written: nothing is shared with the source.  What is missing of the large results is not
    looked for; `verify` does that.  The copy has the same id and opens as a log
    that was closed; never let both be written, or two logs of one id hold different records.

    *target* must be missing, empty, or left by a copy that was cut short.  After an error, or
    after a crash at any moment, it is no log.

    Raises:
        LogUnusable: *source* cannot be read, or *target* cannot be made.
        LogCorrupt: the source is damaged.
        BlobUnusable: one of its large results is.
        LogVersion: a newer headrace wrote the source.
    """
    old: str = os.path.abspath(source)  # noqa: PTH100  resolve() asks the disk
    new: str = os.path.abspath(target)  # noqa: PTH100  as above
    last = 0

    def plan(_reading: object, moment: Moment) -> Plan:
        nonlocal last
        last = moment.committed
        return Plan(last)

    made = make(files or SystemFiles(), old, new, plan)
    return Copied(
        log_id=made.manifest.log_id,
        first_sequence=made.manifest.first_sequence,
        last_sequence=last,
        segments=len(made.manifest.segments),
        copied_bytes=made.copied_bytes,
        results=made.results,
    )
