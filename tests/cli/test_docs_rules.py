"""docs/changing-rules.md tells the truth: its commands print what is shown, as in `test_docs`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.command import Call
from tests.cli.test_docs import BLOCK, pattern_of

PAGE = Path(__file__).parents[2] / "docs" / "changing-rules.md"


def test_every_command_prints_what_the_page_shows(headrace: Call, tmp_path: Path) -> None:
    """A reader can fold the past into an app, go live and see the alarm that stands."""
    executed = 0
    for block in BLOCK.finditer(PAGE.read_text()):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
        if block["kind"] != "console":
            continue
        for example in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, *shown = example.rstrip("\n").split("\n")
            done = headrace(*shlex.split(command)[1:])
            executed += 1

            assert done.code == 0, (command, done.err)
            assert pattern_of(shown).fullmatch(done.out), (command, done.out)
    assert executed >= 3


def test_the_alarm_of_the_page_can_be_acknowledged(headrace: Call, tmp_path: Path) -> None:
    """The key is given as `alarms list` prints it, as docs/rules.md says."""
    test_every_command_prints_what_the_page_shows(headrace, tmp_path)
    done = headrace("alarms", "ack", "boiler.log", "hot", "--key", '"b1"', "--by", "ada")

    assert done.code == 0, done.err
    assert "ada" in headrace("alarms", "list", "boiler.log").out
