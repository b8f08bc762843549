"""docs/debugging.md tells the truth: its commands print what is shown, as in `test_docs`."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from tests.cli.command import Call
from tests.cli.test_docs import BLOCK, pattern_of

from headrace.cli.debug import HELP

PAGE = Path(__file__).parents[2] / "docs" / "debugging.md"


def executed(page: Path, headrace: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Do all that *page* says in *folder*; return how many commands printed what it shows."""
    executed = 0
    for block in BLOCK.finditer(page.read_text()):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"])
        if block["kind"] != "console":
            continue
        for example in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, *shown = example.rstrip("\n").split("\n")
            code = next((int(line[2:]) for line in shown if line.startswith("= ")), 0)
            printed = [line for line in shown if not line.startswith("= ")]
            call, _, piped = command.partition(" < ")
            text = (folder / piped).read_text() if piped else ""
            monkeypatch.setattr("sys.stdin", io.StringIO(text))
            done = headrace(*shlex.split(call)[1:])
            executed += 1

            assert done.code == code, (command, done.err)
            assert pattern_of(printed).fullmatch(done.out), (command, done.out)
    return executed


@pytest.mark.slow
def test_every_command_prints_what_the_page_shows(
    headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader can ask the log of that night each question, and gets each answer."""
    assert executed(PAGE, headrace, tmp_path, monkeypatch) == 9


def test_the_page_has_each_command_of_the_stepper() -> None:
    """What `help` lists is described, in the same order."""
    named = [line.split()[0] for line in HELP.splitlines() if "  " in line]
    table = PAGE.read_text().partition("| command | what it does |")[2]

    assert re.findall(r"^\| `(\w+)", table, re.MULTILINE) == named
