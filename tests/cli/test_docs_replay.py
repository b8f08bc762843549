"""docs/replay.md tells the truth in its program, too; its commands are in `test_docs`."""

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
def test_the_program_prints_what_the_page_shows(headrace: Call, tmp_path: Path) -> None:
    """The functions say the same as the commands."""
    typed_along(headrace, "replay", tmp_path)
    program = tmp_path / "check.py"
    done = subprocess.run(
        [sys.executable, program], check=False, cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == SHOWN.findall(program.read_text())
