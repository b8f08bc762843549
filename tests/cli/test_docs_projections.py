"""docs/projections.md tells the truth: its commands and its programs print what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import Call
from tests.cli.test_docs import test_every_example_prints_what_the_page_shows as typed_along

SHOWN = re.compile(r"print\(.*\)\s*# (\S.*)$", re.MULTILINE)


@pytest.mark.slow
def test_everything_prints_what_the_page_shows(headrace: Call, tmp_path: Path) -> None:
    """The commands first, then the programs; behind ``:`` stands what it means."""
    typed_along(headrace, "projections", tmp_path)
    for program, count in (("live.py", 5), ("past.py", 2)):
        done = subprocess.run(
            [sys.executable, program],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        said = [
            text if text.startswith("{") else text.partition(":")[0]
            for text in SHOWN.findall((tmp_path / program).read_text())
        ]
        assert len(said) == count
        assert done.stdout.splitlines() == said
