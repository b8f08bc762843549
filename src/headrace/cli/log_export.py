"""``headrace log export``: what is in a log as text, for other programs and for `log import`."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from headrace.cli.cloudevents import Exported, plain_data, to_cloudevent
from headrace.cli.errors import CORRUPT, OK, Usage
from headrace.cli.log import selection
from headrace.cli.logs import decoded, opened
from headrace.cli.records import View
from headrace.cli.text import rfc3339, rfc3339_exact, safe, to_json
from headrace.engine import record as r
from headrace.engine.errors import BlobUnusable

if TYPE_CHECKING:
    from headrace.cli.log import Selection
    from headrace.engine.log import LogReader

Format = Literal["jsonl", "cloudevents"]
Kinds = Literal["events", "all"]
STDOUT: Final = "-"
HEADER: Final = "log"
"""The kind of the first line of an export of all records …"""
FOOTER: Final = "end"
"""… and of the last."""
PART: Final = "part"
"""The kind of a line with a part of a large result, before the record that names it."""
PART_BYTES: Final = 1024 * 1024
FETCH_COUNT: Final = 1000
"""Offers that are read at once: to look for each alone takes a hundred times as long."""


def export(
    log: Path,
    file: str,
    *,
    form: Format,
    kinds: Kinds,
    subject: str | None,
    after: int,
    until: str | None,
) -> int:
    """Write the events or all records of a log to *file*.

    A large result that is missing or damaged is said, and left out.

    Raises:
        Usage: the arguments contradict each other, or *file* is there already.
    """
    if kinds == "all" and (form != "jsonl" or subject is not None):
        raise Usage(
            "log export: expected all records as jsonl and without --subject, found other "
            "options; take --kinds events for those"
        )
    wanted = selection((), subject)
    with opened(log) as reader:
        upto = _upto(reader, until)
        rows = _Rows(reader, after, upto)
        with _target(file) as stream:
            lines = rows.of_all() if kinds == "all" else rows.of_events(wanted, form)
            for row in lines:
                stream.write(to_json(row) + "\n")
    if file != STDOUT:
        sys.stderr.write(f"headrace: {rows.count} {kinds_word(kinds)} in {safe(file)}\n")
    return CORRUPT if rows.results_lost else OK


def kinds_word(kinds: Kinds) -> str:
    """Return what is counted, as people say it."""
    return "records" if kinds == "all" else "events"


def _upto(reader: LogReader, until: str | None) -> int:
    from headrace.cli.times import sequence_upto

    last = reader.refresh()
    return last if until is None else min(last, sequence_upto(reader, until, "--until"))


@contextmanager
def _target(file: str) -> Generator[TextIO]:
    """Give what to write to; a file appears under its name once it is whole."""
    if file == STDOUT:
        yield sys.stdout
        return
    path, partial = Path(file), Path(f"{file}.part")
    if path.exists():
        raise Usage(
            f"{safe(file)}: expected a new file, found one; remove it, or choose another name"
        )
    try:
        with partial.open("w", encoding="utf-8") as stream:
            yield stream
        partial.rename(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or file
        raise


class _Rows:
    """The lines of an export."""

    def __init__(self, reader: LogReader, after: int, upto: int) -> None:
        self._reader = reader
        # 0 is the beginning, wherever that is; else nothing is passed over.
        self._after = after or reader.first_sequence - 1
        self._upto = upto
        self._view = View(reader)
        self._log_id = reader.log_id.hex()
        self.count = 0
        self.results_lost = 0

    def of_all(self) -> Iterator[dict[str, Any]]:
        """Yield every record, as people see it and as it is stored, between two more lines."""
        yield {
            "kind": HEADER,
            "export": 1,
            "log_id": self._log_id,
            "first_sequence": self._after + 1,
        }
        for first, batch in self._reader.read(after=self._after, upto=self._upto):
            rows = self._view.rows([(first, batch)])
            for (sequence, record, at_ns), raw in zip(rows, batch, strict=True):
                row = self._view.row_of(sequence, record, at_ns)
                if isinstance(record, r.RunCompleted) and record.blob is not None:
                    yield from self._blob(sequence, record.blob)
                yield {**row, "record": b64encode(raw).decode()}
                self.count += 1
        yield {"kind": FOOTER, "records": self.count}

    def _blob(self, sequence: int, digest: bytes) -> Iterator[dict[str, Any]]:
        """Yield the large result that the next record names, in parts."""
        try:
            data = self._reader.blobs.get(digest)
        except BlobUnusable as error:
            self.results_lost += 1
            sys.stderr.write(
                f"headrace: record {sequence} without its result: {safe(str(error))}\n"
            )
            return
        for start in range(0, len(data), PART_BYTES):
            part = data[start : start + PART_BYTES]
            yield {"kind": PART, "part": b64encode(part).decode()}

    def of_events(self, wanted: Selection, form: Format) -> Iterator[dict[str, Any]]:
        """Yield the events, and at the end those that were offered and not stored yet."""
        offered: dict[int, int | None] = {}
        batches = self._reader.read(after=self._after, upto=self._upto)
        for sequence, record, at_ns in self._view.rows(batches):
            if type(record) is r.EventOffered:
                offered[sequence] = at_ns
            elif type(record) is r.EventStored:
                offered.pop(record.offer, None)
                if wanted(record):
                    yield self._event(sequence, record, at_ns, form)
        left = iter(offered)
        while sequences := list(islice(left, FETCH_COUNT)):
            for sequence, raw in self._reader.fetch(sequences).items():
                record = decoded(self._reader, sequence, raw)
                assert isinstance(record, r.EventOffered), record
                if wanted(record):
                    yield self._event(sequence, record, offered[sequence], form)

    def _event(
        self,
        sequence: int,
        event: r.EventStored | r.EventOffered,
        at_ns: int | None,
        form: Format,
    ) -> dict[str, Any]:
        self.count += 1
        source = event.source
        # An event that was offered has one name, before it was stored and after.
        offer = event.offer if isinstance(event, r.EventStored) else 0
        made = Exported(
            sequence,
            at_ns,
            event.subject,
            event.data,
            source if isinstance(source, str) else self._view.source(source),
            event.id or f"{self._log_id}/{offer or sequence}",
            event.time_ns,
            event.key,
            event.run if isinstance(event, r.EventStored) else 0,
            event.headers,
        )
        return to_cloudevent(made, self._log_id) if form == "cloudevents" else _line(made)


def _line(event: Exported) -> dict[str, Any]:
    value, is_exact = plain_data(event.data)
    row: dict[str, Any] = {
        "sequence": event.sequence,
        "kind": "event",
        "recorded_at": rfc3339(event.recorded_at_ns),
        "subject": event.subject,
        "data": value,
        "data_msgpack": None if is_exact else b64encode(event.data).decode(),
        "source": event.source or None,
        "id": event.id,
        "time": rfc3339_exact(event.time_ns),
        "key": event.key,
        "run": event.run or None,
        "headers": event.headers,
    }
    return {name: value for name, value in row.items() if value is not None or name == "data"}
