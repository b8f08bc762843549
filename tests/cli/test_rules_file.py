"""Rules in a file on the command line: ``--rules`` of check, run and those that read a log."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.cli.command import Call
from tests.cli.test_docs import BLOCK, pattern_of

from headrace import App
from headrace.cli.apps import load

PAGE = Path(__file__).parents[2] / "docs" / "rules-file.md"

APP = """
from typing import Any

from headrace import App, Firing, Run, field, on

app = App("plant")


@app.action
async def cool(run: Run, firing: Firing[Any]) -> str:
    return f"{firing.rule} {firing.key}"


@app.task
async def page(run: Run, who: str) -> None: ...


@app.rule(on("plant.>"))
async def seen(firing: Firing[Any]) -> None: ...
"""

RULES = """
[rules.hot]
subject = "plant.*.temperature"
where = "degrees > 90"
key = "subject.1"
pattern = { count = 3, within = "1m" }
task = "cool"
mode = "single"

[rules.off]
subject = "a"
task = "cool"
enabled = false
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app in a file."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture
def rules(app: Path, tmp_path: Path) -> Path:
    """A rules file beside it."""
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return path


def test_check_shows_the_rules_of_a_file_as_those_in_python(headrace: Call, rules: Path) -> None:
    """Whoever checks an app sees all that would run, in the order in which it fires."""
    done = headrace("check", "app.py", "--rules", "rules.toml", "-o", "json")
    table = headrace("check", "app.py", "--rules", rules)

    assert done.code == table.code == 0
    assert done.err == table.err == ""
    seen, hot = done.json["rules"]
    assert seen["rule"] == "seen"
    assert (hot["rule"], hot["mode"], hot["subjects"]) == ("hot", "single", ["plant.*.temperature"])
    pattern = (
        "on('plant.*.temperature').where(field('degrees') > 90).key('subject.1')"
        ".count(3, within=60)"
    )
    assert hot["pattern"] == pattern
    assert pattern in table.out
    assert [task["task"] for task in done.json["tasks"]] == ["page", "cool"]
    assert "off" not in table.out


def test_run_carries_out_the_rules_of_a_file(
    headrace: Call, rules: Path, readings: Path, tmp_path: Path
) -> None:
    """The same log, the same start where it was, and the readers know the rules by name."""
    call = ("--log", "plant.log", "--from", readings, "--clock", "input")
    done = headrace("run", "app.py", "--rules", rules, *call, "-o", "json")

    assert done.code == 0, done.err
    assert done.json["firings"] == {"seen": 5, "hot": 1}
    (run,) = [
        run
        for run in headrace("runs", "list", "plant.log", "-o", "json").json
        if run["rule"] == "hot"
    ]
    assert run["status"] == "completed"
    again = headrace("run", "app.py", "--rules", rules, *call, "-o", "json")
    assert again.json["firings"] == {"seen": 5, "hot": 1}
    assert headrace("replay", "app.py", "plant.log", "--rules", rules).code == 0
    state = headrace("state", "app.py", "plant.log", "--rules", rules, "-o", "json").json
    assert {rule["rule"]: rule["fired"] for rule in state["rules"]} == {"seen": 5, "hot": 1}
    assert headrace("log", "snapshot", "plant.log", "--app", "app.py", "--rules", rules).code == 0


def test_each_problem_is_one_line_with_its_place(headrace: Call, rules: Path) -> None:
    """An editor, or a person, goes from line to line and corrects them all in one go."""
    bad = RULES.replace('"1m"', '"1 min"').replace("degrees >", "degrees >>").replace("cool", "col")
    rules.write_text(bad + "colour = 3\n[rules.page]\nsubject = 'a'\ntask = 'page'\n")
    done = headrace("check", "app.py", "--rules", "rules.toml")
    *lines, last = done.err.splitlines()

    assert done.code == 2
    assert done.out == ""
    assert [line.partition(": expected")[0] for line in lines] == [
        "rules.toml:4:10: rules.hot.where",
        "rules.toml:6:33: rules.hot.pattern.within",
        "rules.toml:7:8: rules.hot.task",
        "rules.toml:12:8: rules.off.task",
        "rules.toml:14:1: rules.off.colour",
        "rules.toml:15:8: rules.page",
        "rules.toml:17:8: rules.page.task",
    ]
    assert lines[1].endswith(
        "expected a number and its unit such as '250ms', '30s', '5m', '2h', '1d', found '1 min'"
    )
    assert last == (
        "headrace: rules.toml: expected rules that can be used, found 7 problems; correct them"
    )


