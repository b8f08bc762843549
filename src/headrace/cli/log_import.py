"""``headrace log import``: events, or a whole log, from what `log export` or others wrote."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import msgspec
from msgspec import Raw, Struct

from headrace.cli.door import Door, door
from headrace.cli.errors import CORRUPT, OK, BadInput, Usage
from headrace.cli.log_export import FOOTER, HEADER, PART, STDOUT
from headrace.cli.output import Output, facts, write_document
from headrace.cli.text import safe
from headrace.connectors import cloudevents as ce
from headrace.engine import record as r
from headrace.engine.errors import EventRefused
from headrace.engine.subject import is_reserved

if TYPE_CHECKING:
    from headrace.engine.emission import Emission

Format = Literal["auto", "jsonl", "cloudevents"]

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
ARRAY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a batch of CloudEvents, which is one JSON array: it is read whole."""
BATCH: Final = 1000
FOUND_CHARS_MAX: Final = 80
_LOG_ID: Final = re.compile("[0-9a-f]{32}")
_BOM: Final = b"\xef\xbb\xbf"
_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Line(Struct, forbid_unknown_fields=True):
    """What a line of JSON lines may hold; what is not the event's own is passed over."""

    subject: str
    data: object = None
    data_msgpack: str | None = None
    """The data as msgpack in base64, if JSON cannot say it."""
    source: str | None = None
    id: str | None = None
    time: str | float | int | None = None
    key: str | None = None
    run: int | None = None
    sequence: int | None = None
    kind: str | None = None
    recorded_at: str | None = None
    position: int | None = None
    headers: dict[str, str] | None = None


class _Bad(Exception):
    """A line is no event: what was expected, what was found, and from which column."""

    def __init__(self, expected: str, found: str, column: int = 1) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found
        self.column = column


class Counts(Struct):
    """What became of the lines."""

    imported: int = 0
    known: int = 0
    """Events that the log has already, by source and id."""
    emitted: int = 0
    """Events that a run emitted: the rules make them again."""
    engines_own: int = 0
    """Events on subjects of the engine: it makes them itself."""
    bad_lines: int = 0
    last_sequence: int | None = None
    results_missing: int = 0
    """Records that name a large result which the export had not."""


# ---------------------------------------------------------------- events


def import_events(
    file: str,
    log: Path,
    output: Output,
    *,
    form: Format,
    with_emitted: bool,
    skip_bad_lines: bool,
) -> int:
    """Put the events of *file* into the log, which is made if there is none.

    Raises:
        BadInput: a line is bad; the message says which, and how far it came.
    """
    counts = Counts()
    name = _name_of(file)
    parser = _Parser(form, counts, with_emitted=with_emitted)
    with _opened(file) as stream, door(log, create=True) as way:
        taking = _Taking(way, counts, _ids_in(log))
        for place, body in _bodies(stream, form):
            try:
                event = parser.event_in(body)
                if event is not None:
                    taking.add(event)
            except _Bad as bad:
                counts.bad_lines += 1
                text = (
                    f"{name}:{place}:{bad.column}: expected {bad.expected}, found {safe(bad.found)}"
                )
                if not skip_bad_lines:
                    taking.flush()
                    raise BadInput(
                        f"{text}; {counts.imported} events before it are imported: correct it and "
                        f"repeat (what is there already is passed over), or --skip-bad-lines"
                    ) from bad
                sys.stderr.write(f"headrace: {text}; passed over\n")
        taking.flush()
        online = way.is_online
    if parser.left_out:
        common = parser.left_out.most_common(5)
        names = ", ".join(f"{safe(name)} ({count})" for name, count in common)
        sys.stderr.write(
            f"headrace: attributes that have no place in a log are left out: {names}\n"
        )
    _report(log, output, counts, "stored" if online else "offered")
    return OK


class _Taking:
    """Hands events on in batches, but for those that the log has."""

    def __init__(self, way: Door, counts: Counts, known: set[tuple[str, str]]) -> None:
        self._way = way
        self._counts = counts
        self._known = known
        self._waiting: list[Emission] = []

    def add(self, event: Emission) -> None:
        if event.id is not None:
            if (event.source, event.id) in self._known:
                self._counts.known += 1
                return
            self._known.add((event.source, event.id))
        self._waiting.append(event)
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            sequences = self._way.emit(self._waiting)
            self._counts.imported += len(sequences)
            self._counts.last_sequence = max(sequences)
            self._waiting = []


def _ids_in(log: Path) -> set[tuple[str, str]]:
    """Return the ids of all events that are in the log, stored or offered."""
    from headrace.cli.logs import opened
    from headrace.cli.records import View

    known: set[tuple[str, str]] = set()
    with opened(log) as reader:
        view = View(reader)
        for _, record, _ in view.rows(reader.read()):
            if isinstance(record, r.EventStored) and record.id is not None:
                known.add((view.source(record.source), record.id))
            elif isinstance(record, r.EventOffered) and record.id is not None:
                known.add((record.source, record.id))
    return known


