"""Where in a TOML file each key and each value stands.

`tomllib` gives values without their places.  This reads a text that `tomllib` has accepted
a second time, for nothing but places, so it need not see what is wrong with one.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Final

Path = tuple[str | int, ...]
"""Names of tables and keys, and numbers of items, from the file downwards."""

_SPACE: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_STRING: Final = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'''
    r"""|'''(?:[^']|'(?!''))*'{3,5}"""
    r"""|"(?:[^"\\]|\\.)*"|'[^'\n]*'""",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[^,\]}\n#]*")
_QUOTES: Final = re.compile(r"""\"""|'{3}|"|'""")
_HEADER: Final = re.compile(
    r"""^[ \t]*\[[ \t]*rules[ \t]*\.[ \t]*([A-Za-z0-9_-]+)[ \t]*[.\]]""", re.MULTILINE
)


class Places:
    """The places of one text, which are looked for when they are first asked for."""

    def __init__(self, text: str) -> None:
        """Take *text*, in which each line ends with a mere newline."""
        self._text = text
        self._keys: dict[Path, int] | None = None
        self._values: dict[Path, int] = {}
        self._lines: list[int] = []

    def of_key(self, path: Path) -> tuple[int, int]:
        """Return line and column, from 1, of the last key in *path*, or of the nearest above."""
        keys = self._read()
        while path and path not in keys:
            path = path[:-1]
        return self._place(keys.get(path, 0))

    def of_value(self, path: Path) -> tuple[int, int]:
        """Return line and column, from 1, of the value at *path*, or of what is nearest above."""
        keys = self._read()
        while path and path not in self._values and path not in keys:
            path = path[:-1]
        return self._place(self._values.get(path, keys.get(path, 0)))

    def inside(self, path: Path, text: str, line: int, column: int) -> tuple[int, int]:
        """Return the place in the file of what is at *line* and *column* of a string's *text*.

        If the string has escapes in it, that of the string.
        """
        self._read()
        start = self._values.get(path)
        quotes = None if start is None else _QUOTES.match(self._text, start)
        if start is None or quotes is None:
            return self.of_value(path)
        body = quotes.end()
        if len(quotes[0]) == 3 and self._text.startswith("\n", body):
            body += 1  # TOML leaves out a newline right behind three quotes
        if not self._text.startswith(text, body):
            return self._place(start)
        lines = text.split("\n")
        index = body + sum(len(before) + 1 for before in lines[: line - 1]) + column - 1
        return self._place(index)

    def rule_lines(self, names: list[str]) -> dict[str, int]:
        """Return the line, from 1, at which each of these rules begins."""
        found: dict[str, int] = {}
        if '"""' not in self._text and "'''" not in self._text:
            # Nothing but a header looks like one, so there is no need to read it all.
            line, index = 1, 0
            for header in _HEADER.finditer(self._text):
                start = header.start(1)
                line += self._text.count("\n", index, start)
                index = start
                found.setdefault(header[1], line)
        return {
            name: found[name] if name in found else self.of_key(("rules", name))[0]
            for name in names
        }

    def _place(self, index: int) -> tuple[int, int]:
        if not self._lines:
            self._lines = [0, *(found.end() for found in re.finditer("\n", self._text))]
        line = bisect_right(self._lines, index)
        return line, index - self._lines[line - 1] + 1

    def _read(self) -> dict[Path, int]:
        if self._keys is None:
            scan = _Scan(self._text)
            scan.file()
            self._keys, self._values = scan.keys, scan.values
        return self._keys


class _Scan:
    """One reading of a text from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.key_at = 0
        """Where the key stands that was read last."""
        self.keys: dict[Path, int] = {}
        self.values: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}
        """Tables of each array of tables so far."""

    def file(self) -> None:
        table: Path = ()
        while self._gap() < len(self.text):
            if self.text[self.at] != "[":
                self._pair(table)
                continue
            is_item = self.text.startswith("[[", self.at)
            self.at += 1 + is_item
            table = self._keyed((), is_header=True)
            if is_item:
                number = self.counts.get(table, -1) + 1
                self.counts[table] = number
                table = (*table, number)
                self.keys[table] = self.key_at
            self.at = self.text.index("]", self.at) + 1 + is_item

    def _gap(self) -> int:
        found = _GAP.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.at

    def _space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def _keyed(self, path: Path, *, is_header: bool = False) -> Path:
        """Read a key, which may have dots, and return the path that it makes of *path*."""
        while True:
            self._space()
            found = _KEY.match(self.text, self.at)
            assert found is not None, self.at
            path = (*path, _name_of(found[0]))
            self.key_at = self.at
            self.keys.setdefault(path, self.at)
            self.at = found.end()
            self._space()
            if not self.text.startswith(".", self.at):
                return path
            self.at += 1
            if is_header and path in self.counts:
                path = (*path, self.counts[path])

    def _pair(self, table: Path) -> None:
        path = self._keyed(table)
        assert self.text[self.at] == "=", self.at
        self.at += 1
        self._space()
        self._value(path)

    def _value(self, path: Path) -> None:
        self.values[path] = self.at
        char = self.text[self.at]
        if char in "[{":
            self.at += 1
            number = 0
            while self.text[self._gap()] not in "]}":
                if char == "[":
                    self._value((*path, number))
                else:
                    self._pair(path)
                number += 1
                if self.text[self._gap()] == ",":
                    self.at += 1
            self.at += 1
            return
        found = (_STRING if char in "\"'" else _BARE).match(self.text, self.at)
        assert found is not None, self.at
        self.at = found.end()


def _name_of(written: str) -> str:
    if written[0] == "'":
        return written[1:-1]
    if written[0] == '"':
        name: str = tomllib.loads(f"key = {written}")["key"]
        return name
    return written
