"""docs/testing.md tells the truth: its files, edits and commands are executed in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import Call
from tests.cli.test_docs import pattern_of

import headrace.testing
from headrace.testing import Timeline, VirtualTime

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<how>file|edit): (?P<file>[^:\s]+)(?:: (?P<edit>[^\n]*?))? -->\n)?"
    r"```(?P<kind>\w*)\n(?P<text>.*?)```",
    re.DOTALL,
)
SHOWN = re.compile(r"print\(.*\)\s*# (\S.*)$", re.MULTILINE)
PLUGINS = ("-p", "anyio", "-p", "headrace.pytest_plugin", "-p", "no:cacheprovider", "-W", "error")


def pytest_with(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run pytest as a reader does, and return its exit code and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, *arguments],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_the_way_from_a_log_to_a_fixed_rule_can_be_typed(headrace: Call, tmp_path: Path) -> None:
    """A reader can type along: the tests fail and pass where the page says so."""
    executed: list[str] = []
    for block in BLOCK.finditer(PAGE.read_text()):
        file = tmp_path / (block["file"] or "")
        if block["how"] == "file":
            file.write_text(block["text"])
        elif block["how"] == "edit":
            before, after = block["edit"].split(" -> ")
            assert file.read_text().count(before) == 1
            file.write_text(file.read_text().replace(before, after))
            assert block["text"] in file.read_text()
        elif block["kind"] == "console":
            command, *shown = block["text"].removeprefix("$ ").rstrip("\n").split("\n")
            code = next((int(line[2:]) for line in shown if line.startswith("= ")), 0)
            printed = [line for line in shown if not line.startswith("= ")]
            name, *arguments = shlex.split(command)
            if name == "pytest":
                found, out = pytest_with(arguments, tmp_path)
            else:
                done = headrace(*arguments)
                found, out = done.code, done.out
            executed.append(name)

            assert found == code, (command, out)
            assert pattern_of(printed).fullmatch(out), (command, out)
    assert executed == ["headrace", "headrace", "pytest", "pytest", "pytest", "pytest"]


@pytest.mark.slow
def test_the_program_prints_what_the_page_says(tmp_path: Path) -> None:
    """Virtual time needs no pytest."""
    for block in BLOCK.finditer(PAGE.read_text()):
        if block["how"] == "file":
            (tmp_path / block["file"]).write_text(block["text"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "by_hand.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == SHOWN.findall((tmp_path / "by_hand.py").read_text())


def test_what_the_page_names_is_there_and_all_of_it_is_named() -> None:
    """No name of `headrace.testing` is a secret, but for types that are only returned."""
    text = PAGE.read_text()
    returned = {"LogReplayed", "Moment", "TaskDouble", "VirtualTime"}

    assert {n for n in headrace.testing.__all__ if n not in text} == returned
    for name in ("at", "every", "from_log"):
        assert f".{name}(" in text
        assert hasattr(Timeline, name)
    for name in ("now", "advance", "settled", "step_wall"):
        assert f"`{name}" in text
        assert hasattr(VirtualTime, name)
