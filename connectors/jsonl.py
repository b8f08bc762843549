"""JSON lines: events from a file that can be resumed, or from a pipe that cannot.

One event a line: ``{"subject": "a.b", "data": …}`` with optional ``time`` (RFC 3339, or
seconds since the epoch), ``id`` and ``key``.  Blank lines are skipped.

A file is a source with a name of its own (where it is, and a digest of its first line), and
the position of an event is the byte after its line.  Both are stored with the event, so
whoever was killed goes on behind the last line that is stored.  A last line without a
newline counts once the end of the file is reached; if it was only half written it is a bad
line, and stored once it is whole.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread
from msgspec import Struct

from headrace.connectors.intake import store
from headrace.engine.clock import NS, seconds_to_ns
from headrace.engine.emission import Emission
from headrace.engine.engine import Engine
from headrace.engine.errors import EventRefused, HeadraceError
from headrace.engine.payload import check_labels, encode_event
from headrace.engine.subject import check_emit

READ_BYTES: Final = 256 * 1024
"""What is asked of the file at once; the events in it are stored as one group."""
LINE_BYTES_MAX: Final = 4 * 1024 * 1024
FOUND_CHARS_MAX: Final = 80
TIME_NS_MAX: Final = 2**63 - 1
STDIN: Final = "-"

_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-])(\d\d):(\d\d))"
)
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (the offset is taken off by hand)
_BOM: Final = b"\xef\xbb\xbf"


class BadLine(HeadraceError):
    """A line that is no event.  The events of the lines before it are intact."""

    def __init__(self, path: str, line: int, *, expected: str, found: str) -> None:
        """Name the place (*line* from 1), what belongs there and what is there."""
        super().__init__(
            f"{path}:{line}: expected {expected}, found {found}; "
            f"correct the line, or skip such lines (--skip-bad-lines)"
        )
        self.path = path
        self.line = line
        self.expected = expected
        self.found = found


class SourceUnusable(HeadraceError):
    """The file cannot be read, or is not what it was when its cursor was stored."""


class SourceMissing(SourceUnusable):
    """There is no such file."""


class Line(Struct, forbid_unknown_fields=True):
    """What a line may hold."""

    subject: str
    data: object = None
    time: str | float | int | None = None
    id: str | None = None
    key: str | None = None


class _Refused(Exception):
    """A line is bad; why, as (expected, found)."""


_decode: Final = msgspec.json.Decoder(Line).decode
_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class JsonLines:
    """The events of one file, in batches.  Blocks: for a worker thread.

    *on_bad* takes the bad lines, which are then skipped; without it the first one is
    raised, once the events before it have been handed out.
    """

    def __init__(
        self, path: str | Path, *, on_bad: Callable[[BadLine], None] | None = None
    ) -> None:
        """Name the file; ``-`` is standard input.  Nothing is opened yet."""
        self.path = str(path)
        self.name = ""
        """What the log knows it by: the source of its events."""
        self.size_bytes = 0
        """Of a file, when it was opened; 0: unknown."""
        self.position = 0
        """The byte after the last line that was handed out."""
        self.lines = 0
        """How many lines were read, blank ones included, since the start or `resume`."""
        self.bad_lines = 0
        self.resumable = False
        """Whether it has a cursor: it is a file, not a pipe."""
        self._on_bad = on_bad
        self._wants_time = False
        self._fd = -1
        self._rest = b""
        self._start = 0
        self._overlong = False
        self._at_end = False
        self._failure: BadLine | None = None

    # ------------------------------------------------------------ open

    def open(self) -> None:
        """Open the file and find out its name.

        Raises:
            SourceMissing: there is no such file.
            SourceUnusable: it cannot be read.
        """
        if self.path == STDIN:
            self._fd, self.name = 0, "stdin"
            return
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
            status = os.fstat(self._fd)
            if stat.S_ISDIR(status.st_mode):
                raise SourceUnusable(f"{self.path}: expected a file of JSON lines, found a folder")
            self.resumable = stat.S_ISREG(status.st_mode)
            self.size_bytes = status.st_size if self.resumable else 0
            self.name = self._identity()
        except FileNotFoundError as error:
            raise SourceMissing(
                f"{self.path}: expected a file of JSON lines, found nothing there; check the path"
            ) from error
        except OSError as error:
            raise self._unreadable(error) from error

    def _identity(self) -> str:
        resolved = Path(self.path).resolve()
        if not self.resumable:
            return f"pipe:{resolved.name[:64]}"
        # Without its newline: a first line that was complete before it was ended stays the same.
        first = os.pread(self._fd, LINE_BYTES_MAX, 0).partition(b"\n")[0].removesuffix(b"\r")
        digest = blake2b(os.fsencode(resolved) + b"\0" + first, digest_size=8).hexdigest()
        return f"file:{resolved.name[:64]}:{digest}"

    def _unreadable(self, error: OSError) -> SourceUnusable:
        return SourceUnusable(
            f"{self.path}: expected a file that can be read, found: {error.strerror or error}; "
            f"check its mode and its owner"
        )

    def resume(self, cursor: int | None, *, wants_time: bool = False) -> None:
        """Go on at *cursor*, the position of the last event that is stored.

        *wants_time* refuses lines without a time until one had it: a log that goes by its
        events' times cannot begin without one.

        Raises:
            SourceUnusable: the file has changed before that place.
        """
        self._wants_time = wants_time
        if not cursor or not self.resumable:
            return
        if cursor > self.size_bytes:
            raise self._changed(f"at least the {cursor} bytes", f"{self.size_bytes} bytes")
        around = os.pread(self._fd, 2, cursor - 1)
        if around[:1] != b"\n" and around[1:] not in (b"", b"\n", b"\r"):
            raise self._changed(f"a line that ends at byte {cursor}", "one that goes on")
        self._start = self.position = cursor
        os.lseek(self._fd, cursor, os.SEEK_SET)

    def _changed(self, expected: str, found: str) -> SourceUnusable:
        return SourceUnusable(
            f"{self.path}: expected {expected} that the log has stored events of, found {found}: "
            f"the file was cut or rewritten; put the old one back, or give the new one another name"
        )

    def close(self) -> None:
        """Give the file back; standard input stays open."""
        if self._fd > 0:
            os.close(self._fd)
        self._fd = -1

    # ------------------------------------------------------------ read

    def read(self) -> list[Emission]:
        """Return the events of the next lines, or nothing at the end.

        Raises:
            BadLine: the next line is bad and there is nobody to take it.
            SourceUnusable: the file cannot be read on.
        """
        events: list[Emission] = []
        while not events:
            if self._failure is not None:
                raise self._failure
            if self._at_end:
                return []
            self._take(events)
        return events

    def _take(self, events: list[Emission]) -> None:
        """Read once and add the events of all lines that are whole then."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except OSError as error:
            raise self._unreadable(error) from error
        *whole, rest = (self._rest + data).split(b"\n")
        if not data:
            self._at_end = True
            if rest or self._overlong:
                self._take_line(rest, self.position + len(rest), events)
            return
        self._rest = rest
        for line in whole:
            if self._failure is not None:
                return
            self._take_line(line, self.position + len(line) + 1, events)
        if len(rest) > LINE_BYTES_MAX:
            # Only its length is kept, however long it goes on.
            self._overlong = True
            self.position += len(rest)
            self._rest = b""

    def _take_line(self, line: bytes, end: int, events: list[Emission]) -> None:
        if self.position == 0:
            line = line.removeprefix(_BOM)
        begin, self.position = self.position, end
        self.lines += 1
        try:
            self._check_length(line)
            if line and not line.isspace():
                events.append(self._event(line, end))
        except _Refused as refused:
            expected, found = refused.args
            bad = BadLine(self.path, self._number(), expected=expected, found=found)
            self.bad_lines += 1
            if self._on_bad is None:
                self._failure = bad
                self.position = begin
            else:
                self._on_bad(bad)

    def _check_length(self, line: bytes) -> None:
        overlong, self._overlong = self._overlong, False
        if overlong or len(line) > LINE_BYTES_MAX:
            raise _Refused(f"at most {LINE_BYTES_MAX} bytes", "a longer line")

    def _number(self) -> int:
        """Return the number of the line that was just read, from 1."""
        before, at = 0, 0
        while at < self._start:
            block = os.pread(self._fd, min(READ_BYTES, self._start - at), at)
            if not block:
                break
            before += block.count(b"\n")
            at += len(block)
        return before + self.lines

    def _event(self, line: bytes, end: int) -> Emission:
        parsed = _parsed(line)
        time_ns = None if parsed.time is None else _time_ns(parsed.time)
        if time_ns is None and self._wants_time:
            raise _Refused('"time" in the first event, since log time comes from it', "none")
        try:
            check_emit(parsed.subject)
            check_labels(parsed.subject, parsed.id, self.name, parsed.key)
            data = encode_event(parsed.data, parsed.subject)
        except (ValueError, EventRefused) as error:
            raise _Refused("an event that can be stored", str(error)) from None
        self._wants_time = False
        return Emission(
            parsed.subject,
            data,
            parsed.id,
            self.name,
            end if self.resumable else None,
            key=parsed.key,
            time_ns=time_ns,
        )


