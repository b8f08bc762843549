"""Places in a log as people name them: a sequence, a time, or so long ago."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from headrace.cli.errors import RecordNotFound, Usage
from headrace.cli.text import NS, rfc3339, safe

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

_AGO: Final = re.compile(r"-(\d{1,9})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def time_ns(text: str) -> int:
    """Return the time that *text* says, in nanoseconds since the epoch.

    Raises:
        ValueError: it says none.
    """
    from headrace.connectors.jsonl import _TIME, _rfc3339_ns

    ago = _AGO.fullmatch(text)
    if ago is not None:
        return time.time_ns() - int(ago[1]) * _SECONDS[ago[2]] * NS
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time")
    return _rfc3339_ns(found)


def sequence_upto(reader: LogReader, place: str, option: str) -> int:
    """Return the last record up to *place*, which is a sequence, a time, or so long ago.

    Raises:
        Usage: it is none of these.
        RecordNotFound: the log has nothing from so early.
    """
    if place.isascii() and place.isdigit():
        return int(place)
    try:
        at_ns = time_ns(place)
    except ValueError:
        raise Usage(
            f"{option} {safe(place)!r}: expected a sequence, a time such as 2026-03-01T08:00:00Z, "
            "or so long ago as -15m; found none of these"
        ) from None
    sequence = reader.sequence_at(at_ns + 1) - 1
    if sequence < reader.first_sequence:
        raise RecordNotFound(
            f"{option} {safe(place)!r}: expected a time within the log, found that its first "
            f"record is later than {rfc3339(at_ns)}; `headrace log info` says when it begins"
        )
    return sequence
