"""Rules from the command line: what is in force, and pausing it, with an engine and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from tests.cli.command import WAIT_S, Call, Done, Start, await_engine, records

from headrace import App, Run, on
from headrace.cli import door
from headrace.engine.log import FileLog
from headrace.engine.record import RulePaused

pytestmark = pytest.mark.slow

APP = """
from headrace import App, on

app = App("plant")

@app.rule(on("a.*").where(lambda e: e.data > 1))
async def each() -> None: ...

@app.rule(on("b"))
async def other() -> None: ...

@app.rule(on("rule.paused.*"))
async def told() -> None: ...
"""


@pytest.fixture
def empty(headrace: Call, tmp_path: Path) -> Path:
    """A log that an engine has opened and closed."""
    (tmp_path / "app.py").write_text(APP)
    assert run(headrace, "").code == 0
    return tmp_path / "plant.log"


def run(headrace: Call, lines: str, name: str = "lines.jsonl") -> Done:
    """Let an engine work until nothing is left to do."""
    Path(name).write_text(lines)
    return headrace("run", "app.py", "--log", "plant.log", "--from", name)


def rules(headrace: Call, log: Path) -> dict[str, dict[str, Any]]:
    done = headrace("rules", "list", log, "-o", "json")
    assert done.code == 0, done.err
    return {row["rule"]: row for row in done.json}


def outcomes(headrace: Call, log: Path, rule: str) -> list[str]:
    rows = headrace("log", "cat", log, "--kind", "rule.fired", "-o", "jsonl").jsonl
    return [row["outcome"] for row in rows if row["rule"] == rule]


# ---------------------------------------------------------------- without an engine


def test_the_list_says_what_became_of_each_rule(headrace: Call, empty: Path) -> None:
    """Whoever asks why nothing happens begins here; no app is needed for it."""
    run(headrace, '{"subject": "a.x", "data": 2}\n{"subject": "a.x"}\n{"subject": "a.x", "data":1}')
    found = rules(headrace, empty)

    assert list(found) == ["each", "other", "told"]
    each = found["each"]
    assert (each["state"], each["fired"], each["errors"], each["paused"]) == ("active", 1, 1, 0)
    assert each["last_fired_at"].endswith("Z")
    assert (found["other"]["fired"], found["other"]["last_fired_at"]) == (0, None)
    shown = headrace("rules", "list", empty).out.splitlines()
    assert shown[0].split()[:4] == ["rule", "state", "fired", "dropped"]
    assert shown[2].split()[:3] == ["each", "active", "1"]
    assert len(headrace("rules", "list", empty, "-o", "jsonl").jsonl) == 3


@pytest.mark.slow
def test_a_rule_stays_paused_over_a_restart(headrace: Call, empty: Path) -> None:
    """What is paused while nothing runs is paused when it starts, and until it is resumed."""
    done = headrace("rules", "pause", empty, "each", "--reason", "the fan is in repair")
    assert (done.code, "no engine runs" in done.err) == (0, True)
    (paused,) = [x for x in records(empty) if isinstance(x, RulePaused)]
    assert records(empty)[int(done.out) - 1] == paused
    assert (paused.rule, paused.paused, paused.reason) == ("each", True, "the fan is in repair")
    assert rules(headrace, empty)["each"]["state"] == "paused"

    done = run(headrace, '{"subject": "a.x", "data": 2}\n{"subject": "b"}\n')
    assert done.code == 0
    assert "warning" not in done.err
    found = rules(headrace, empty)
    assert (found["each"]["state"], found["each"]["paused"]) == ("paused", 1)
    assert found["other"]["state"] == "active"
    assert found["told"]["fired"] == 1  # a rule can tell of it
    assert outcomes(headrace, empty, "each") == ["paused"]
    assert headrace("replay", "app.py", empty, "--strict").code == 0

    assert headrace("rules", "resume", empty, "each").code == 0
    run(headrace, '{"subject": "a.y", "data": 2}\n', "more.jsonl")
    assert outcomes(headrace, empty, "each") == ["paused", "run"]
    assert rules(headrace, empty)["each"]["state"] == "active"


@pytest.mark.slow
def test_the_state_shows_it_too(headrace: Call, empty: Path) -> None:
    """`state` has the app, and so what is counted and not recorded."""
    headrace("rules", "pause", empty, "each")
    document = headrace("state", "app.py", empty, "-o", "json").json

    assert {rule["rule"]: rule["paused"] for rule in document["rules"]} == {
        "each": True,
        "other": False,
        "told": False,
    }
    assert document["alarms"] == 0
    assert {"missed", "late", "suppressed"} <= document["rules"][0].keys()
    assert "paused" in headrace("state", "app.py", empty).out


def test_what_is_so_already_is_not_recorded(headrace: Call, empty: Path) -> None:
    """A script can pause a rule again and again, and its log does not grow."""
    before = len(records(empty))
    done = headrace("rules", "resume", empty, "each", "-o", "json")
    assert (done.code, done.err) == (0, "")
    assert done.json == {
        "log": str(empty),
        "rule": "each",
        "paused": False,
        "sequence": None,
        "state": "unchanged",
    }
    assert headrace("rules", "resume", empty, "each").out == "rule each was not paused\n"
    assert len(records(empty)) == before
    done = headrace("rules", "pause", empty, "each", "-o", "json")
    assert (done.json["sequence"], done.json["state"]) == (before + 1, "offered")
    assert headrace("rules", "pause", empty, "each").out == "rule each was paused\n"
    assert len(records(empty)) == before + 1


def test_a_log_without_rules(headrace: Call, empty: Path, tmp_path: Path) -> None:
    """A log that no engine has opened yet has none in force, whatever the app declares."""
    assert headrace("emit", empty, "a.x").code == 0
    log = FileLog(tmp_path / "new.log")
    log.open(lambda: None)
    log.close()

    assert headrace("rules", "list", "new.log").out == "no rules\n"
    assert headrace("rules", "list", "new.log", "-o", "json").json == []
    done = headrace("rules", "pause", "new.log", "each")
    said = "expected a rule that is in force, found 'each'; there is none"
    assert (done.code, done.last_error) == (4, said)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pause", "plant.log", "nix"], 4, "found 'nix'; there are each, other, told"),
        (["resume", "plant.log", "nix"], 4, "expected a rule that is in force"),
        (["pause", "plant.log", "each", "--reason", "\udcff"], 1, "cannot be stored"),
        (["pause", "plant.log"], 2, "headrace rules pause --help"),
        (["pause", "nothing.log", "each"], 4, "expected an event log, found nothing there"),
        (["resume", "app.py", "each"], 4, "expected an event log, found a file"),
        (["list", "nothing.log"], 4, "expected an event log, found nothing there"),
        (["nix"], 2, "headrace rules --help"),
    ],
    ids=repr,
)
def test_what_cannot_be_done_is_one_line(
    headrace: Call, empty: Path, arguments: list[str], code: int, said: str
) -> None:
    """What was expected, what was found; the log is as it was."""
    before = len(records(empty))
    done = headrace("rules", *arguments)

    assert (done.code, len(done.err.splitlines())) == (code, 1)
    assert said in done.last_error
    assert len(records(empty)) == before


def test_somebody_holds_the_log_and_does_not_answer(
    headrace: Call, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5 says to a script: try again later."""
    monkeypatch.setattr(door, "PATIENCE_S", 0.1)
    holder = FileLog(empty)
    holder.open(lambda: None)
    try:
        for command in ("pause", "resume"):
            done = headrace("rules", command, empty, "each")
            assert (done.code, "an engine has to answer" in done.last_error) == (5, True)
    finally:
        holder.close()
    assert headrace("rules", "list", empty).code == 0


