"""`Emission`: one event as it is handed in, and what is refused before anything is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Raw, Struct
from msgspec.structs import replace

from headrace.engine.clock import seconds_to_ns
from headrace.engine.headers import checked_headers
from headrace.engine.payload import LABELS_CHARS_MAX, check_labels, check_numbers, encode_event
from headrace.engine.subject import check_emit, check_subject

TIME_S_MAX: Final = 9e9
"""The year 2255: later times do not fit into 63 bits of nanoseconds."""


class Emission(Struct, frozen=True):
    """One event for `Engine.emit_many`, with all that `Engine.emit` takes."""

    subject: str
    data: Any = None
    id: str | None = None
    source: str = ""
    position: int | None = None
    time: float | None = None
    """The event's own time in seconds since the epoch."""
    key: str | None = None
    time_ns: int | None = None
    """The same in nanoseconds, if it is known that exactly; wins over `time`."""
    headers: Mapping[str, str] | None = None
    """What goes with it beside its data: at most 64 names and values, 16 KiB in all."""


Checked = tuple[str, Raw, Emission | None]


def checked(event: Emission | tuple[str, Any]) -> Checked:
    """Refuse what cannot be stored, before anything is; encode the data.

    From here on it does not matter what the caller does with the object.
    """
    if isinstance(event, Emission):
        check_emit(event.subject)
        check_labels(event.subject, event.id, event.source, event.key)
        check_numbers(event.subject, event.position, time_ns_of(event))
        payload = encode_event(event.data, event.subject)
        if event.headers is not None:
            event = replace(event, headers=checked_headers(event.headers, event.subject, payload))
        return event.subject, payload, event
    try:
        subject, data = event
    except (TypeError, ValueError):
        raise TypeError(
            f"emit_many: expected (subject, data) or an Emission, found {event!r:.80}"
        ) from None
    check_emit(subject)
    if len(subject) > LABELS_CHARS_MAX or not subject.isascii():
        check_labels(subject)
    return subject, encode_event(data, subject), None


def checked_all(events: Iterable[Emission | tuple[str, Any]]) -> list[Checked]:
    """Return `checked` of each of *events*: written out for those that are only a pair."""
    found: list[Checked] = []
    known: str | None = None  # most come in runs of one subject
    for event in events:
        if type(event) is not tuple or len(event) != 2:
            found.append(checked(event))
            continue
        subject, data = event
        if subject is not known:
            check_emit(subject)
            if not subject.isascii():
                check_labels(subject)
            known = subject
        found.append((subject, encode_event(data, subject), None))
    return found


def checked_past(event: Emission) -> tuple[Raw, Mapping[str, str] | None]:
    """Refuse an event of the past that cannot be stored; return its data, encoded, and headers.

    As `checked`, but that runs of the past may have had events of their own.
    """
    if event.subject.startswith("run."):
        check_subject(event.subject)
        check_labels(event.subject, event.id, event.source, event.key)
        check_numbers(event.subject, event.position, time_ns_of(event))
        payload = encode_event(event.data, event.subject)
        if event.headers is None:
            return payload, None
        return payload, checked_headers(event.headers, event.subject, payload)
    _, payload, full = checked(event)
    return payload, None if full is None else full.headers


def time_ns_of(event: Emission) -> int | None:
    """Return the event's own time in nanoseconds, or ``None``."""
    if event.time_ns is not None:
        return event.time_ns
    if event.time is None:
        return None
    if isinstance(event.time, bool) or not isinstance(event.time, int | float):
        raise TypeError(
            f"event {event.subject!r}, time: expected seconds since the epoch as a number, "
            f"found {event.time!r}"
        )
    if not 0 <= event.time < TIME_S_MAX:
        raise ValueError(
            f"event {event.subject!r}, time: expected 0 to {TIME_S_MAX:.0f} seconds since the "
            f"epoch, found {event.time!r}"
        )
    return seconds_to_ns(event.time)