async def feed(
    engine: Engine,
    sources: Sequence[JsonLines],
    *,
    on_stored: Callable[[Sequence[int], int], None] = lambda _sequences, _before: None,
) -> None:
    """Emit the events of *sources*, opened and resumed, until all of them have ended.

    Several are merged by the times of their next events (one without a time goes at once),
    so the order depends only on what is left of them and is the same again after a crash.
    *on_stored* is told the sequences of each group and the last one before it: an event
    whose sequence is not higher than that was stored before, under the same id.
    While the disk is full it waits for room.  If cancelled, each cursor is behind what is
    stored of its source.

    Raises:
        BadLine, SourceUnusable: the events before the place are stored.
        Whatever `Engine.emit_many` raises, but `LogFull` only once the engine closes.
    """
    waiting: list[tuple[JsonLines, list[Emission]]] = [(source, []) for source in sources]
    while waiting:
        for source, events in list(waiting):
            if not events:
                # Who waits for a pipe can be cancelled; the thread is left to the pipe.
                abandon = not source.resumable
                batch = await to_thread.run_sync(source.read, abandon_on_cancel=abandon)
                events.extend(reversed(batch))
                if not events:
                    waiting.remove((source, events))
        group = _merged([events for _, events in waiting])
        while group:
            before = engine.kernel.sequence
            stored = await store(engine, group)
            on_stored(stored, before)
            del group[: len(stored)]


