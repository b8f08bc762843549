"""The plot of `docs/performance.md`, written as SVG: how far each bar is met, and growth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from html import escape
from typing import Final

from figures import Figure, shown

WIDTH: Final = 960
NUMBER: Final = re.compile(r"\d[\d ]*(?:\.\d+)?")
"""In a bar such as ``≥ 200 000 records/s``."""
LINE: Final = 22
LEFT: Final = 330
RIGHT: Final = 130
TOP: Final = 54
GROWTH_HEIGHT: Final = 300
FONT: Final = 'font-family="sans-serif" font-size="12"'
INK: Final = "#24292f"
FAINT: Final = "#8c959f"
GRID: Final = "#d0d7de"
MET: Final = "#2da44e"
SHORT: Final = "#cf222e"
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
COLOURS: Final = ("#0969da", "#8250df", "#bf8700", "#1a7f37")


def share(line: Figure) -> float:
    """Return how much of its bar a figure reaches; 1: just so much."""
    found = NUMBER.search(line.bar)
    assert found is not None, line.bar
    limit = float(found[0].replace(" ", ""))
    value = line.value
    if "×" in line.bar:
        value = line.ratio or 0.0
    elif "reference" in line.bar:
        limit += line.reference_value or 0.0
    if value <= 0:
        return 100.0 if line.met else 0.01
    reached = value / limit if line.bar.startswith("≥") else limit / value
    return min(max(reached, 0.01), 100.0)


def text(x: float, y: float, words: str, *, anchor: str = "start", fill: str = INK) -> str:
    """Return one line of text."""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
    )


def stroke(begin: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """Return one line."""
    (x1, y1), (x2, y2) = begin, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def bars(lines: list[Figure]) -> list[str]:
    """Return a panel of the figures that have a bar, from a hundredth to a hundred times of it."""
    height = TOP + LINE * len(lines)

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) + 2) / 4

    parts = [text(16, 24, "How much of its bar each figure reaches (right of the line: met)")]
    for tick in (0.01, 0.1, 1, 10, 100):
        parts.append(
            stroke((x_of(tick), TOP - 8), (x_of(tick), height), INK if tick == 1 else GRID)
        )
        parts.append(text(x_of(tick), TOP - 12, f"{tick:g} ×", anchor="middle", fill=FAINT))
    for number, line in enumerate(lines):
        y = TOP + LINE * number
        reached = x_of(share(line))
        left, right = sorted((x_of(1), reached))
        name = line.name + (f" / {line.reference}" if line.ratio and "×" in line.bar else "")
        parts.append(
            text(LEFT - 8, y + 14, name if len(name) < 48 else f"{name[:46]}…", anchor="end")
        )
        parts.append(
            f'<rect x="{left:.1f}" y="{y + 3}" width="{max(right - left, 1):.1f}" '
            f'height="{LINE - 8}" fill="{MET if line.met else SHORT}"/>'
        )
        value = f"{shown(line.ratio)} ×" if "×" in line.bar else f"{shown(line.value)} {line.unit}"
        parts.append(text(WIDTH - RIGHT + 8, y + 14, value))
    return parts


def growth(lines: Iterable[Figure], top: float) -> list[str]:
    """Return a panel of what an event costs by what there is already, relative to a thousand."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        kind, comma, size = line.name.partition(", ")
        if comma and kind.startswith("growth by "):
            curves.setdefault(kind.removeprefix("growth by "), []).append(
                (float(size.replace(" ", "")), line.value)
            )
    if not curves:
        return []
    relative = {
        kind: [(size, value / points[0][1]) for size, value in points]
        for kind, points in curves.items()
    }
    most = max(2.0, *(value for points in relative.values() for _, value in points))
    bottom = top + GROWTH_HEIGHT - 40

    def x_of(size: float) -> float:
        return 70 + (WIDTH - 260) * (math.log10(size) - 3) / 3

    def y_of(value: float) -> float:
        return bottom - (bottom - top - 40) * value / most

    parts = [
        text(16, top + 20, "Cost of an event by what there is already, relative to a thousand")
    ]
    for tick in range(math.floor(most) + 1):
        parts.append(stroke((70, y_of(tick)), (WIDTH - 190, y_of(tick)), GRID))
        parts.append(text(62, y_of(tick) + 4, f"{tick} ×", anchor="end", fill=FAINT))
    parts += [
        text(x_of(size), bottom + 18, f"{size:,}".replace(",", " "), anchor="middle", fill=FAINT)
        for size in SIZES
    ]
    for number, (kind, points) in enumerate(relative.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join(f"{x_of(size):.1f},{y_of(value):.1f}" for size, value in points)
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        label = f"{kind}: {shown(curves[kind][-1][1])} µs"
        parts.append(text(WIDTH - 180, top + 50 + 20 * number, label, fill=colour))
    return parts


def drawing(lines: list[Figure]) -> str:
    """Return the SVG."""
    barred = [line for line in lines if line.met is not None]
    height = TOP + LINE * len(barred) + 20
    parts = bars(barred)
    grown = growth(lines, height)
    if grown:
        height += GROWTH_HEIGHT
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *parts,
            *grown,
            "</svg>\n",
        )
    )
