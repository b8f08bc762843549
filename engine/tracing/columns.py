"""A report as columns of numbers, and one table of the strings that they name: small as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from headrace.engine import record as r
from headrace.engine.log import LogReader
from headrace.engine.tracing.links import Decode, plain
from headrace.engine.tracing.report import Point, Report
from headrace.engine.tracing.spans import Span

TEXT_CHARS_MAX: Final = 120
ERROR_CHARS_MAX: Final = 400
FETCH: Final = 2000
"""Events that are fetched at once."""

_US: Final = 1000
_encode = msgspec.json.Encoder(enc_hook=repr).encode


class Strings:
    """Each string once, by its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str, chars_max: int = TEXT_CHARS_MAX) -> int:
        """Return the number of *text*, cut if it is too long."""
        cut = text if len(text) <= chars_max else f"{text[:chars_max]}…"
        return self._numbers.setdefault(cut, len(self._numbers))

    def any(self, value: Any) -> int:
        """Return the number of any plain data as text; -1 for none."""
        return -1 if value is None else self.number(text_of(value))

    def all(self) -> list[str]:
        """Return all in order."""
        # Half a character cannot be in JSON.
        return [text.encode("utf-8", "backslashreplace").decode() for text in self._numbers]


def text_of(value: Any) -> str:
    """Return plain data as text: JSON where that can be."""
    if isinstance(value, str):
        return value
    try:
        return _encode(value).decode("utf-8", "backslashreplace")
    except (TypeError, ValueError, msgspec.MsgspecError):
        return repr(value)  # such as a map with keys that JSON does not know


def columns_of(report: Report, reader: LogReader, decode: Decode) -> dict[str, Any]:
    """Return *report* as columns; times are in µs from its beginning on."""
    strings = Strings()
    spans = sorted(report.families.spans.by_run.values(), key=lambda span: span.run)
    # Runs that are older than the stretch begin before it.
    base_ns = min([report.begin_ns, *(span.created_ns for span in spans)])

    def us(at_ns: int) -> int:
        return (at_ns - base_ns) // _US if at_ns else -1

    heat = report.heat
    places = sorted(heat.events.keys() | heat.failures.keys())
    return {
        "base_ms": base_ns / 1e6,
        "end": us(report.end_ns),
        "runs": _run_columns(spans, strings, us),
        "segments": _segment_columns(spans, strings, us),
        "events": _event_columns(spans, reader, decode, strings, us),
        "points": _point_columns(report.points.points, strings, us),
        "marks": _point_columns(report.marks.points, strings, us),
        "heat": {
            "width": heat.width_ns / _US,
            "at": [(place * heat.width_ns - base_ns) // _US for place in places],
            "events": [heat.events.get(place, 0) for place in places],
            "failures": [heat.failures.get(place, 0) for place in places],
        },
        "strings": strings.all(),
    }


Us = Callable[[int], int]


def _columns(names: tuple[str, ...], rows: Iterable[tuple[int, ...]]) -> dict[str, list[int]]:
    columns: list[list[int]] = [[] for _ in names]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return dict(zip(names, columns, strict=True))


def _run_columns(spans: list[Span], strings: Strings, us: Us) -> dict[str, list[int]]:
    names = (
        "run", "name", "kind", "key", "parent", "event", "begin", "end", "status", "attempt",
        "error", "args",
    )  # fmt: skip
    return _columns(
        names,
        (
            (
                span.run,
                strings.number(span.name),
                strings.number(span.kind),
                strings.any(span.key),
                span.parent,
                span.events[-1] if span.events else 0,
                us(span.created_ns),
                us(span.ended_ns),
                strings.number(span.status),
                span.attempt,
                -1 if span.error is None else strings.number(span.error, ERROR_CHARS_MAX),
                strings.any(plain(span.args)),
            )
            for span in spans
        ),
    )


def _segment_columns(spans: list[Span], strings: Strings, us: Us) -> dict[str, list[int]]:
    """Waits and failed attempts, by the place of their run among the runs."""

    def rows() -> Iterable[tuple[int, ...]]:
        for place, span in enumerate(spans):
            for wait in span.waits:
                name = strings.number(f"{wait.kind} {wait.name}".rstrip())
                kind = strings.number(wait.kind)
                yield place, kind, us(wait.begin_ns), us(wait.end_ns), name
            for failure in span.failures:
                error = strings.number(failure.error, ERROR_CHARS_MAX)
                kind = strings.number("failed")
                yield place, kind, us(failure.began_ns), us(failure.at_ns), error

    return _columns(("row", "kind", "begin", "end", "text"), rows())


def _event_columns(
    spans: list[Span], reader: LogReader, decode: Decode, strings: Strings, us: Us
) -> dict[str, list[int]]:
    """The events that met the rules of these runs, and those that they emitted."""
    wanted = sorted(
        {event for span in spans for event in span.events}
        | {event for span in spans for event, _ in span.emitted}
    )

    def rows() -> Iterable[tuple[int, ...]]:
        for start in range(0, len(wanted), FETCH):
            found = reader.fetch(wanted[start : start + FETCH])
            for sequence, raw in sorted(found.items()):
                event = decode(sequence, raw)
                if isinstance(event, r.EventStored):
                    subject, data = strings.number(event.subject), strings.any(plain(event.data))
                    yield sequence, us(event.at_ns), subject, data, event.run

    columns = _columns(("sequence", "at", "subject", "data", "run"), rows())
    # Which events met the rule of which run, as pairs: a firing may need several.
    pairs = [(event, span.run) for span in spans for event in span.events]
    columns["met"] = [event for event, _ in pairs]
    columns["met_run"] = [run for _, run in pairs]
    return columns


def _point_columns(points: list[Point], strings: Strings, us: Us) -> dict[str, list[int]]:
    return _columns(
        ("sequence", "at", "kind", "name", "text"),
        (
            (
                point.sequence,
                us(point.at_ns),
                strings.number(point.kind),
                strings.number(point.name),
                strings.number(point.text, ERROR_CHARS_MAX),
            )
            for point in points
        ),
    )
