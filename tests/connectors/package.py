"""A package with connectors that somebody else has installed, as its files are."""

from __future__ import annotations

import sys
from pathlib import Path

MILL = (Path(__file__).with_name("mill.py")).read_text()
POINTS = {"mill": "mill_connectors:Mill", "mill-sink": "mill_connectors:MillSink"}


def install(folder: Path, points: dict[str, str] | None = None, code: str = MILL) -> None:
    """Put the package into *folder*, which is in the path: entry points, and a module."""
    info = folder / "mill_connectors-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mill-connectors\nVersion: 1.0\n")
    lines = [f"{name} = {place}" for name, place in (points or POINTS).items()]
    (info / "entry_points.txt").write_text("\n".join(["[headrace.connectors]", *lines]))
    (folder / "mill_connectors.py").write_text(code)
    sys.modules.pop("mill_connectors", None)  # of another test's package