def _merged(queues: list[list[Emission]]) -> list[Emission]:
    """Take events, each time the earliest, until one of *queues* (next one last) is empty."""
    group: list[Emission] = []
    while queues and all(queues):
        earliest = min(queues, key=_next_time_ns)
        group.append(earliest.pop())
    return group


def _next_time_ns(events: list[Emission]) -> int:
    time_ns = events[-1].time_ns
    return -1 if time_ns is None else time_ns


def _parsed(line: bytes) -> Line:
    try:
        return _decode(line)
    except _DECODE_ERRORS as error:
        if isinstance(error, msgspec.ValidationError):
            expected = 'an object with "subject", "data" and perhaps "time", "id", "key"'
            raise _Refused(expected, f"{_shown(line)} ({error})") from None
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _Refused("JSON", f"{_shown(line)} ({reason})") from None


def _time_ns(time: str | float) -> int:
    """Return *time* in nanoseconds since the epoch."""
    if isinstance(time, str):
        found = _TIME.fullmatch(time)
        try:
            at_ns = -1 if found is None else _rfc3339_ns(found)
        except ValueError as error:
            raise _Refused("a time that exists", f"{_shown(time)} ({error})") from None
        if found is None:
            raise _Refused("a time such as 2026-03-01T08:00:00Z or with +01:00", _shown(time))
    else:
        at_ns = seconds_to_ns(time)
    if not 0 <= at_ns <= TIME_NS_MAX:
        hint = " (milliseconds?)" if at_ns > 0 else ""
        raise _Refused("a time from 1970 to 2262, as text or seconds", f"{_shown(time)}{hint}")
    return at_ns


def rfc3339_ns(text: str) -> int:
    """Return the time that *text* says, in nanoseconds since the epoch.

    Raises:
        ValueError: it says none, as RFC 3339 has it.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(
            f"expected a time such as 2026-03-01T08:00:00Z or with +01:00, found {_shown(text)}"
        )
    return _rfc3339_ns(found)


def _rfc3339_ns(found: re.Match[str]) -> int:
    day, clock, fraction, _, sign, hours, minutes = found.groups()
    leap = clock.endswith(":60")
    # POSIX time has no leap seconds: :60 is the next minute's :00.
    moment = datetime.fromisoformat(f"{day}T{clock[:-2]}59" if leap else f"{day}T{clock}")
    if sign is not None:
        # `timezone` refuses what is no offset, e.g. +25:00.
        offset = timezone(timedelta(hours=int(hours), minutes=int(minutes))).utcoffset(None)
        moment += -offset if sign == "+" else offset
    since = moment - _EPOCH
    seconds = since.days * 86_400 + since.seconds + leap
    return seconds * NS + int((fraction or "0").ljust(9, "0"))


def _shown(value: bytes | str | float) -> str:
    """Return the beginning of *value* as a person can read it on one line."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip()
    cut = text[:FOUND_CHARS_MAX]
    return ascii(cut) if not cut.isprintable() else cut + ("…" if len(text) > len(cut) else "")
