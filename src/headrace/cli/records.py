"""A record as people and programs see it: names instead of numbers, times as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw

from headrace.cli.logs import decoded, plain_raw, time_before
from headrace.cli.text import rfc3339
from headrace.engine import record as r

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

KINDS: Final = tuple(r.KIND_BY_TYPE.values())

_RENAMED: Final = {
    "due_ns": "due",
    "time_ns": "time",
    "retry_at_ns": "retry_at",
    "offered_at_ns": "offered_at",
    # These would hide what every row has under the same name.
    "kind": "step",
    "sequence": "differs_at",
}


class View:
    """Turns the records of one log into rows, in their order."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._sources: dict[int, str] = {}
        self._at_ns: int | None = None

    def rows(
        self, batches: Iterable[tuple[int, list[bytes]]]
    ) -> Iterator[tuple[int, r.Record, int | None]]:
        """Yield ``(sequence, record, log time)``; a decision has the time of its input."""
        for first, batch in batches:
            if self._at_ns is None and first > 1:
                self._at_ns = time_before(self._reader, first)
            for sequence, raw in enumerate(batch, first):
                record = decoded(self._reader, sequence, raw)
                self._at_ns = getattr(record, "at_ns", self._at_ns)
                if type(record) is r.SourceOpened:
                    self._sources[record.number] = record.name
                yield sequence, record, self._at_ns

    def row_of(self, sequence: int, record: r.Record, at_ns: int | None) -> dict[str, Any]:
        """Return what ``log cat`` prints of a record."""
        row: dict[str, Any] = {
            "sequence": sequence,
            "kind": r.KIND_BY_TYPE[type(record)],
            "recorded_at": rfc3339(at_ns),
        }
        if isinstance(record, r.UnknownRecord):
            return {**row, "tag": record.tag}
        for name, default in zip(record.__struct_fields__, _defaults(record), strict=True):
            value = getattr(record, name)
            if name == "at_ns" or value == default:
                continue
            if isinstance(value, Raw):
                value = plain_raw(value)
            elif name == "blob":
                value = value.hex()  # as its file is named
            elif name.endswith("_ns") and name in _RENAMED:
                value = rfc3339(value)
            elif name == "source" and isinstance(value, int):
                value = self.source(value)
            row[_RENAMED.get(name, name)] = value
        return row

    def source(self, number: int) -> str:
        """Return the name of a source; 0: the process itself, which has none."""
        if number and number not in self._sources:
            # It was opened before what is shown: look for it from the beginning.
            for first, batch in self._reader.read():
                for sequence, raw in enumerate(batch, first):
                    record = decoded(self._reader, sequence, raw)
                    if type(record) is r.SourceOpened:
                        self._sources[record.number] = record.name
                if number in self._sources:
                    break
        return self._sources.get(number, str(number)) if number else ""


def _defaults(record: Any) -> list[Any]:
    """Return the default of each field, in order; a field without one equals nothing."""
    defaults = record.__struct_defaults__
    fields = len(record.__struct_fields__)
    return [_NOTHING] * (fields - len(defaults)) + list(defaults)


_NOTHING: Final = object()
