"""Files: `JsonLinesFile` and `CsvFile` follow one that grows, `Directory` takes whole ones.

`connectors/jsonl.py` is for files that are read once, from their beginning to their end.
"""

from __future__ import annotations

import csv
import os
import re
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread
from msgspec import Struct

from headrace.connectors.checks import (
    check_maybe_text,
    check_number,
    check_subject,
    check_text,
)
from headrace.connectors.following import Followed, Waking, is_file, wait
from headrace.connectors.intake import Intake
from headrace.connectors.jsonl import LINE_BYTES_MAX, JsonLines, _Refused, rfc3339_ns
from headrace.connectors.payloads import BadPayload, Payload, read_json, reader
from headrace.connectors.promises import Promise
from headrace.connectors.tokens import token_of
from headrace.engine.emission import Emission

TYPES: Final = ("text", "int", "float", "bool", "json")
FIELD: Final = re.compile(r"\{([^{}]*)\}")
CONTENT_BYTES_MAX: Final = 512 * 1024
"""Of a file that a `Directory` puts into an event."""


class JsonLinesFile(Followed):
    """Follows a file of JSON lines, as `headrace run --from` reads them.

    Promise: exactly once.  The position of an event is the byte behind its line.
    """

    promise: Promise = "exactly once"

    def __init__(self, path: str, *, name: str = "lines", poll_s: float = 0.5) -> None:
        """Name the file, which need not be there yet; look at it every *poll_s* at the latest."""
        super().__init__(path, name=name, poll_s=poll_s)
        self._reads = JsonLines(self._path)
        self._reads.resumable = True

    def begin(self, head: list[bytes]) -> None:
        """Nothing: each line says all."""

    def event(self, line: bytes, end: int, source: str, intake: Intake) -> Emission | None:
        """See `Followed`."""
        if end == len(line) + 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        self._reads.name = source
        try:
            self._reads._check_length(line)
            return self._reads._event(line, end)
        except _Refused as refused:
            expected, found = refused.args
            return intake.refusal(
                line,
                f"expected {expected}, found {found}",
                place=f"{self._shown}, the line that ends at byte {end}",
                position=end,
                source=source,
            )


