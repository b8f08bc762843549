"""The README tells the truth: what it shows is executed here, in its order, by the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL
)
SECONDS_MAX = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the README lets its reader write."""
    made = tmp_path_factory.mktemp("readme")
    for block in BLOCK.finditer(README.read_text()):
        if block["file"]:
            (made / block["file"]).write_text(block["text"])
    return made


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run *command* as a reader would, with the installed command on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def blocks(kind: str) -> list[str]:
    """Return the texts of the README's blocks of *kind* that are not files."""
    found = BLOCK.finditer(README.read_text())
    return [block["text"] for block in found if block["kind"] == kind and not block["file"]]


@pytest.mark.slow
def test_the_python_examples_run(folder: Path) -> None:
    """A reader can paste each example and it works."""
    texts = blocks("python")

    assert len(texts) == 3
    for text in texts:
        done = run([sys.executable, "-W", "error", "-c", text], folder)
        assert done.returncode == 0, done.stderr
    assert "cool_down completed" in run([sys.executable, "-c", texts[1]], folder).stdout


@pytest.mark.slow
def test_the_commands_run_in_their_order(folder: Path) -> None:
    """A reader can type each command, and sees what the text promises."""
    commands = [
        line[2:].split() for text in blocks("console") for line in text.splitlines() if line
    ]
    printed = {}
    for command in commands:
        done = run(command, folder)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        printed[" ".join(command[1:3])] = done.stdout

    kinds = [json.loads(line)["kind"] for line in printed["log cat"].splitlines()]
    assert kinds.count("event") == 5, "four readings and the fan"
    assert kinds.count("rule.mismatch") == 1
    assert kinds.count("rule.fired") == 1
    assert kinds.count("attempt.failed") == 1
    assert "cool_down" in printed["runs list"]
