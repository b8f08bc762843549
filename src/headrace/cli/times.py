"""Places in a log as people name them: a sequence, a time, or so long ago."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from headrace.cli.errors import RecordNotFound, Usage
from headrace.cli.text import NS, rfc3339_exact, safe

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

_AGO: Final = re.compile(r"-(\d{1,9})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DIGITS_MAX: Final = 20
"""No sequence and no number of a run has more."""


def number_of(text: str) -> int | None:
    """Return the number that *text* says in digits, cut if nothing has so many; or ``None``."""
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text.lstrip("0")[:_DIGITS_MAX] or 0)


def time_ns(text: str) -> int:
    """Return the time that *text* says, in nanoseconds since the epoch.

    Raises:
        ValueError: it says none.
    """
    from headrace.connectors.jsonl import _TIME, _rfc3339_ns

    ago = _AGO.fullmatch(text)
    if ago is not None:
        # Not before the epoch: no log is so old, and not every such time can be written down.
        return max(0, time.time_ns() - int(ago[1]) * _SECONDS[ago[2]] * NS)
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time")
    return _rfc3339_ns(found)


def sequence_from(reader: LogReader, place: str, option: str) -> int:
    """Return the first record from *place* on, which is a sequence, a time, or so long ago.

    Raises:
        Usage: it is none of these.
    """
    number = number_of(place)
    return reader.sequence_at(_place_ns(place, option)) if number is None else number


def sequence_upto(reader: LogReader, place: str, option: str) -> int:
    """Return the last record up to *place*, which is a sequence, a time, or so long ago.

    Raises:
        Usage: it is none of these.
        RecordNotFound: the log has nothing from so early.
    """
    number = number_of(place)
    if number is not None:
        return number
    at_ns = _place_ns(place, option)
    sequence = reader.sequence_at(at_ns + 1) - 1
    if sequence < reader.first_sequence:
        raise RecordNotFound(
            f"{option} {safe(place)!r}: expected a time within the log, found that its first "
            f"record is later than {rfc3339_exact(at_ns)}; `headrace log info` says when it begins"
        )
    return sequence


def _place_ns(place: str, option: str) -> int:
    try:
        return time_ns(place)
    except ValueError:
        raise Usage(
            f"{option} {safe(place)!r}: expected a sequence, a time such as 2026-03-01T08:00:00Z, "
            "or so long ago as -15m; found none of these"
        ) from None