class CsvFile(Followed):
    """Follows a file of comma-separated values, whose first line names the columns.

    Promise: exactly once.  Each further line is an event: its data are the values by column.
    """

    promise: Promise = "exactly once"
    head_lines = 2  # the first line is the same in each

    def __init__(
        self,
        path: str,
        subject: str,
        *,
        name: str = "csv",
        types: dict[str, str] | None = None,
        time_column: str | None = None,
        delimiter: str = ",",
        poll_s: float = 0.5,
    ) -> None:
        """Name the file, which need not be there yet.

        *subject* may hold columns, as in ``plant.{unit}.temperature``.  *types* says which
        columns are ``int``, ``float``, ``bool`` or ``json``; the others are texts.
        *time_column* is the event's own time, as RFC 3339 has it.

        Raises:
            TypeError, ValueError: a setting cannot work.
        """
        super().__init__(path, name=name, poll_s=poll_s)
        check_text(self._place, "subject", subject)
        check_subject(self._place, "subject", FIELD.sub("x", subject))
        if len(check_text(self._place, "delimiter", delimiter)) != 1:
            raise ValueError(f"{self._place}, delimiter: expected one character")
        kinds: object = {} if types is None else types
        if not isinstance(kinds, dict):
            raise TypeError(f"{self._place}, types: expected a table, found {ascii(kinds)[:80]}")
        for column, kind in kinds.items():
            if kind not in TYPES:
                raise ValueError(
                    f"{self._place}, types: expected {', '.join(TYPES)} for {column!r:.80}, "
                    f"found {kind!r:.80}"
                )
        self._subject = subject
        self._types = types or {}
        self._time_column = check_maybe_text(self._place, "time_column", time_column)
        self._delimiter = delimiter
        self._columns: list[str] = []

    def begin(self, head: list[bytes]) -> None:
        """See which columns there are."""
        self._columns = self._values(head[0])
        wanted = {*FIELD.findall(self._subject), *self._types}
        if self._time_column is not None:
            wanted.add(self._time_column)
        if missing := sorted(wanted - set(self._columns)):
            raise ValueError(
                f"expected columns {', '.join(missing)}, found {', '.join(self._columns)[:200]}"
            )

    def event(self, line: bytes, end: int, source: str, intake: Intake) -> Emission | None:
        """See `Followed`."""
        if end <= len(line) + 1:
            return None  # the names of the columns
        try:
            if len(line) > LINE_BYTES_MAX:
                raise BadPayload(f"expected at most {LINE_BYTES_MAX} bytes, found a longer line")
            return self._row(self._values(line), end, source)
        except ValueError as error:
            return intake.refusal(
                line,
                str(error),
                place=f"{self._shown}, the line that ends at byte {end}",
                position=end,
                source=source,
            )

    def _values(self, line: bytes) -> list[str]:
        text = line.removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf").decode()
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except (csv.Error, StopIteration) as error:
            raise BadPayload(f"expected values, found {text[:60]!r} ({error})") from None

    def _row(self, values: list[str], end: int, source: str) -> Emission:
        if len(values) != len(self._columns):
            raise BadPayload(f"expected {len(self._columns)} values, found {len(values)}")
        texts = dict(zip(self._columns, values, strict=True))
        data = {column: self._typed(column, text) for column, text in texts.items()}
        subject = FIELD.sub(lambda found: token_of(texts[found[1]]), self._subject)
        time_ns = None if self._time_column is None else rfc3339_ns(texts[self._time_column])
        return Emission(subject, data, source=source, position=end, time_ns=time_ns)

    def _typed(self, column: str, text: str) -> Any:
        kind = self._types.get(column, "text")
        if kind == "text":
            return text
        if not text:
            return None
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text)
            if kind == "json":
                return read_json(text.encode())
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        except (KeyError, ValueError):
            raise BadPayload(f"column {column!r}: expected {kind}, found {text[:60]!r}") from None


class FileData(Struct):
    """The data of an event of a `Directory`."""

    name: str
    size: int
    modified_ns: int
    digest: str
    """BLAKE2b of what is in it, 16 bytes as hexadecimal digits."""
    content: Any = None


