"""``--config headrace.toml``: an app without Python for its wiring, or without Python at all."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from tests.cli.command import Call, Start
from tests.connectors import package

pytestmark = pytest.mark.slow

CONFIG = """
[run]
log = "mill.log"

[sources.line]
type = "mill"
url = "${MILL_URL}"
topics = ["alert.t1", "other.t2", "alert.*"]

[sinks.notes]
type = "mill-sink"
path = "notes.txt"

[[forward]]
on = "alert.>"
sink = "notes"
"""
RULES = """
[rules.refused]
subject = "source.refused.>"
task = "forward-notes"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a rules file; the connectors that they name are there."""
    package.install(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("MILL_URL", "mill://u:geheim@here")
    (tmp_path / "headrace.toml").write_text(CONFIG)
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path


@pytest.fixture
def here(headrace: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command in this process."""
    monkeypatch.syspath_prepend(folder / "packages")
    return headrace


def test_a_file_is_enough_to_run(here: Call, folder: Path) -> None:
    """It ends when its sources have, and all that follows is done."""
    done = here("run", "--config", "headrace.toml", "--rules", "rules.toml", "-o", "json")

    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["firings"] == {"forward_notes": 1, "refused": 1}
    assert summary["runs"] == {"completed": 4}  # each with the step that sends
    assert summary["sources"] == [
        {
            "source": "line",
            "state": "ended",
            "stored": 3,
            "refused": 1,
            "duplicates": 0,
            "connections": 1,
            "error": "",
        }
    ]
    lines = sorted((folder / "notes.txt").read_text().splitlines())
    assert lines[0] == "alert.t1 {'n': 0}"
    assert lines[1].startswith("source.refused.line ")
    again = here("run", "--config", "headrace.toml")
    assert "source        line: 0 stored, 1 of them refused, 3 came again; ended\n" in again.out
    assert "geheim" not in done.out + done.err + again.out + again.err
    log = b"".join(path.read_bytes() for path in (folder / "mill.log").glob("*") if path.is_file())
    assert b"geheim" not in log


def test_a_file_names_the_app_and_its_rules(here: Call, plant: Path, folder: Path) -> None:
    """What the command says wins over it."""
    text = CONFIG.replace("[run]", '[run]\napp = "plant.py:app"\nrules = "rules.toml"')
    (folder / "headrace.toml").write_text(text)
    document = json.loads(here("check", "--config", "headrace.toml", "-o", "json").out)
    assert document["app"] == "plant"
    rules = [rule["rule"] for rule in document["rules"]]
    assert rules[-2:] == ["forward_notes", "refused"]
    assert document["sources"] == [
        {"source": "line", "type": "Mill", "promise": "exactly once"},
    ]
    assert document["sinks"] == [
        {
            "sink": "notes",
            "type": "MillSink",
            "retry": "1 attempt on SinkRefused; 12 attempts on Exception",
        },
    ]
    shown = here("check", "--config", "headrace.toml").out
    assert "exactly once" in shown
    (folder / "other.toml").write_text("[rules]")
    other = here("run", "--config", "headrace.toml", "--log", "b.log", "--rules", "other.toml")
    assert other.code == 0, other.err
    assert (folder / "b.log").is_dir()
    assert not (folder / "mill.log").exists()
    assert "refused" not in other.out.partition("firings")[2].partition("\n")[0]


