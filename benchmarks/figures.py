"""Figures: how they are measured, compared with a reference and a bar, shown and stored.

A script says which `ways` there are to do its work, and which `Row` each of their results is;
`script` measures, prints one table and, if asked to, writes the rows as JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final, Literal

import msgspec
from msgspec import Struct

REPEAT: Final = 3

Result = float | Mapping[str, float]
Ways = Mapping[str, Callable[[], Result]]
Runs = dict[str, list[float]]


class Bar(Struct, frozen=True):
    """What a figure should reach."""

    limit: float
    what: Literal["value", "ratio", "difference"] = "value"
    """What is compared with the limit: the value, or its relation to the reference's."""
    sense: Literal["least", "most"] = "least"

    def text(self, unit: str) -> str:
        """Say it in a few signs."""
        sign = "≥" if self.sense == "least" else "≤"
        if self.what == "ratio":
            return f"{sign} {self.limit:g} ×"
        plus = "reference + " if self.what == "difference" else ""
        return f"{sign} {plus}{shown(self.limit)} {unit}"


def at_least(limit: float, what: Literal["value", "ratio"] = "value") -> Bar:
    """Return the bar that a figure is to be above."""
    return Bar(limit, what, "least")


def at_most(limit: float, what: Literal["value", "ratio", "difference"] = "value") -> Bar:
    """Return the bar that a figure is to be below."""
    return Bar(limit, what, "most")


class Row(Struct, frozen=True):
    """Which of the measured things a line of the table is about."""

    name: str
    unit: str
    reference: str = ""
    bar: Bar | None = None
    note: str = ""


class Figure(Struct, kw_only=True, omit_defaults=True):
    """One line of the table, as it is stored."""

    name: str
    value: float
    """The median of `runs`."""
    low: float
    high: float
    unit: str
    runs: list[float]
    reference: str = ""
    reference_value: float | None = None
    ratio: float | None = None
    """The median of the ratios of runs that were neighbours in time."""
    bar: str = ""
    met: bool | None = None
    note: str = ""
    group: str = ""
    """The script that it comes from."""


def measure(ways: Ways, times: int) -> Runs:
    """Go *times* ways in turn, so that whatever else the machine does meets all of them.

    One that gives several results at once names them; they are called ``way, result``.
    """
    runs: Runs = {}
    for turn in range(times):
        for name, way in ways.items():
            progress(f"{turn + 1}/{times} {name}")
            result = way()
            found = (
                {f"{name}, {part}": value for part, value in result.items()}
                if isinstance(result, Mapping)
                else {name: result}
            )
            for key, value in found.items():
                runs.setdefault(key, []).append(value)
    progress("")
    return runs


def progress(text: str) -> None:
    """Show what is measured now, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def measured(ways: Ways, rows: Sequence[Row], options: argparse.Namespace) -> list[Figure]:
    """Measure, and return the lines of the table: those of which there is a result.

    With ``--only`` those ways whose name has that in it, and what they are compared with.
    """
    only: str = options.only
    asked = tuple(name for name in ways if only in name)
    if not asked:
        sys.stderr.write(f"--only: expected a part of one of {', '.join(ways)}; found {only!r}\n")
        sys.exit(2)
    beside = {row.reference for row in rows if row.name.startswith(asked)}
    wanted = {
        name: way
        for name, way in ways.items()
        if name in asked or any(reference.startswith(name) for reference in beside)
    }
    runs = measure(wanted, options.repeat)
    return [
        figure(row, runs[row.name], runs.get(row.reference)) for row in rows if row.name in runs
    ]


def figure(row: Row, runs: list[float], reference: list[float] | None = None) -> Figure:
    """Return one line of the table."""
    value = median(runs)
    ratio = reference_value = None
    if reference:
        reference_value = median(reference)
        ratio = median(a / b for a, b in zip(runs, reference, strict=True) if b)
    bar = row.bar
    met = None
    if bar is not None:
        compared = {
            "value": value,
            "ratio": ratio,
            "difference": None if reference_value is None else value - reference_value,
        }[bar.what]
        if compared is not None:
            met = compared >= bar.limit if bar.sense == "least" else compared <= bar.limit
    return Figure(
        name=row.name,
        value=value,
        low=min(runs),
        high=max(runs),
        unit=row.unit,
        runs=runs,
        reference=row.reference if reference else "",
        reference_value=reference_value,
        ratio=ratio,
        bar="" if bar is None else bar.text(row.unit),
        met=met,
        note=row.note,
    )


def shown(value: float | None) -> str:
    """Return *value* in three digits or as a whole number."""
    if value is None:
        return ""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.095 else f"{value:.3g}"


def cells(line: Figure) -> list[str]:
    """Return the columns of *line*."""
    verdict = {None: "", True: "met", False: "short"}[line.met]
    reference = f"{line.reference}: {shown(line.reference_value)}" if line.reference else ""
    return [
        line.name + (f" ({line.note})" if line.note else ""),
        shown(line.value),
        f"{shown(line.low)} – {shown(line.high)}" if len(line.runs) > 1 else "",
        line.unit,
        reference,
        shown(line.ratio),
        line.bar,
        verdict,
    ]


HEADINGS: Final = ("figure", "value", "range", "unit", "reference", "ratio", "bar", "")
RIGHT: Final = ("value", "range", "ratio")


def show(title: str, lines: Iterable[Figure]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in RIGHT else "left")
    for line in lines:
        style = {None: "", True: "green", False: "red"}[line.met]
        *texts, verdict = cells(line)
        table.add_row(*texts, f"[{style}]{verdict}[/]" if style else "")
    console = Console()
    # A file or a pipe has no width: nothing is to be cut off there.
    (console if console.is_terminal else Console(width=200)).print(table, highlight=False)


def script(
    doc: str | None,
    title: str,
    take: Callable[[argparse.Namespace], list[Figure]],
    *,
    repeat: int = REPEAT,
    flags: Mapping[str, str] | None = None,
) -> None:
    """Run one benchmark from its command line.

    *take* measures; it is given ``repeat``, ``only`` and ``quick`` (tiny sizes: does it work at
    all?), and what *flags* of the script's own there are.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=repeat, metavar="N", help="runs of each")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--only", default="", metavar="TEXT", help="only ways with this in them")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows there, too")
    for flag, meaning in (flags or {}).items():
        parser.add_argument(flag, action="store_true", help=meaning)
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat: expected at least 1, found {options.repeat}")
    lines = take(options)
    for line in lines:
        line.group = title
    show(title, lines)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(lines)))