# ---------------------------------------------------------------- beside an engine


@pytest.mark.slow
def test_a_running_engine_pauses_at_once(headrace: Call, start: Start, empty: Path) -> None:
    """From another terminal: stop a rule that goes wild, look, and let it go on."""
    process = start("run", "app.py", "--log", "plant.log", "--grace", "0")
    await_engine(empty)
    done = headrace("rules", "pause", empty, "each", "--reason", "wild", "-o", "json")
    assert (done.code, done.json["state"], done.err) == (0, "stored", "")
    assert isinstance(records(empty)[done.json["sequence"] - 1], RulePaused)
    assert headrace("rules", "pause", empty, "each").out == "rule each was paused\n"
    assert headrace("emit", empty, "a.x", "2").code == 0
    assert rules(headrace, empty)["each"]["state"] == "paused"
    assert headrace("rules", "resume", empty, "each").code == 0
    assert headrace("emit", empty, "a.x", "2").code == 0
    for arguments, code in (
        (["pause", empty, "nix"], 4),
        (["pause", empty, "each", "--reason", "\udcff"], 1),
    ):
        assert headrace("rules", *arguments).code == code
    process.terminate()
    process.communicate(timeout=WAIT_S)

    assert outcomes(headrace, empty, "each") == ["paused", "run"]
    assert headrace("replay", "app.py", empty, "--strict").code == 0


async def test_a_rule_that_was_changed_meanwhile(headrace: Call, tmp_path: Path) -> None:
    """Which rules are not those of the app is seen, and from which record on."""
    app, log = App("plant"), tmp_path / "x.log"

    async def new(run: Run) -> None: ...

    app.rule(on("a"), name="old")(new)
    beside = to_thread.run_sync
    async with app.open(log) as engine:
        added = await engine.add_rule(on("b"), new)
        found = await beside(lambda: rules(headrace, log))
        assert {name: row["state"] for name, row in found.items()} == {
            "new": "changed",
            "old": "active",
        }
        assert found["new"]["changed_at"] == added
        await engine.pause("new")
        found = await beside(lambda: rules(headrace, log))
        assert (found["new"]["state"], found["new"]["changed_at"]) == ("paused", added)
        await engine.remove_rule("old")
        assert list(await beside(lambda: rules(headrace, log))) == ["new"]
    async with app.open(log):
        pass
    found = rules(headrace, log)
    assert [(row["rule"], row["state"]) for row in found.values()] == [("old", "active")]
