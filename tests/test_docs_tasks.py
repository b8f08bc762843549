"""The pages on tasks tell the truth: their programs print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHOWN = re.compile(r"print\(.*\)\s*# (\S.*)$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    ["chaining", "runs", "dead-letters", "resources", "execution", "waiting", "fault-tolerance"],
)
def test_the_program_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    """Behind each ``print`` stands what it prints, and perhaps what that means."""
    (program,) = BLOCK.findall((DOCS / f"{page}.md").read_text())
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    said = [text.partition(":")[0] for text in SHOWN.findall(program)]
    assert len(said) >= 3
    assert done.stdout.splitlines() == said