def test_a_single_problem_is_the_line_itself(headrace: Call, rules: Path, readings: Path) -> None:
    """Nothing is run, and no log is made, with rules that are not what somebody meant."""
    rules.write_text(RULES.replace("single", "sngle"))
    call = ("--log", "plant.log", "--from", readings, "--clock", "input")
    done = headrace("run", "app.py", "--rules", "rules.toml", *call)

    assert done.code == 2
    assert done.last_error == (
        "rules.toml:8:8: rules.hot.mode: expected 'parallel', 'single', 'restart', 'latest' or "
        "'queue', found 'sngle'; did you mean 'single'?"
    )
    assert len(done.err.splitlines()) == 1
    assert not (rules.parent / "plant.log").exists()


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "rules.toml: expected a TOML file, found nothing there"),
    "empty": (b"", "rules.toml: expected rules, found an empty file"),
    "no TOML": (b"[rules.a]\nsubject: 'a'\n", "rules.toml:2:8: expected TOML: Expected '='"),
    "not UTF-8": (b"[rules.a]\n# \xe4\n", "rules.toml:2:3: expected UTF-8, found byte 0xe4"),
    "another file": (APP.encode(), "rules.toml:2:6: expected TOML: "),
    "escapes": (b'"\\u001b[2J" = 1\n', r"rules.toml:1:1: '\x1b[2J': expected rules, found"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_rules_file_ends_in_one_line(
    headrace: Call, app: Path, tmp_path: Path, name: str
) -> None:
    """Whatever the path leads to, with exit code 2 as every wrong argument."""
    stored, said = FILES[name]
    if stored is not None:
        (tmp_path / "rules.toml").write_bytes(stored)
    done = headrace("check", "app.py", "--rules", "rules.toml")

    assert done.code == 2
    assert done.last_error.startswith(said)
    assert len(done.err.splitlines()) == 1
    assert done.last_error.isprintable()


def test_a_folder_is_no_rules_file(headrace: Call, app: Path) -> None:
    """The path of a folder is named, as it was given."""
    assert headrace("check", "app.py", "--rules", ".").last_error == (
        ".: expected a TOML file, found a folder"
    )


def test_an_app_that_loads_a_bad_file_is_no_broken_app(
    headrace: Call, app: Path, rules: Path
) -> None:
    """The place is in the rules file, wherever it was loaded."""
    app.write_text(f"{APP}\napp.load_rules('rules.toml')\n")
    assert headrace("check", "app.py").code == 0
    rules.write_text(RULES.replace("single", "sngle").replace("cool", "col"))
    done = headrace("check", "app.py")

    assert done.code == 2
    assert done.err.splitlines()[0].startswith("rules.toml:7:8: rules.hot.task: expected a task")
    assert "found 3 problems" in done.last_error
    assert "importable" not in done.err


def test_check_tells_of_conditions_that_exclude_each_other(
    headrace: Call, app: Path, rules: Path
) -> None:
    """A rule that can never fire is found before the night in which it should have."""
    rules.write_text(RULES.replace('"degrees > 90"', '"degrees > 90 and degrees < 80"'))
    app.write_text(
        APP.replace('on("plant.>")', 'on("a").where(field("x") == 1).where(field("x") == 2)')
    )
    done = headrace("check", "app.py", "--rules", rules)

    assert done.code == 0
    assert done.err.splitlines() == [
        f"headrace: rule {rule!r}: no event fulfils both {one} and {other}; correct one of them, "
        f"or write | (or) between them"
        for rule, one, other in [
            ("seen", "field('x') == 1", "field('x') == 2"),
            ("hot", "field('degrees') > 90", "field('degrees') < 80"),
        ]
    ]


# ---------------------------------------------------------------- docs/rules-file.md


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the page lets its reader write."""
    for block in BLOCK.finditer(PAGE.read_text()):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
    return tmp_path


def test_the_example_of_the_page_can_be_typed_along(headrace: Call, folder: Path) -> None:
    """What the page shows is what comes, to the line and column."""
    page = PAGE.read_text()
    errors: list[str] = []
    for block in BLOCK.finditer(page):
        for example in block["text"].split("$ ")[1:] if block["kind"] == "console" else []:
            command, *shown = example.rstrip("\n").split("\n")
            done = headrace(*shlex.split(command)[1:])
            printed = [line for line in shown if not line.startswith(("= ", "! "))]

            assert done.code == (2 if "= 2" in shown else 0), done.err
            assert pattern_of(printed).fullmatch(done.out), (command, done.out)
            errors += done.err.splitlines() if done.code else []
    (listed,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)

    assert errors[:-1] == listed.splitlines()
    assert f"! {errors[-1]}" in page


def test_every_rule_of_the_page_can_be_loaded(folder: Path) -> None:
    """A snippet that is pasted into a file works there."""
    made = load(str(folder / "plant.py"))
    snippets = [
        block["text"] for block in BLOCK.finditer(PAGE.read_text()) if block["kind"] == "toml"
    ]
    good = [text for text in snippets if "witin" not in text]
    (folder / "all.toml").write_text("\n".join(good))

    assert isinstance(made, App)
    assert len(made.load_rules(folder / "all.toml")) == 10
