"""The page on performance is made of a file of figures by one command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"


def line(name: str, value: float, **more: Any) -> dict[str, Any]:
    """One figure, as it is stored."""
    return {"name": name, "value": value, "low": value, "high": value, "unit": "ms",
            "runs": [value], "group": "some", **more}  # fmt: skip


FIGURES = [
    line("fast", 2.0, reference="bare", reference_value=4.0, ratio=0.5, bar="≥ 0.25 ×", met=True),
    line("slow", 9.0, bar="≤ 0.30 ms", met=False),
    line("growth by keys, 1 000", 1.0, note="keys"),
    line("growth by keys, 1 000 000", 3.0, reference="growth by keys, 1 000", ratio=3.0),
]
PEERS = [
    line("W1, a", 3.0, group="peers", reference="W1, headrace, fsynced", ratio=0.01,
         reference_value=300.0, note="keeps a file"),
    {**line("W1, b", 0.0, group="peers", note="not installed"), "runs": []},
]  # fmt: skip
MACHINE = {
    "commit": "abc123",
    "date": "2026-11-28T20:00:00+00:00",
    "cpu": "A Processor",
    "cores": 2,
    "python": "3.11.7",
    "packages": {"msgspec": "0.22"},
    "load": 0.1,
    "took_s": 600.0,
}


def report(docs: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """Write the page of a copy of the docs."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "report.py"), *map(str, files), "--docs", str(docs)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of the page as it is."""
    shutil.copy(ROOT / "docs" / "performance.md", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_page_shows_what_was_measured_and_what_falls_short(docs: Path) -> None:
    """Figures are never typed by hand: what the page says is what the file says."""
    bench, peers = docs / "bench.json", docs / "peers.json"
    bench.write_text(json.dumps({"machine": MACHINE, "figures": FIGURES}))
    peers.write_text(json.dumps({"machine": MACHINE, "figures": PEERS}))
    done = report(docs, bench, peers)

    assert done.returncode == 0, done.stderr
    page = (docs / "performance.md").read_text()
    assert "| fast | 2 |  | ms | bare: 4 | 0.50 | ≥ 0.25 × | met |" in page
    assert "- slow: 9 ms; the bar is ≤ 0.30 ms" in page
    assert "- fast" not in page
    assert "`abc123`: A Processor, 2 cores, Python 3.11.7, msgspec 0.22" in page
    assert "| W1, a | 3 | 3 – 3 | ms | a file | 100 × |" in page
    assert "- W1, b: not installed" in page

    again = page
    report(docs, bench)
    assert (docs / "performance.md").read_text() == again


@pytest.mark.slow
def test_the_plot_is_a_drawing_of_the_same_figures(docs: Path) -> None:
    """A browser shows it: it is well-formed, and each bar has its name and its length."""
    bench = docs / "bench.json"
    bench.write_text(json.dumps({"machine": MACHINE, "figures": FIGURES}))
    report(docs, bench)
    drawing = ET.parse(docs / "performance.svg").getroot()
    words = [element.text for element in drawing.iter(f"{SVG}text")]
    _, fast, slow = drawing.iter(f"{SVG}rect")
    (curve,) = drawing.iter(f"{SVG}polyline")

    assert "slow" in words
    assert "fast / bare" in words
    assert "keys: 3 µs" in words
    # Twice of its bar to the right of it; a thirtieth to the left.
    assert 0 < float(fast.attrib["width"]) < float(slow.attrib["width"])
    assert float(slow.attrib["x"]) < float(fast.attrib["x"])
    assert len(curve.attrib["points"].split()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "expected a file of figures, found none"),
        ("{}", "expected figures as"),
        ("[1]", "as"),
    ],
)
def test_a_file_of_something_else_is_named(docs: Path, content: str | None, said: str) -> None:
    """The page stays as it was."""
    before = (docs / "performance.md").read_text()
    path = docs / "other.json"
    if content is not None:
        path.write_text(content)
    done = report(docs, path)

    assert done.returncode == 1
    assert f"{path}: expected" in done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert (docs / "performance.md").read_text() == before