def _name_of(file: str) -> str:
    return "stdin" if file == STDOUT else safe(file)


def _opened(file: str) -> BinaryIO:
    if file == STDOUT:
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except FileNotFoundError as error:
        from headrace.connectors.jsonl import SourceMissing

        raise SourceMissing(
            f"{safe(file)}: expected a file to import, found nothing there; check the path"
        ) from error


def _bodies(stream: BinaryIO, form: Format) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers; the elements, if it is one array, with theirs."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
            if line.lstrip().startswith(b"[") and form != "jsonl":
                yield from _elements(line + stream.read(ARRAY_BYTES_MAX))
                return
        if len(line) > LINE_BYTES_MAX:
            while not line.endswith(b"\n") and (line := stream.readline(LINE_BYTES_MAX)):
                pass
            yield number, b""
        elif not line.isspace():
            yield number, line


def _elements(array: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        elements = msgspec.json.decode(array, type=list[Raw])
    except _DECODE_ERRORS as error:
        found = f"{len(array)} bytes or more" if len(array) > ARRAY_BYTES_MAX else str(error)
        raise BadInput(
            f"expected a JSON array of at most {ARRAY_BYTES_MAX} bytes, found {safe(found)}; "
            f"write one event a line instead; nothing was imported"
        ) from error
    for number, element in enumerate(elements, 1):
        yield number, bytes(element)


class _Parser:
    """Makes events of lines."""

    def __init__(self, form: Format, counts: Counts, *, with_emitted: bool) -> None:
        self._form = form
        self._counts = counts
        self._with_emitted = with_emitted
        self.left_out: Counter[str] = Counter()
        """Attributes that mean nothing here, and how many events had them."""

    def event_in(self, body: bytes) -> Emission | None:
        """Return the event of a line, or ``None`` if it is none to be imported.

        Raises:
            _Bad: it is no event.
        """
        from headrace.engine.emission import checked

        if not body:
            raise _Bad(f"a line of at most {LINE_BYTES_MAX} bytes", "a longer one")
        fields = _decoded(body, dict[str, Raw], "an object with the parts of an event")
        if "record" in fields or "export" in fields:
            raise _Bad("an event", "an export of all records; import it with --recorded")
        form = self._form
        try:
            if form == "cloudevents" or (form == "auto" and "specversion" in fields):
                event, run = _from_cloudevent(body)
                self.left_out.update(fields.keys() - ce.KNOWN)
            else:
                event, run = _from_line(body)
            if is_reserved(event.subject):
                self._counts.engines_own += 1
            elif run and not self._with_emitted:
                self._counts.emitted += 1
            else:
                checked(event)
                return event
        except (ValueError, OverflowError, EventRefused) as error:
            raise _Bad("an event that can be stored", str(error)) from error
        return None


def _from_line(body: bytes) -> tuple[Emission, int]:
    from headrace.engine.clock import seconds_to_ns
    from headrace.engine.emission import Emission

    line = _decoded(body, Line, 'an object with "subject", "data" and perhaps others')
    data = line.data
    if line.data_msgpack is not None:
        data = ce.checked_msgpack(b64decode(line.data_msgpack, validate=True))
    time_ns = _time_ns(line.time) if isinstance(line.time, str) else None
    if isinstance(line.time, int | float):
        time_ns = seconds_to_ns(line.time)
    event = Emission(
        line.subject,
        data,
        line.id,
        line.source or "",
        key=line.key,
        time_ns=time_ns,
        headers=line.headers,
    )
    return event, line.run or 0


def _from_cloudevent(body: bytes) -> tuple[Emission, int]:
    event = _decoded(body, ce.CloudEvent, "a CloudEvent with specversion, id, source and type")
    return ce.emission_of(event), int(event.headracerun is not None)


def _time_ns(text: str) -> int:
    from headrace.connectors.jsonl import rfc3339_ns

    return rfc3339_ns(text)


def _decoded(body: bytes, kind: Any, expected: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except _DECODE_ERRORS as error:
        text = body[:FOUND_CHARS_MAX].decode("utf-8", "replace").strip()
        if isinstance(error, msgspec.ValidationError):
            raise _Bad(expected, f"{text} ({error})") from error
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _Bad("JSON", f"{text} ({reason})", _column_in(reason, body)) from error


def _column_in(reason: str, body: bytes) -> int:
    """Return the column that a message of msgspec names, from 1."""
    if "truncated" in reason:
        return len(body.rstrip()) + 1
    digits = reason.rpartition("(byte ")[2].partition(")")[0]
    return int(digits) + 1 if digits.isdigit() else 1


# ---------------------------------------------------------------- all records


class RecordLine(Struct):
    """A line of an export of all records."""

    kind: str
    sequence: int = 0
    record: str = ""
    log_id: str = ""
    first_sequence: int = 0
    records: int | None = None
    part: str = ""
    """Of a large result, which the next record names."""


def import_recorded(file: str, log: Path, output: Output) -> int:
    """Make a new log with the very records of an export of all: the same log once more.

    A large result that the export had not is said, and the exit code is that of damage.

    Raises:
        Usage: there is something at *log*.
        BadInput: a line is bad or missing; what is complete before it is in the new log.
    """
    from headrace.engine.log import FileLog
    from headrace.engine.offline import OfflineLog

    if log.exists() and (not log.is_dir() or any(log.iterdir())):
        raise Usage(f"{safe(str(log))}: expected a new path, found something there; choose another")
    counts = Counts()
    with _opened(file) as stream:
        lines = _record_lines(file, stream)
        _, header = next(lines, (1, None))
        log_id = _log_id_in(header)
        if header is None or header.first_sequence != 1 or not log_id:
            raise BadInput(
                f"{_name_of(file)}:1:1: expected the first line of an export of all records from "
                f"the first on, found another; `headrace log export --kinds all` writes them"
            )
        with OfflineLog(FileLog(log, new_id=lambda: log_id)) as new:
            for sequence, unit in _units(file, lines, new.log.blobs.put, counts):
                new.append(unit)
                counts.imported = counts.last_sequence = sequence
            new.flush()
    _report(log, output, counts, "restored")
    return CORRUPT if counts.results_missing else OK


def _log_id_in(header: RecordLine | None) -> bytes:
    """Return the id of the log that was exported; nothing: *header* says none."""
    if header is None or header.kind != HEADER or not _LOG_ID.fullmatch(header.log_id):
        return b""
    return bytes.fromhex(header.log_id)


def _record_lines(file: str, stream: BinaryIO) -> Iterator[tuple[int, RecordLine]]:
    for number, body in _bodies(stream, "jsonl"):
        try:
            yield number, _decoded(body, RecordLine, "a line of an export of all records")
        except _Bad as bad:
            raise _stopped(file, number, bad) from bad


def _stopped(file: str, number: int, bad: _Bad) -> BadInput:
    return BadInput(
        f"{_name_of(file)}:{number}:{bad.column}: expected {bad.expected}, found "
        f"{safe(bad.found)}; the new log has what is complete before it: remove it, correct the "
        f"file and repeat"
    )


def _units(
    file: str,
    lines: Iterator[tuple[int, RecordLine]],
    store: Callable[[bytes], bytes],
    counts: Counts,
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the units, each with the sequence of its last record, up to the last line.

    Large results go to *store* before the record that names them.
    """
    from headrace.engine.log.index import begins_unit

    unit: list[bytes] = []
    parts: list[str] = []
    sequence, number = 0, 1
    for number, line in lines:
        if line.kind == FOOTER:
            if line.records != sequence:
                bad = _Bad(f"{line.records} records", f"{sequence}: some are missing")
                raise _stopped(file, number, bad)
            if unit:
                yield sequence, unit
            return
        if line.kind == PART:
            parts.append(line.part)
            continue
        try:
            raw = b64decode(line.record, validate=True)
            record = r.decode(raw)
            if not _store_result(record, parts, store):
                counts.results_missing += 1
                sys.stderr.write(
                    f"headrace: record {line.sequence} without its result: the export has none\n"
                )
        except (ValueError, *_DECODE_ERRORS) as error:
            bad = _Bad("a record in base64", f"{line.record[:FOUND_CHARS_MAX]} ({error})")
            raise _stopped(file, number, bad) from error
        if line.sequence != sequence + 1:
            bad = _Bad(f"record {sequence + 1}", f"record {line.sequence}")
            raise _stopped(file, number, bad)
        if unit and begins_unit(raw):
            yield sequence, unit
            unit = []
        sequence = line.sequence
        unit.append(raw)
    raise _stopped(file, number, _Bad(f"a line of the kind {FOOTER!r}", "the end of the file"))


def _store_result(record: r.Record, parts: list[str], store: Callable[[bytes], bytes]) -> bool:
    """Store the large result that *parts* are, if *record* is the one that names it.

    Returns whether the record has the result that it names, or names none.

    Raises:
        ValueError: it is another's.
    """
    blob = record.blob if isinstance(record, r.RunCompleted) else None
    if not parts:
        return blob is None
    data = b"".join(b64decode(part, validate=True) for part in parts)
    parts.clear()
    if blob is None or store(data) != blob:
        raise ValueError("the large result before it is another's")
    return True


def _report(log: Path, output: Output, counts: Counts, state: str) -> None:
    document = {"log": str(log), "state": state, **msgspec.to_builtins(counts)}
    if state == "offered" and counts.imported:
        sys.stderr.write(
            f"headrace: no engine runs over {safe(str(log))}; the next start stores them\n"
        )
    write_document(
        document,
        output,
        lambda: facts(
            (name.replace("_", " "), value)
            for name, value in document.items()
            if value != 0 or name == "imported"
        ),
    )
