"""The pages on commands tell the truth: each command is executed, and prints what is shown.

In a ``console`` block ``$`` begins a command; the lines behind it are its stdout, ``!`` its
last line of stderr and ``=`` its exit code (else 0).  ``…`` stands for anything, a line
that is just ``…`` for any number of lines.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.cli.command import Call

from headrace.cli import ruling

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "cli.md"
TYPED_ALONG = ("cli", "tracing", "replay")
"""Pages whose commands can all be typed, from the first to the last."""
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL
)
ROW = re.compile(r"^\| `((?:log|events|runs|rules|alarms)?) ?([a-z\\|]+)", re.MULTILINE)
ANY_LINES = "…"


def blocks(page: Path = PAGE) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text()))


def pattern_of(lines: list[str]) -> re.Pattern[str]:
    """Return what the lines of the page stand for."""
    parts = [
        r"(?:.*\n)*?" if line == ANY_LINES else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in lines
    ]
    return re.compile("".join(parts))


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPED_ALONG)
def test_every_example_prints_what_the_page_shows(
    headrace: Call, name: str, tmp_path: Path
) -> None:
    """A reader can type along from the first command to the last."""
    page = blocks(DOCS / f"{name}.md")
    for block in page:
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
    executed = 0
    for block in page:
        if block["kind"] != "console":
            continue
        for example in block["text"].split("$ ")[1:]:
            command, *shown = example.rstrip("\n").split("\n")
            code = next((int(line[2:]) for line in shown if line.startswith("= ")), 0)
            errors = [line[2:] for line in shown if line.startswith("! ")]
            printed = [line for line in shown if not line.startswith(("= ", "! "))]
            called, *arguments = shlex.split(command)
            assert called == "headrace"
            done = headrace(*arguments)
            executed += 1

            assert done.code == code, (command, done.err)
            assert pattern_of(printed).fullmatch(done.out), (command, done.out)
            for error in errors:
                assert pattern_of([error]).fullmatch(done.err.splitlines()[-1] + "\n"), done.err
    assert executed > 6


def test_every_command_is_on_the_page() -> None:
    """A command that is not described might as well not be there."""
    table = PAGE.read_text().partition("`APP` is")[0]
    named = {
        f"{group} {name}".strip()
        for group, several in ROW.findall(table)
        for name in several.split("\\|")
    }
    there = {name for name in ruling.app if not name.startswith("-")}
    for group in ("log", "events", "runs", "rules", "alarms"):
        there.remove(group)
        there |= {f"{group} {name}" for name in ruling.app[group] if not name.startswith("-")}

    assert named == there


def test_every_option_of_run_is_on_the_page() -> None:
    """The synopsis is complete, and names nothing that is not there."""
    (synopsis,) = [
        block["text"] for block in blocks() if block["text"].startswith("headrace run APP")
    ]
    listed = set(re.findall(r"--[a-z-]+", synopsis))
    options = {
        option
        for argument in ruling.app["run"].assemble_argument_collection()
        for option in argument.names
        if option.startswith("--")
    }

    assert listed | {"--output"} == options
