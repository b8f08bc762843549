"""What ends a command: exit codes, and the one line that says why."""

from __future__ import annotations

from typing import Final

from headrace.engine.errors import (
    AppNotFound,
    BlobUnusable,
    DurabilityLost,
    EngineUnreachable,
    HeadraceError,
    LogCorrupt,
    RuleNotFound,
    RunNotFound,
    SegmentGone,
)

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
DIFFERENCE: Final = 3
NOT_FOUND: Final = 4
UNREACHABLE: Final = 5
CORRUPT: Final = 6
DURABILITY_LOST: Final = 74
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: whoever read the output has gone."""


class Usage(HeadraceError):
    """The command was given something that it cannot take."""


class AppBroken(HeadraceError):
    """The app was found, and importing it failed."""


class LogNotFound(HeadraceError):
    """There is no log at the path."""


class BadInput(HeadraceError):
    """A line cannot be taken in.  What was before it is."""


class HoldNotFound(HeadraceError):
    """The log has no hold of that name."""


class RecordNotFound(HeadraceError):
    """The log has no record at that sequence."""


class SnapshotMissing(HeadraceError):
    """There is no snapshot that the log could be started from without its oldest records."""


class RecordUnreadable(HeadraceError):
    """A record is whole, and still means nothing."""


_CODES: Final[tuple[tuple[type[HeadraceError], int], ...]] = (
    (Usage, USAGE),
    (AppNotFound, NOT_FOUND),
    (LogNotFound, NOT_FOUND),
    (RunNotFound, NOT_FOUND),
    (RuleNotFound, NOT_FOUND),
    (HoldNotFound, NOT_FOUND),
    (RecordNotFound, NOT_FOUND),
    (SegmentGone, NOT_FOUND),
    (EngineUnreachable, UNREACHABLE),
    (LogCorrupt, CORRUPT),
    (BlobUnusable, CORRUPT),
    (RecordUnreadable, CORRUPT),
    (DurabilityLost, DURABILITY_LOST),
)


def code_of(error: HeadraceError) -> int:
    """Return the exit code of a command that *error* ended."""
    from headrace.connectors.jsonl import SourceMissing

    if isinstance(error, SourceMissing):
        return NOT_FOUND
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILURE)
