"""`Followed`: a file that grows and is rotated, as ``tail -F`` reads it, with a cursor in the log.

A file is known by where it is and how it begins (its first line, or more), and not by its inode:
so it is the same after a rename and after it was copied away, and the one that takes its place is
another.  What is left of an older one is looked for beside it, at a start and after each rotation.
"""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread

from headrace.connectors.checks import check_number
from headrace.connectors.intake import Intake
from headrace.connectors.jsonl import LINE_BYTES_MAX, READ_BYTES
from headrace.connectors.promises import Promise
from headrace.engine.emission import Emission

SIBLINGS_MAX: Final = 1000
HEAD_BYTES: Final = 16 * 1024
NUMBERED: Final = re.compile(r"[.-]\d+$")
"""How the name of a file goes on that was rotated: ``.1``, ``-20260301``."""
BOM: Final = b"\xef\xbb\xbf"


class Lines:
    """The whole lines of one open file, from a position on.  Blocks: for a worker thread."""

    def __init__(self, path: str, head_lines: int) -> None:
        """Open it.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.inode = os.fstat(self._fd).st_ino
        self.position = 0
        """The byte after the last line that was handed out."""
        self._read_to = 0
        self._rest = b""
        self._overlong = False
        self._head_lines = head_lines

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def head(self) -> list[bytes] | None:
        """Return the lines by which it is known; ``None``: they are not whole yet."""
        for most in (HEAD_BYTES, LINE_BYTES_MAX):
            data = os.pread(self._fd, most, 0)
            lines = data.removeprefix(BOM).split(b"\n")
            if len(lines) > self._head_lines or len(data) == LINE_BYTES_MAX:
                return [line.removesuffix(b"\r") for line in lines[: self._head_lines]]
            if len(data) < most:
                break
        return None

    def size(self) -> int:
        """Return how many bytes it has now."""
        return os.fstat(self._fd).st_size

    def seek(self, position: int) -> bool:
        """Go on at *position*; ``False``: no line ends there, so it is not what it was."""
        if position and os.pread(self._fd, 1, position - 1) != b"\n":
            return False
        self.position = self._read_to = position
        self._rest, self._overlong = b"", False
        return True

    def read(self, head: list[bytes]) -> list[tuple[bytes, int]] | None:
        """Return the next whole lines, each with the position behind it; none: at the end.

        ``None``: it does not begin with *head* any more, since it was cut and written anew.
        """
        if self.size() < self.position or self.head() != head:
            return None
        while True:
            data = os.pread(self._fd, READ_BYTES, self._read_to)
            if not data:
                return []
            self._read_to += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            found = []
            for line in whole:
                self.position += len(line) + 1
                # One byte more than is allowed says enough of a line that is too long.
                found.append((b"\0" * (LINE_BYTES_MAX + 1) if self._overlong else line,
                              self.position))  # fmt: skip
                self._overlong = False
            if len(self._rest) > LINE_BYTES_MAX:
                self._overlong = True
                self.position += len(self._rest)
                self._rest = b""
            if found:
                return found

    def last(self) -> list[tuple[bytes, int]]:
        """Return what is left without a newline: nobody will write on."""
        rest, self._rest = self._rest, b""
        self.position += len(rest)
        return [(rest, self.position)] if rest.strip() else []


class Followed(ABC):
    """What sources that follow a file have in common: all but how a line becomes an event."""

    promise: Promise
    head_lines = 1
    """How many lines a file is known by."""

    def __init__(self, path: str, *, name: str, poll_s: float) -> None:
        """Name the file; nothing is opened yet."""
        self.name = name
        self._place = f"{type(self).__name__} {name!r}"
        found: Any = path
        if not isinstance(found, str | os.PathLike) or not os.fspath(found):
            raise TypeError(f"{self._place}, path: expected a path, found {path!r:.80}")
        self._path = os.path.abspath(path)  # noqa: PTH100 (names that are no UTF-8 stay as they are)
        try:
            is_path = b"\0" not in os.fsencode(self._path)
        except UnicodeEncodeError:
            is_path = False
        if not is_path:
            raise ValueError(f"{self._place}, path: expected a path, found {ascii(path)[:80]}")
        self._shown = os.fsencode(self._path).decode("utf-8", "backslashreplace")
        self._poll_s = check_number(self._place, "poll_s", poll_s, 0.005, 3600.0)

    @abstractmethod
    def begin(self, head: list[bytes]) -> None:
        """See how a file begins, before its lines come; raises `ValueError`: it cannot be read."""

    @abstractmethod
    def event(self, line: bytes, end: int, source: str, intake: Intake) -> Emission | None:
        """Return the event of a line, or of its refusal; ``None``: there is none in it."""

    async def run(self, intake: Intake) -> None:
        """Bring lines in until cancelled."""
        waking = Waking()
        async with anyio.create_task_group() as group:
            group.start_soon(waking.watch, str(Path(self._path).parent))
            while True:
                await self._older(intake)
                lines: Lines | None = None
                try:
                    lines = await to_thread.run_sync(Lines, self._path, self.head_lines)
                    intake.connected(path=self._shown)
                    await self._follow(lines, intake, waking)
                except OSError as error:
                    intake.lost(f"{self._shown}: {error.strerror or error}")
                    await wait(waking.event, self._poll_s)
                finally:
                    if lines is not None:
                        lines.close()

    async def _follow(self, lines: Lines, intake: Intake, waking: Waking) -> None:
        """Bring in what is in a file and what comes, until another one is in its place."""
        head: list[bytes] | None = None
        source, is_replaced = "", False
        while True:
            event = waking.event
            if head is None and (head := await to_thread.run_sync(lines.head)) is not None:
                source = self._resumed(lines, head, intake)
            if head is not None:
                found = await to_thread.run_sync(lines.read, head)
                if found is None:
                    return  # what was in it is beside it, or nowhere
                if found:
                    await self._put(found, source, intake)
                    continue
            if is_replaced:
                if head is not None:
                    await self._put(lines.last(), source, intake)
                return
            is_replaced = self._replaced(lines)
            # One that was replaced gets a little time: its writer may not know it yet.
            await wait(event, self._poll_s)

    def _replaced(self, lines: Lines) -> bool:
        try:
            return Path(self._path).stat().st_ino != lines.inode
        except FileNotFoundError:
            return False  # until there is another one

    def _resumed(self, lines: Lines, head: list[bytes], intake: Intake) -> str:
        """Go on where the log ends; return under which name it knows the file."""
        try:
            self.begin(head)
        except ValueError as error:
            raise OSError(str(error)) from None
        for turn in range(SIBLINGS_MAX):
            source = self._source(head, turn)
            cursor = intake.cursor(source) or 0
            # One that begins like another and is shorter than what was read of that is a new one.
            if cursor <= lines.size() and lines.seek(cursor):
                return source
        raise OSError(f"expected a file that is another one now and then, found {SIBLINGS_MAX}")

    def _source(self, head: list[bytes], turn: int) -> str:
        shown = Path(self._shown).name[:64]
        text = b"\0".join([os.fsencode(self._path), b"%d" % turn, *head])
        return f"{self.name}:{shown}:{blake2b(text, digest_size=8).hexdigest()}"

    async def _put(self, found: list[tuple[bytes, int]], source: str, intake: Intake) -> None:
        events = [self.event(line, end, source, intake) for line, end in found if line.strip()]
        if stored := [event for event in events if event is not None]:
            await intake.put(stored)

    async def _older(self, intake: Intake) -> None:
        """Bring in what is left of files that were in its place, oldest first.

        Also one of which nothing is stored, if an older one was read and its name says that it
        is the next: it was there while nobody was.
        """
        after_known = False
        for path in await to_thread.run_sync(self._beside):
            lines = None
            try:
                lines = await to_thread.run_sync(Lines, path, self.head_lines)
                head = await to_thread.run_sync(lines.head)
                if head is None:
                    continue
                source = self._source(head, 0)
                cursor = intake.cursor(source)
                after_known = after_known or cursor is not None
                if cursor is None and after_known and self._is_numbered(path):
                    cursor = 0
                if cursor is None or cursor >= lines.size() or not lines.seek(cursor):
                    continue
                self.begin(head)
                while found := await to_thread.run_sync(lines.read, head):
                    await self._put(found, source, intake)
                await self._put(lines.last(), source, intake)
            except (OSError, ValueError):
                continue  # what cannot be read has nothing that is left of ours
            finally:
                if lines is not None:
                    lines.close()

    def _is_numbered(self, path: str) -> bool:
        return NUMBERED.match(path.removeprefix(self._path)) is not None

    def _beside(self) -> list[str]:
        folder, name = os.path.split(self._path)
        found: list[tuple[int, str]] = []
        try:
            with os.scandir(folder) as entries:
                found += [
                    (entry.stat().st_mtime_ns, entry.path)
                    for entry in entries
                    if entry.name.startswith(name) and entry.name != name and entry.is_file()
                ]
        except OSError:
            return []
        return [path for _, path in sorted(found)[-SIBLINGS_MAX:]]


class Waking:
    """Is set whenever something in a folder changes, where that can be known."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        """The next change."""

    async def watch(self, folder: str) -> None:
        """Look at *folder* until cancelled, or until it is found that it cannot be watched."""
        try:
            from watchfiles import awatch
        except ModuleNotFoundError:
            return
        if not await anyio.Path(folder).is_dir():
            return
        try:
            async for _ in awatch(
                folder, recursive=False, debounce=50, step=20, rust_timeout=200, watch_filter=None
            ):
                self.event.set()
                self.event = anyio.Event()
        except* (RuntimeError, OSError):
            # It knows no names that are no UTF-8, and a system has so many watches: what is
            # left is to look every `poll_s`.
            pass


async def wait(event: anyio.Event, most_s: float) -> None:
    """Return once *event* is set, or after *most_s*."""
    with anyio.move_on_after(most_s):
        await event.wait()


def is_file(path: str) -> bool:
    """Say whether there is a regular file at *path*, and no link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