def test_what_is_wrong_in_the_file_is_said_line_by_line(here: Call, folder: Path) -> None:
    """As of a rules file, and nothing is run."""
    (folder / "headrace.toml").write_text(CONFIG.replace("topics", "topic").replace("path", "pat"))
    done = here("run", "--config", "headrace.toml")
    assert done.code == 2
    unknown = "expected a known key, found"
    assert done.err.splitlines() == [
        f"headrace.toml:8:1: sources.line.topic: {unknown} 'topic'; did you mean 'topics'?",
        f"headrace.toml:12:1: sinks.notes.pat: {unknown} 'pat'; did you mean 'path'?",
        f"headrace: {done.last_error}",
    ]
    assert done.last_error.endswith("that can be used, found 2 problems; correct them")
    assert not (folder / "mill.log").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["run"], 2, "APP: expected module:attribute or plant.py:app, found none; name one, or gi"),
        (["check"], 2, "APP: expected module:attribute or plant.py:app, found none"),
        (["run", "--config", "no.toml"], 2, "no.toml: expected a TOML file, found nothing there"),
        (["run", "--config", "rules.toml"], 2, "rules.toml:2:2: rules: expected run, sources, si"),
        (["run", "plant.py"], 2, "run: expected --log DIR, or --config, found neither"),
        (
            ["run", "plant.py", "--config", "empty.toml"],
            2,
            "run: expected --log DIR, or log in the table [run] of empty.toml, found neither",
        ),
        (["run", "no.py", "--config", "headrace.toml"], 4, "no.py: expected a Python file"),
    ],
)
def test_what_is_missing_is_said(
    here: Call, plant: Path, folder: Path, arguments: list[str], code: int, error: str
) -> None:
    """In one line that says what would do."""
    (folder / "empty.toml").write_text("[run]\n")
    done = here(*arguments)
    assert done.code == code
    assert done.last_error.startswith(error), done.err


def test_source_that_cannot_work_ends_the_run(
    here: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it says, in one line."""
    monkeypatch.setenv("MILL_URL", "gone://here")
    done = here("run", "--config", "headrace.toml")
    assert done.code == 1
    assert done.last_error == "line: expected a mill, found none; build one"


def test_what_a_file_made_can_be_looked_at(
    here: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is an app for all commands; to look back they need neither secrets nor libraries."""
    (folder / "headrace.toml").write_text(CONFIG.replace("[run]", '[run]\nrules = "rules.toml"'))
    assert here("run", "headrace.toml").code == 0
    monkeypatch.delenv("MILL_URL")
    (folder / "packages" / "mill_connectors.py").write_text("import no_such_library")
    for command in (
        ("replay", "headrace.toml", "mill.log"),
        ("state", "headrace.toml", "mill.log"),
        ("whatif", "headrace.toml", "mill.log"),
    ):
        done = here(*command)
        assert done.code == 0, done.err
    fires = here("why", "headrace.toml", "mill.log", "forward_notes", "-o", "json")
    assert fires.code == 0, fires.err
    both = here("run", "headrace.toml", "--config", "headrace.toml")
    assert both.code == 2
    assert "expected an app beside --config, found another configuration" in both.last_error


@pytest.mark.slow
def test_server_that_is_gone_is_waited_for_and_named(start: Start, folder: Path) -> None:
    """Until a signal; then the summary says what was the matter, without the password."""
    text = (
        '[sources.jobs]\ntype = "redis-stream"\nurl = "redis://:geheim@127.0.0.1:1"\nstream = "a"'
    )
    (folder / "headrace.toml").write_text(text)
    process = start("run", "headrace.toml", "--log", "a.log", "--log-format", "json")
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "source_lost" in line:
            break
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"source +jobs: 0 stored; lost: .*127\.0\.0\.1:1", out)
    assert "geheim" not in out + said + rest


@pytest.mark.slow
def test_source_without_an_end_runs_until_a_signal(start: Start, folder: Path) -> None:
    """What it brought is done, and the summary says how it was."""
    code = package.MILL.replace(
        "await intake.put(events)",
        "await intake.put(events)\n        await __import__('anyio').sleep_forever()",
    )
    (folder / "packages" / "mill_connectors.py").write_text(code)
    process = start("run", "--config", "headrace.toml", "-o", "json", "--log-format", "json")
    deadline = time.monotonic() + 30
    while not (folder / "notes.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    summary = json.loads(out)
    assert (summary["sources"][0]["stored"], summary["sources"][0]["state"]) == (3, "connected")
