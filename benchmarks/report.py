"""Writes the figures of a run into `docs/performance.md`, and its plot beside it.

    python benchmarks/report.py BENCH.json [PEERS.json] [SOAK.json ...] [--docs FOLDER]

Each file is what `run.py`, `run_peers.py` or a script's `--json` wrote.  A part of the page of
which there is no file stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

import msgspec
from figures import Figure, cells, shown
from plot import drawing
from run import HERE, Machine, Report

PAGE: Final = "performance.md"
PLOT: Final = "performance.svg"


def read(path: Path) -> Report:
    """Return the report at *path*; that of a single script has no machine."""
    try:
        content = path.read_bytes()
        if content.lstrip()[:1] == b"[":
            lines = msgspec.json.decode(content, type=list[Figure])
            return Report(Machine("", "", "", 0, "", {}, 0.0), lines)
        return msgspec.json.decode(content, type=Report)
    except OSError as error:
        sys.exit(f"{path}: expected a file of figures, found none ({error.strerror})")
    except msgspec.MsgspecError as error:
        sys.exit(f"{path}: expected figures as benchmarks/run.py writes them; {error}")


def table(headings: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def about(machine: Machine) -> str:
    """Return what the figures were measured with."""
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return (
        f"Measured on {machine.date[:10]} at commit `{machine.commit}`: {machine.cpu}, "
        f"{machine.cores} cores, Python {machine.python}, {packages}; "
        f"load before it {machine.load:g}; {machine.took_s / 60:.0f} minutes."
    )


def barred(lines: list[Figure]) -> str:
    """Return the figures that have a bar."""
    rows = [cells(line) for line in lines if line.met is not None]
    return table(("figure", "value", "range", "unit", "beside it", "ratio", "bar", ""), rows)


def others(lines: list[Figure]) -> str:
    """Return all other figures, script by script."""
    parts: list[str] = []
    for group in dict.fromkeys(line.group for line in lines):
        mine = [line for line in lines if line.group == group and line.met is None]
        if mine:
            rows = [cells(line)[:6] for line in mine]
            headings = ("figure", "value", "range", "unit", "beside it", "ratio")
            parts.append(f"**{group}**\n\n{table(headings, rows)}")
    return "\n\n".join(parts)


def behind(lines: list[Figure]) -> str:
    """Return what falls short, one line each."""
    short = [
        f"- {line.name}: {shown(line.value)} {line.unit}"
        + (f", {shown(line.ratio)} × {line.reference}" if line.ratio else "")
        + f"; the bar is {line.bar}"
        for line in lines
        if line.met is False
    ]
    return "\n".join(short) or "Every bar is met."


def peers(report: Report) -> str:
    """Return the comparison."""
    rows, notes = list[list[str]](), list[str]()
    for line in report.figures:
        if not line.runs:
            notes.append(f"- {line.name}: {line.note}")
        elif line.met is None:
            factor = f"{shown(1 / line.ratio)} ×" if line.ratio else ""
            keeps = line.note.removeprefix("keeps ")
            rows.append([line.name, shown(line.value), f"{shown(line.low)} – {shown(line.high)}",
                         line.unit, keeps, factor])  # fmt: skip
        else:
            verdict = "met" if line.met else "short"
            notes.append(
                f"- {line.name} is {shown(line.ratio)} × {line.reference}; {line.bar}: {verdict}"
            )
    headings = ("work and system", "value", "range", "unit", "keeps", "headrace ÷ it")
    return "\n\n".join((about(report.machine), table(headings, rows), "\n".join(notes)))


def put(page: str, part: str, content: str) -> str:
    """Return *page* with *content* between the marks of *part*."""
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not pattern.search(page):
        sys.exit(f"{PAGE}: expected <!-- {part} --> and <!-- /{part} -->, found no such marks")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", page)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", metavar="FOLDER")
    options = parser.parse_args()
    reports = [read(path) for path in options.files]
    compared = [report for report in reports if any(f.group == "peers" for f in report.figures)]
    measured = [report for report in reports if report not in compared]
    path = options.docs / PAGE
    page = path.read_text(encoding="utf-8")
    if measured:
        lines = [line for report in measured for line in report.figures]
        machines = [report.machine for report in measured if report.machine.date]
        page = put(page, "machine", "\n".join(map(about, machines)))
        page = put(page, "bars", barred(lines))
        page = put(page, "behind", behind(lines))
        page = put(page, "figures", others(lines))
        (options.docs / PLOT).write_text(drawing(lines), encoding="utf-8")
    for report in compared:
        page = put(page, "peers", peers(report))
    path.write_text(page, encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
