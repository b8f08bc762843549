"""Data on stdout, as a table for people or as JSON for programs; nothing else goes there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from headrace.cli.text import pretty_json, safe, to_json

Output = Literal["table", "json", "jsonl"]

WIDTH_MAX: Final = 100_000
"""Of a table that goes into a file or a pipe: nothing is cut there."""
GAP: Final = "  "
NAMES_SHOWN_MAX: Final = 20


def write(text: str) -> None:
    """Write *text* and a newline."""
    sys.stdout.write(text + "\n")


def write_document(value: Any, output: Output, text: Callable[[], str]) -> None:
    """Write one value: as JSON, or as *text* says it."""
    if output == "table":
        write(text())
    else:
        write(pretty_json(value) if output == "json" else to_json(value))


class Stream:
    """Rows that are written as they come.  Use it with ``with``, so that JSON ends well."""

    def __init__(self, output: Output, columns: Mapping[str, int]) -> None:
        """*columns* of a table: name of the field and the least width."""
        self._output = output
        self._columns = columns
        self._count = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._output == "json" and (kind is None or not issubclass(kind, BrokenPipeError)):
            write("]" if self._count else "[]")

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row."""
        if self._output == "jsonl":
            write(to_json(row))
        elif self._output == "json":
            # The comma comes late, so that a reader of lines has each row at once.
            write(f"{',' if self._count else '['}{to_json(row)}")
        else:
            if not self._count:
                self._line({name: name.replace("_", " ").upper() for name in self._columns})
            self._line(row)
        self._count += 1

    def _line(self, row: Mapping[str, Any]) -> None:
        cells = [_cell(row.get(name)).ljust(width) for name, width in self._columns.items()]
        write(GAP.join(cells).rstrip())


def write_rows(
    rows: Sequence[Mapping[str, Any]], output: Output, columns: Sequence[str], *, empty: str
) -> None:
    """Write *rows*; the table shows *columns* of them, or says *empty*."""
    if output == "table":
        write(table(rows, columns) if rows else empty)
        return
    with Stream(output, {}) as stream:
        for row in rows:
            stream.add(row)


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a table of *columns* of *rows*."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        made.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(row.get(name)), _style(name, row)) for name in columns))
    return render(made)


def render(renderable: Any) -> str:
    """Return what rich makes of *renderable* for stdout; in a pipe plain and not folded."""
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    console = Console(force_terminal=on_terminal, width=None if on_terminal else WIDTH_MAX)
    with console.capture() as capture:
        console.print(renderable, soft_wrap=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Return names and values under each other; those without a value are left out."""
    shown = [(safe(name), _cell(value)) for name, value in pairs if value is not None]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}".rstrip() for name, value in shown)


def some_of(names: Sequence[str], count: int) -> str:
    """Return ``a, b, c`` and, if they are many, how many more there are of *count*."""
    shown = names[:NAMES_SHOWN_MAX]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"{', '.join(shown)}{more}"


def counts(by_name: Mapping[str, int]) -> str:
    """Return ``3 completed, 1 dead``."""
    return ", ".join(f"{count} {name}" for name, count in by_name.items()) or "none"


_STYLES: Final = {
    "completed": "green",
    "dead": "red",
    "failed": "red",
    "cancelled": "yellow",
    "retrying": "yellow",
}


def _style(column: str, row: Mapping[str, Any]) -> str:
    return _STYLES.get(str(row.get(column)), "") if column == "status" else ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return safe(value) if isinstance(value, str) else to_json(value)
