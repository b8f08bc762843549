"""The page on OpenTelemetry tells the truth: its program prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.connectors import run_spans, telemetry
from headrace.engine import headers

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "telemetry.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
PRINTED = re.compile(r"<!-- printed by: (\S+) -->\n```text\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_program_prints_the_spans_of_the_page(tmp_path: Path) -> None:
    """By the letter, and in that order."""
    text = PAGE.read_text()
    (program,) = FILE.findall(text)
    (printed,) = PRINTED.findall(text)
    assert program[0] == printed[0]
    (tmp_path / program[0]).write_text(program[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", program[0]],
        check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout == printed[1]


def test_the_page_names_all_attributes() -> None:
    """And no others, but for those that OpenTelemetry gives to errors."""
    named = set(re.findall(r"`((?:headrace|messaging)\.[a-z_.]+)`", PAGE.read_text()))
    ours = {
        value
        for module in (run_spans, telemetry)
        for name, value in vars(module).items()
        if name.isupper() and str(value).startswith(("headrace.", "messaging."))
    }
    assert named - {"headrace.toml"} == ours


def test_the_page_says_the_bounds_of_headers() -> None:
    """The numbers are those that are checked."""
    bounds = f"at most {headers.COUNT_MAX} names with values, printable ASCII, "
    assert f"{bounds}{headers.BYTES_MAX // 1024} KiB in all" in PAGE.read_text()
