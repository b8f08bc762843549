"""What the benchmarks make of their measurements: medians, ratios, bars and the table."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def figures() -> Iterator[ModuleType]:
    """The module `figures` of the scripts, which are no package."""
    spec = importlib.util.spec_from_file_location("bench_figures", BENCHMARKS / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_figure_is_the_median_and_its_ratio_that_of_neighbours(figures: Any) -> None:
    """A machine that is busy for a while is so for both, so runs are compared in pairs."""
    row = figures.Row("ours", "events/s", "bare")
    line = figures.figure(row, [10.0, 30.0, 20.0], [20.0, 30.0, 80.0])

    assert (line.value, line.low, line.high) == (20.0, 10.0, 30.0)
    assert line.reference_value == 30.0
    assert line.ratio == 0.5


@pytest.mark.parametrize(
    ("bar", "arguments", "value", "reference", "met", "text"),
    [
        ("at_least", (0.5, "ratio"), 50.0, 100.0, True, "≥ 0.5 ×"),
        ("at_least", (0.5, "ratio"), 49.0, 100.0, False, "≥ 0.5 ×"),
        ("at_least", (200_000.0,), 199_999.0, 1.0, False, "≥ 200 000 ms"),
        ("at_most", (0.3, "difference"), 1.25, 1.0, True, "≤ reference + 0.30 ms"),
        ("at_most", (0.3, "difference"), 1.35, 1.0, False, "≤ reference + 0.30 ms"),
        ("at_most", (3.0, "ratio"), 3.5, 1.0, False, "≤ 3 ×"),
        ("at_most", (35.0,), 17.0, 1.0, True, "≤ 35 ms"),
    ],
)
def test_a_bar_is_met_or_not(
    figures: Any, bar: str, arguments: tuple[Any, ...], value: float, reference: float,
    met: bool, text: str,
) -> None:  # fmt: skip
    """The last column is what people look at first."""
    row = figures.Row("x", "ms", "y", getattr(figures, bar)(*arguments))
    line = figures.figure(row, [value], [reference])

    assert line.met is met
    assert line.bar == text


def test_ways_take_turns(figures: Any) -> None:
    """What is compared meets the same machine: not first all of one and then all of the other."""
    order: list[str] = []

    def way(name: str) -> Any:
        def go() -> dict[str, float]:
            order.append(name)
            return {"p50": 1.0, "p99": float(len(order))}

        return go

    runs = figures.measure({"a": way("a"), "b": way("b")}, 2)

    assert order == ["a", "b", "a", "b"]
    assert runs["a, p99"] == [1.0, 3.0]
    assert runs["b, p99"] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567.8, "1 234 568"),
        (12.345, "12.3"),
        (3.0, "3"),
        (0.5, "0.50"),
        (0.0123, "0.0123"),
        (None, ""),
    ],
)
def test_numbers_are_short(figures: Any, value: float | None, text: str) -> None:
    """More digits than are repeatable only hide the few that are."""
    assert figures.shown(value) == text