class Directory:
    """Takes the files that come into a folder, each once it is whole, and moves them away.

    Promise: exactly once, as long as ids are remembered (``dedupe_window``): a file is known by
    name, size, time and content, and is moved away behind the log.  Only a crash between the
    two lets it be looked at again.
    """

    promise: Promise = "exactly once"

    def __init__(
        self,
        path: str,
        *,
        name: str = "directory",
        subject: str = "file.added",
        pattern: str = "*",
        payload: Payload | None = None,
        done: str = "done",
        quiet_s: float = 1.0,
        poll_s: float = 0.5,
    ) -> None:
        """Name the folder; nothing is looked at yet.

        With *payload* the content is in the event, read in that form.  A file is whole if it has
        not changed for *quiet_s*; 0 is for those who rename files into the folder.  *done* is
        the folder, within it or elsewhere on the same disk, that files are moved to.

        Raises:
            TypeError, ValueError: a setting cannot work.
        """
        self.name = name
        place = f"Directory {name!r}"
        self._path = os.path.abspath(check_text(place, "path", path))  # noqa: PTH100 (as it is)
        self._subject = check_subject(place, "subject", subject)
        self._pattern = check_text(place, "pattern", pattern)
        self._read = None if payload is None else reader(payload, place)
        self._done = Path(self._path, check_text(place, "done", done))
        self._quiet_s = check_number(place, "quiet_s", quiet_s, 0.0, 86_400.0)
        self._poll_s = check_number(place, "poll_s", poll_s, 0.005, 3600.0)

    async def run(self, intake: Intake) -> None:
        """Bring files in until cancelled."""
        waking = Waking()
        seen: dict[str, tuple[tuple[int, int], float]] = {}
        failed: dict[str, str] = {}
        async with anyio.create_task_group() as group:
            group.start_soon(waking.watch, self._path)
            while True:
                event = waking.event
                try:
                    there = await to_thread.run_sync(self._there)
                    if intake.status.state != "connected":
                        intake.connected(path=self._path)
                    for path in failed.keys() - there.keys():
                        del failed[path]
                    for path in self._whole(there, seen):
                        await self._try(path, failed, intake)
                except OSError as error:
                    intake.lost(f"{error.strerror or error}: {error.filename!r}")
                await wait(event, self._poll_s)

    def _there(self) -> dict[str, tuple[int, int]]:
        self._done.mkdir(exist_ok=True)
        found = {}
        for path in Path(self._path).glob(self._pattern):
            if is_file(str(path)):
                status = path.stat()
                found[str(path)] = (status.st_size, status.st_mtime_ns)
        return dict(sorted(found.items(), key=lambda item: (item[1][1], item[0])))

    def _whole(
        self, there: dict[str, tuple[int, int]], seen: dict[str, tuple[tuple[int, int], float]]
    ) -> list[str]:
        """Return the files that have not changed for long enough; note the others in *seen*."""
        now_s, whole = anyio.current_time(), []
        for path in seen.keys() - there.keys():
            del seen[path]
        for path, state in there.items():
            before = seen.get(path)
            if before is None or before[0] != state:
                seen[path] = (state, now_s)
            if now_s - seen[path][1] >= self._quiet_s:
                whole.append(path)
        return whole

    async def _try(self, path: str, failed: dict[str, str], intake: Intake) -> None:
        """Take a file; one that cannot be taken does not stand in the way of the others."""
        try:
            await self._take(path, intake)
        except FileNotFoundError:
            return  # it is gone, or its folder: which one is seen the next time
        except OSError as error:
            said = f"{error.strerror or error}: {error.filename!r}"
            if failed.get(path) != said:  # once, not at each look
                intake.logger.warning("file_not_taken", error=said, meaning="it is tried again")
            failed[path] = said
        else:
            failed.pop(path, None)

    async def _take(self, path: str, intake: Intake) -> None:
        def load() -> tuple[bytes, FileData]:
            # What has become a link since it was looked at is not gone after, nor waited for.
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(opened, "rb") as file:
                status, digest = os.fstat(file.fileno()), blake2b(digest_size=16)
                content = file.read(CONTENT_BYTES_MAX + 1)
                block = content
                while block:
                    digest.update(block)
                    block = file.read(CONTENT_BYTES_MAX)
            name = os.fsencode(Path(path).name).decode("utf-8", "backslashreplace")
            return content, FileData(name, status.st_size, status.st_mtime_ns, digest.hexdigest())

        content, data = await to_thread.run_sync(load)
        text = f"{data.name}\0{data.size}\0{data.modified_ns}\0{data.digest}"
        event_id = blake2b(text.encode(), digest_size=16).hexdigest()
        try:
            if self._read is not None:
                data.content = self._read(_bounded(content, data.size))
            event = Emission(self._subject, data, id=event_id)
        except BadPayload as error:
            event = intake.refusal(content, str(error), place=data.name, id=event_id)
        await intake.put([event])
        await to_thread.run_sync(self._move, path)

    def _move(self, path: str) -> None:
        target = self._done / Path(path).name
        for number in range(1, 1_000_000):
            if not target.exists():
                break
            target = self._done / f"{Path(path).name}.{number}"
        Path(path).rename(target)


def _bounded(content: bytes, size: int) -> bytes:
    if size > CONTENT_BYTES_MAX:
        raise BadPayload(
            f"expected at most {CONTENT_BYTES_MAX} bytes, found {size}; "
            f"leave payload out, and read the file in a task"
        )
    return content
